"""The virtual RTC of ACRN's device model: what standard post-launched VMs write to."""

from __future__ import annotations

import math
import time as clocks
from collections.abc import Callable

from harness.vm_event import RtcChange
from harness.vrtc import registers as r
from harness.vrtc.alarm import alarm_within

BROKEN = -1
"""ACRN's mark for a clock that stands: the guest left an invalid date, or holds the clock halted."""

_SIZE = 128
_SECOND = 10**9
_PERIODS = (0, _SECOND // 256, _SECOND // 128, *(_SECOND // (8192 >> n) for n in range(13)))
"""Nanoseconds between periodic interrupts by the rate bits of register A (MC146818 data sheet, 32.768 kHz)."""


class DmVrtc:
    """ACRN's device-model RTC, register for register (acrn-dm, hw/platform/rtc.c; ACRN.md).

    send: called at once with each raw event, in the thread that writes.
    time: what the clock shows at the start, seconds since 1970 UTC.
    monotonic: the clock it ticks by, `per_second` units a second (10**9: integer nanoseconds, exact); it
    ticks where that clock passes a whole second, so whoever knows the stamp of a write knows what the RTC
    showed. Not thread-safe: one writer.

    Where ACRN's model would loop for ever (alarm enabled, clock set backwards) this one answers at once.
    """

    def __init__(
        self,
        send: Callable[[RtcChange], object],
        time: int,
        monotonic: Callable[[], float] = clocks.monotonic,
        *,
        per_second: int = 1,
    ) -> None:
        self._send = send
        self._monotonic = monotonic
        self._per_second = per_second
        self.reset(time)

    def reset(self, time: int) -> None:
        """Begin anew, silently, as on a system reset: registers at their start values, clock at `time`."""
        self._bytes = bytearray(_SIZE)
        self._bytes[r.REGISTER_A] = r.A_DIVIDER_RUNNING
        self._bytes[r.REGISTER_B] = r.B_24_HOUR
        self._bytes[r.REGISTER_D] = r.D_POWER
        self._time = time
        self._ticked_at = self._now()
        self._halted_at = BROKEN
        self._period: float = 0
        self._period_ends = math.inf
        self._show(time)

    @property
    def time(self) -> int | None:
        """What the clock shows now, seconds since 1970 UTC; None while it is halted or broken."""
        now = self._current()[0]
        return None if now == BROKEN else now

    @property
    def halted(self) -> bool:
        """Whether the guest holds the clock by the SET bit of register B."""
        return bool(self._register_b & r.B_SET)

    def read(self, index: int) -> int:
        """The byte of register `index` (0 to 127); reading register C clears it."""
        if not 0 <= index < _SIZE:
            raise ValueError(f"no CMOS register {index:#x}")
        self._catch_up(index)
        value = self._bytes[index]
        if index == r.REGISTER_C:
            self._set_flags(0)
        return value

    def write(self, index: int, value: int) -> bool:
        """Write one register; False where ACRN's model returns an error (an invalid date is left behind).

        Raises ValueError for an index or a value that no port access could carry.
        """
        if not 0 <= index < _SIZE or not 0 <= value <= 0xFF:
            raise ValueError(f"no CMOS write of {value:#x} to {index:#x}")
        before = self._catch_up(index)
        if index == r.REGISTER_A:
            self._write_a(value)
            return True
        if index == r.REGISTER_B:
            return self._write_b(value)
        if index in {r.REGISTER_C, r.REGISTER_D}:
            return True
        self._bytes[index] = value & 0x7F if index == r.SECOND else value
        if index in r.TIME_REGISTERS and not self.halted:
            return self._recompute(before)
        return True

    # -- the clock ---------------------------------------------------------------------------------------

    @property
    def _register_b(self) -> int:
        return self._bytes[r.REGISTER_B]

    @property
    def _divider_runs(self) -> bool:
        return self._bytes[r.REGISTER_A] & r.A_DIVIDER == r.A_DIVIDER_RUNNING

    def _now(self) -> int:
        return int(self._monotonic() // self._per_second)

    def _current(self) -> tuple[int, int]:
        """The time shown and the whole second of `monotonic` that it belongs to."""
        if self._time == BROKEN or self.halted or not self._divider_runs:
            return self._time, self._ticked_at
        now = self._now()
        return self._time + now - self._ticked_at, now

    def _catch_up(self, index: int) -> int:
        """Let the clock tick up to now, as every access does; returns the time shown (BROKEN: stands)."""
        if self._monotonic() >= self._period_ends:
            self._end_period()
        shown, second = self._current()
        self._move_to(shown, second)
        if index < r.REGISTER_A or index == r.CENTURY:
            self._show(shown)
        return shown

    def _show(self, shown: int, *, force: bool = False) -> None:
        """Put the time into the date bytes, unless the guest owns them (halted) or they are invalid."""
        if shown != BROKEN and (force or not self.halted):
            for index, byte in r.encode_date(shown, self._register_b).items():
                self._bytes[index] = byte

    def _move_to(self, new: int, second: int) -> None:
        """The clock shows `new` from now on; flags in register C follow as on ACRN."""
        old, self._time, self._ticked_at = self._time, new, second
        if new in {old, BROKEN}:
            return
        first = old + 1 if old != BROKEN and old < new else new
        if self._register_b & r.B_ALARM and alarm_within(self._bytes, first, new):
            self._set_flags(self._bytes[r.REGISTER_C] | r.C_ALARM)
        if self._register_b & r.B_UPDATE:
            self._set_flags(self._bytes[r.REGISTER_C] | r.C_UPDATE)

    def _recompute(self, before: int) -> bool:
        """The clock runs and a date register was written: the whole date counts at once."""
        after = r.decode_date(self._bytes, self._register_b)
        self._move_to(BROKEN if after is None else after, self._now())
        if after is None:
            return False
        self._send(RtcChange(before, after - before))
        return True

    # -- control registers -------------------------------------------------------------------------------

    def _write_a(self, value: int) -> None:
        ran = self._divider_runs
        old_interval = self._interval
        self._bytes[r.REGISTER_A] = value & ~r.A_UPDATE_IN_PROGRESS
        if self._divider_runs and not ran:
            self._ticked_at = self._now()  # the time stood while the divider was held
        self._begin_period(old_interval)

    def _write_b(self, value: int) -> bool:
        old = self._register_b
        old_interval = self._interval
        if value & r.B_SET and not old & r.B_SET:
            self._halted_at = self._time
            self._bytes[r.REGISTER_B] = value
            self._show(self._time, force=True)  # in the format that comes with the halt
            self._bytes[r.REGISTER_B] = value & ~r.B_UPDATE
            self._move_to(BROKEN, self._ticked_at)
        elif old & r.B_SET and not value & r.B_SET:
            self._bytes[r.REGISTER_B] = value
            if not self._unhalt():
                return False
        else:
            self._bytes[r.REGISTER_B] = value
        if (old ^ value) & r.B_INTERRUPTS:
            self._set_flags(self._bytes[r.REGISTER_C])
        self._begin_period(old_interval)
        return True

    def _unhalt(self) -> bool:
        after = r.decode_date(self._bytes, self._register_b)
        if after is None:
            return False
        self._move_to(after, self._now())
        # A clock that was broken when it was halted leaves nothing to compare with, and ACRN says nothing:
        # the defect "broken-unhalt". The raw stream is the given, so the model keeps it.
        if self._halted_at not in {BROKEN, after}:
            self._send(RtcChange(self._halted_at, after - self._halted_at))
        return True

    # -- interrupt flags ---------------------------------------------------------------------------------

    @property
    def _interval(self) -> int:
        """Nanoseconds between two interrupts, as registers A and B ask for them; 0: none."""
        register_b = self._register_b
        if register_b & r.B_PERIODIC and self._divider_runs:
            return _PERIODS[self._bytes[r.REGISTER_A] & 0x0F]
        ticks = self._divider_runs and not self.halted and self._time != BROKEN
        return _SECOND if ticks and register_b & (r.B_ALARM | r.B_UPDATE) else 0

    def _begin_period(self, old_interval: int) -> None:
        """Start or stop the periodic timer; ACRN lets it be while PIE is off or the interval stays the same."""
        if not self._register_b & r.B_PERIODIC or self._interval == old_interval:
            return
        in_nanoseconds = self._per_second == _SECOND
        self._period = self._interval if in_nanoseconds else self._interval * self._per_second / _SECOND
        self._period_ends = self._monotonic() + self._period if self._period else math.inf

    def _end_period(self) -> None:
        """The timer went off, once or often; nobody sees it while PIE is off."""
        over = self._monotonic() - self._period_ends
        self._period_ends += (over // self._period + 1) * self._period
        if self._register_b & r.B_PERIODIC:
            self._set_flags(self._bytes[r.REGISTER_C] | r.C_PERIODIC)

    def _set_flags(self, flags: int) -> None:
        flags &= r.C_PERIODIC | r.C_ALARM | r.C_UPDATE
        raised = flags & self._register_b & r.B_INTERRUPTS  # enable and flag bits have the same places
        self._bytes[r.REGISTER_C] = flags | (r.C_INTERRUPT if raised else 0)
