"""The judge's own model of the hypervisor's vRTC: register accesses in, announced changes out.

Written from ACRN.md ("The hypervisor's vRTC", "Special cases"); the product's model is another one on purpose.
"""

from __future__ import annotations

from harness.judge import dates
from harness.judge.dates import SECOND_NS
from harness.judge.outcomes import BROKEN, Announced, Moved, Outcome

REGISTER_A, REGISTER_B, REGISTER_C, REGISTER_D = 0x0A, 0x0B, 0x0C, 0x0D
ALARMS = (0x01, 0x03, 0x05)
LAST_READABLE = dates.CENTURY
BYTES = 0x38
"""So many bytes the hypervisor keeps. What is written beyond them has no effect on this RTC."""
NO_BYTE = 0xFF
"""What a guest reads where nothing answers."""
LAST_YEAR = 2037


class HvClock:
    """The bytes and the clock. They are two things: a write moves the clock to what the bytes say, and only a
    read brings the bytes up to what the clock says. Stamps are monotonic nanoseconds.
    """

    def __init__(self, rtc_time: int, start_ns: int, offset_s: int = 0) -> None:
        """The VM is created: the bytes show `rtc_time` (the physical RTC's; an invalid one is negative), and
        the clock that time, moved by what a former VM in the same place has moved its own.
        """
        self._bytes = bytearray(BYTES)
        self._bytes[REGISTER_A], self._bytes[REGISTER_B] = 0x26, dates.HOURS_24
        self._bytes[REGISTER_D] = 0x80
        if rtc_time >= 0:
            dates.encode(rtc_time, self._bytes, dates.HOURS_24)
        self._bytes[dates.DAY_OF_WEEK] = 0  # which is not taken over
        self._base, self._start_ns, self._offset = self._shown(), start_ns, offset_s
        self._last_told = BROKEN

    def time(self, stamp_ns: int) -> int:
        """What the clock tells at that moment, in seconds since 1970; once told, it tells nothing less until it
        is moved. BROKEN for ever where the physical RTC was invalid or at the epoch when the VM was created.
        """
        if self._base <= 0:
            return BROKEN
        ticked = _signed32(self._base + self._offset + (stamp_ns - self._start_ns) // SECOND_NS)
        self._last_told = max(ticked, self._last_told)
        return self._last_told

    def read(self, index: int, stamp_ns: int) -> int:
        """The byte a guest gets (but for the flags in C, on which nothing depends)."""
        if index > LAST_READABLE:
            return NO_BYTE
        time = self.time(stamp_ns)
        if time > 0 and dates.days_to_civil(time // 86_400)[0] <= LAST_YEAR:
            dates.encode(time, self._bytes, self._bytes[REGISTER_B])
        return self._bytes[index]

    def write(self, index: int, value: int, stamp_ns: int) -> Outcome:
        """A write to the data port; whether SET is 1 makes no difference."""
        if index in (REGISTER_A, REGISTER_C, REGISTER_D) or index >= BYTES:
            return None
        self._bytes[index] = value & 0x7F if index in (dates.SECOND, *ALARMS) else value
        if index == REGISTER_B or index in ALARMS:
            return None
        before, after = self.time(stamp_ns), self._shown()
        self._offset = _signed32(self._offset + after - before)
        self._last_told = BROKEN
        return Announced(before, after) if index in dates.DATE_TIME else Moved(after - before)

    def _shown(self) -> int:
        """The time that the bytes show, in the format that B now has; BROKEN for what is no date."""
        time = dates.decode(self._bytes, self._bytes[REGISTER_B], last_year_byte=0xFF, last_year=LAST_YEAR)
        return BROKEN if time is None else time

    # -- the same clock in several possible worlds (worlds.py) ------------------------------------------------

    @property
    def ticks(self) -> bool:
        """Whether time passes for it: never, where it began with no date."""
        return self._base > 0

    def copy(self) -> HvClock:
        """One that goes its own way from here."""
        twin = object.__new__(HvClock)
        twin._bytes = bytearray(self._bytes)
        twin._base, twin._start_ns, twin._offset = self._base, self._start_ns, self._offset
        twin._last_told = BROKEN
        return twin

    def set_format(self, register_b: int, time: int) -> None:
        """What a guest found in B, and the date as its reads left it."""
        self._bytes[REGISTER_B] = register_b
        if time >= 0:
            dates.encode(time, self._bytes, register_b)

    def counted_from(self, second: int) -> None:
        """Let seconds be counted from that one on."""
        self._offset = _signed32(self._offset + second)
        self._last_told = BROKEN

    def state(self) -> tuple[object, ...]:
        """All that decides what it will do."""
        return bytes(self._bytes), self._base + self._offset if self.ticks else BROKEN


def _signed32(number: int) -> int:
    """The hypervisor counts seconds in 32 bits."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)
