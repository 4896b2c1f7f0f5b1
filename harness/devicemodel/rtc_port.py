"""Follows a guest's RTC ports in QEMU's trace: index and data writes into a vRTC, resets in their order."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from harness.qemu.trace import PortAccess, port_access

_RESET = re.compile(rb"resettable_reset obj=(0x[0-9a-f]+)")
_RUNNING = b"(running)"

INDEX_PORT, DATA_PORT = 0x70, 0x71
_RTC_REGIONS = frozenset({"rtc", "rtc-index"})

RESET_CONTROL = 0xCF9
_RESET_CPU = 0x04
_FULL_RESET = 0x08
RESET_INDEX = 0x0D
"""What a reset leaves in the index register of the device model's vRTC."""


class Vrtc(Protocol):
    """What the port's accesses go to."""

    def write(self, index: int, value: int) -> object:
        """Write one register."""

    def read(self, index: int) -> object:
        """Read one register; what it gives is nobody's business here."""


class RtcPort:
    """Feeds trace lines to a vRTC.

    on_reset: called for each reset of the machine, with True where the guest asked for a full one (bit 3 of
    port 0xCF9, as ACRN tells the two apart).
    index: what the index register holds at the start. index_at_reset: what a reset of the machine puts there;
    None: it stays, as in ACRN's hypervisor.

    QEMU traces the reset of every device tree it resets by itself, and of every processor; the machine's own is
    the one that was last before the machine first ran (docs/run-directory.md says what this was measured on).
    """

    def __init__(
        self,
        vrtc: Vrtc,
        on_reset: Callable[[bool], object],
        *,
        index: int = RESET_INDEX,
        index_at_reset: int | None = RESET_INDEX,
    ) -> None:
        self._vrtc = vrtc
        self._on_reset = on_reset
        self._index = index
        self._index_at_reset = index_at_reset
        self._machine: bytes | None = None
        self._ran = False
        self._full = False

    def feed(self, line: bytes) -> None:
        """Take one trace line, without QEMU's prefix or with it."""
        if b"memory_region_ops_" in line:
            access = port_access(line)
            if access is not None:
                self._accessed(access)
        elif reset := _RESET.search(line):
            self._reset(reset[1])
        elif b"runstate_set" in line and line.rstrip().endswith(_RUNNING):
            self._ran = True

    def _accessed(self, access: PortAccess) -> None:
        if access.region in _RTC_REGIONS:
            # By its address: the second byte of a 16-bit access to 0x70 is data, in the region of the index.
            if access.size == 1 and access.address == DATA_PORT:
                if access.is_read:
                    self._vrtc.read(self._index)
                else:
                    self._vrtc.write(self._index, access.value & 0xFF)
            elif access.size == 1 and access.address == INDEX_PORT and not access.is_read:
                self._index = access.value & 0x7F
        elif access.address == RESET_CONTROL and not access.is_read and access.value & _RESET_CPU:
            self._full = bool(access.value & _FULL_RESET)

    def _reset(self, tree: bytes) -> None:
        if not self._ran:
            self._machine = tree
        elif tree == self._machine:
            full, self._full = self._full, False
            if self._index_at_reset is not None:
                self._index = self._index_at_reset
            self._on_reset(full)
