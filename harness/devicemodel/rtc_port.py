"""Follows a guest's RTC ports in QEMU's trace: index and data writes into a vRTC, resets in their order."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from harness.qemu.trace import PortWrite, port_write

_RESET = re.compile(rb"resettable_reset obj=(0x[0-9a-f]+)")
_RUNNING = b"(running)"

RESET_CONTROL = 0xCF9
_RESET_CPU = 0x04
_FULL_RESET = 0x08


class Vrtc(Protocol):
    """What the port writes to."""

    def write(self, index: int, value: int) -> bool:
        """Write one register."""


class RtcPort:
    """Feeds trace lines to a vRTC.

    on_reset: called for each reset of the machine, with True where the guest asked for a full one (bit 3 of
    port 0xCF9, as ACRN tells the two apart).

    QEMU traces the reset of every device tree it resets by itself; the machine's own is the one that was
    last before the machine first ran.
    """

    def __init__(self, vrtc: Vrtc, on_reset: Callable[[bool], object]) -> None:
        self._vrtc = vrtc
        self._on_reset = on_reset
        self._index = 0x0D
        self._machine: bytes | None = None
        self._ran = False
        self._full = False

    def feed(self, line: bytes) -> None:
        """Take one trace line, without QEMU's prefix or with it."""
        if b"memory_region_ops_write" in line:
            write = port_write(line)
            if write is not None:
                self._written(write)
        elif reset := _RESET.search(line):
            self._reset(reset[1])
        elif b"runstate_set" in line and line.rstrip().endswith(_RUNNING):
            self._ran = True

    def _written(self, write: PortWrite) -> None:
        if write.region == "rtc-index" and write.size == 1:
            self._index = write.value & 0x7F
        elif write.region == "rtc" and write.size == 1:
            self._vrtc.write(self._index, write.value & 0xFF)
        elif write.address == RESET_CONTROL and write.value & _RESET_CPU:
            self._full = bool(write.value & _FULL_RESET)

    def _reset(self, tree: bytes) -> None:
        if not self._ran:
            self._machine = tree
        elif tree == self._machine:
            full, self._full = self._full, False
            self._index = 0x0D
            self._on_reset(full)
