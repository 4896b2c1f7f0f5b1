"""The virtual RTC of ACRN's hypervisor: what real-time VMs write to."""

from __future__ import annotations

import calendar
import time as clocks
from collections.abc import Callable

from harness.vm_event import RtcChange
from harness.vrtc import registers as r

INVALID = -1
"""The time that an invalid date stands for, and the only one a clock shows that never runs."""

LAST_YEAR = 2037
"""The last year whose every second fits the hypervisor's 32-bit time."""

_LAST_SHOWN = calendar.timegm((LAST_YEAR, 12, 31, 23, 59, 59))
_RATE_1024_HZ = 0x06
_ALARMS = frozenset({r.ALARM_SECOND, r.ALARM_MINUTE, r.ALARM_HOUR})
_READ_ONLY = frozenset({r.REGISTER_A, r.REGISTER_C, r.REGISTER_D})
_SIZE = 128
_STRUCTURE_END = 0x38
"""ACRN's structure ends at the century, and with its padding here; what lies beyond is not the RTC's."""

_ALARM_TOLERANCE = 1
"""Seconds between the date and the alarm that ACRN takes for the clocks being out of step."""


class HvVrtc:
    """ACRN's hypervisor RTC, register for register (hypervisor, dm/vrtc.c; ACRN.md).

    send: called at once with each raw event, in the thread that writes.
    time: what the physical RTC shows at the creation, seconds since 1970 UTC: the base of the clock. The
    registers begin with its bytes, 24 h BCD. A base that is no valid date or not after 1970-01-01 00:00:00
    makes a clock that never runs: it shows -1 for ever, and every event starts from there.
    monotonic: the clock it ticks by, `per_second` units a second (10**9: integer nanoseconds, exact). It
    ticks where whole seconds have passed since the creation.
    offset: seconds the clock is ahead of the base, as a VM created again in the same slot inherits it. The
    registers do not show it before the first read.
    Not thread-safe: one caller. ACRN also rebases the clock on the physical RTC every 3 hours; there is none
    here that could drift away from `monotonic`.

    There is no halted mode: whatever SET says, each write to a date register is an event. Its "after" is what
    the register bytes say, and only a read brings these up to date. Indices from 0x38 on lie beyond ACRN's
    structure: where its hypervisor would overwrite other state of the VM (and move the clock), this model
    keeps the bytes to itself and lets the clock be.
    """

    def __init__(
        self,
        send: Callable[[RtcChange], object],
        time: int,
        monotonic: Callable[[], float] = clocks.monotonic,
        *,
        per_second: int = 1,
        offset: int = 0,
    ) -> None:
        self._send = send
        self._monotonic = monotonic
        self._per_second = per_second
        self._created = monotonic()
        self._bytes = bytearray(_SIZE)
        self._bytes[r.REGISTER_A] = r.A_DIVIDER_RUNNING | _RATE_1024_HZ
        self._bytes[r.REGISTER_B] = r.B_24_HOUR
        self._bytes[r.REGISTER_D] = r.D_POWER
        if time >= 0:
            self._show(time)
            self._bytes[r.DAY_OF_WEEK] = 0  # ACRN does not take it over
        self._base = self._written()
        self._offset = _int32(offset)
        self._last = INVALID

    @property
    def offset(self) -> int:
        """Seconds by which the guest has moved its clock, those of its predecessor in the slot included."""
        return self._offset

    @property
    def time(self) -> int:
        """What the clock shows now, seconds since 1970 UTC: -1 and on from there after an invalid date."""
        if self._base <= 0:
            return INVALID
        elapsed = int((self._monotonic() - self._created) // self._per_second)
        return max(_int32(self._base + self._offset + elapsed), self._last)

    def read(self, index: int) -> int:
        """The byte of register `index` (0 to 127); 0xff above the century, where ACRN has nothing to read.

        Brings the date registers up to date first.
        Raises ValueError for an index that no port access could carry.
        """
        if not 0 <= index < _SIZE:
            raise ValueError(f"no CMOS register {index:#x}")
        if index > r.CENTURY:
            return 0xFF
        shown = self._last = self.time
        if 0 < shown <= _LAST_SHOWN:
            self._show(shown)
        if index == r.REGISTER_C and self._near_alarm():
            return r.C_INTERRUPT | r.C_ALARM  # no other flag is ever set
        return self._bytes[index]

    def write(self, index: int, value: int) -> bool:
        """Write one register; True always, as ACRN's model has no write that fails.

        Raises ValueError for an index or a value that no port access could carry.
        """
        if not 0 <= index < _SIZE or not 0 <= value <= 0xFF:
            raise ValueError(f"no CMOS write of {value:#x} to {index:#x}")
        if index in _READ_ONLY:
            return True
        self._bytes[index] = value & 0x7F if index in _ALARMS or index == r.SECOND else value
        if index != r.REGISTER_B and index not in _ALARMS and index < _STRUCTURE_END:
            self._move(announce=index in r.TIME_REGISTERS)
        return True

    def _move(self, *, announce: bool) -> None:
        """The clock goes to what the bytes say: announced, or silently (day of week, NVRAM)."""
        before = self.time
        delta = _int32(self._written() - before)
        self._offset = _int32(self._offset + delta)
        self._last = INVALID
        if announce:
            self._send(RtcChange(before, delta))

    def _written(self) -> int:
        after = r.decode_date(self._bytes, self._bytes[r.REGISTER_B], last_year=LAST_YEAR, last_year_byte=0xFF)
        return INVALID if after is None else after

    def _show(self, shown: int) -> None:
        for index, byte in r.encode_date(shown, self._bytes[r.REGISTER_B]).items():
            self._bytes[index] = byte

    def _near_alarm(self) -> bool:
        """Whether the alarm is enabled and its bytes are those of the time, taken as numbers as they stand."""
        if not self._bytes[r.REGISTER_B] & r.B_ALARM:
            return False
        now = self._bytes[r.HOUR] * 3600 + self._bytes[r.MINUTE] * 60 + self._bytes[r.SECOND]
        alarm = self._bytes[r.ALARM_HOUR] * 3600 + self._bytes[r.ALARM_MINUTE] * 60 + self._bytes[r.ALARM_SECOND]
        return abs(now - alarm) <= _ALARM_TOLERANCE


def _int32(number: int) -> int:
    """What is left of a number in the hypervisor's 32-bit signed time."""
    return (number + 2**31) % 2**32 - 2**31
