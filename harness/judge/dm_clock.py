"""The judge's own model of the DM's vRTC: register writes in, announced changes out.

Written from ACRN.md ("The DM's vRTC", "Resets", "Special cases") alone; the product's model is another one
on purpose.
"""

from __future__ import annotations

from harness.judge import dates
from harness.judge.outcomes import BROKEN, Announced, Outcome, Withheld

REGISTER_A, REGISTER_B, REGISTER_C, REGISTER_D = 0x0A, 0x0B, 0x0C, 0x0D
SET = 0x80
DIVIDER_MASK, DIVIDER_RUNS = 0x70, 0x20
UPDATE_IN_PROGRESS = 0x80

BROKEN_UNHALT = "broken-unhalt"


class DmClock:
    """The registers and the clock of ACRN's device model. `now_s` is always whole monotonic seconds."""

    def __init__(self, rtc_time: int, now_s: int) -> None:
        self.reset(rtc_time, now_s)

    def reset(self, rtc_time: int, now_s: int) -> None:
        """What a start or a system reset leaves: 24 h BCD, running, all other bytes 0."""
        self._registers = bytearray(128)
        self._registers[REGISTER_A] = 0x20
        self._registers[REGISTER_B] = dates.HOURS_24
        self._registers[REGISTER_D] = 0x80
        self._base, self._base_s = rtc_time, now_s
        self._before_halt = BROKEN
        dates.encode(rtc_time, self._registers, dates.HOURS_24)

    @property
    def halted(self) -> bool:
        """Whether SET is 1: the date bytes belong to the guest."""
        return bool(self._registers[REGISTER_B] & SET)

    def time(self, now_s: int) -> int:
        """The RTC at `now_s`: seconds since 1970; BROKEN while halted or while the date is invalid."""
        registers = self._registers
        if registers[REGISTER_B] & SET or self._base == BROKEN or registers[REGISTER_A] & DIVIDER_MASK != DIVIDER_RUNS:
            return self._base
        return self._base + now_s - self._base_s

    def read(self, index: int, now_s: int) -> int:
        """The byte a guest would read; a read brings the date bytes up to date like any access."""
        self._refresh(index, now_s)
        return self._registers[index & 0x7F]

    def write(self, index: int, value: int, now_s: int) -> Outcome:
        """One write to the data port. None: a write that says nothing to anyone, and should not."""
        self._refresh(index, now_s)
        if index == REGISTER_A:
            self._write_a(value, now_s)
        elif index == REGISTER_B:
            return self._write_b(value, now_s)
        elif index not in (REGISTER_C, REGISTER_D):
            before = self.time(now_s)
            self._registers[index] = value & 0x7F if index == dates.SECOND else value
            if index in dates.DATE_TIME and not self._registers[REGISTER_B] & SET:
                return self._recompute(before, now_s)
        return None

    @property
    def _divider_runs(self) -> bool:
        return self._registers[REGISTER_A] & DIVIDER_MASK == DIVIDER_RUNS

    def _refresh(self, index: int, now_s: int) -> None:
        """An access to the date or alarm bytes first rewrites the date, unless halted or broken."""
        registers = self._registers
        if (index < REGISTER_A or index == dates.CENTURY) and self._base != BROKEN and not registers[REGISTER_B] & SET:
            dates.encode(self.time(now_s), registers, registers[REGISTER_B])

    def _set_base(self, time: int, now_s: int) -> None:
        self._base, self._base_s = time, now_s

    def _recompute(self, before: int, now_s: int) -> Announced | None:
        time = dates.decode(self._registers, self._registers[REGISTER_B])
        self._set_base(BROKEN if time is None else time, now_s)
        return None if time is None else Announced(before, time)

    def _write_a(self, value: int, now_s: int) -> None:
        """Divider off: the clock stands at what it shows; on again: it goes on from there."""
        self._set_base(self.time(now_s), now_s)
        self._registers[REGISTER_A] = value & ~UPDATE_IN_PROGRESS & 0xFF

    def _write_b(self, value: int, now_s: int) -> Announced | Withheld | None:
        """A change of SET halts or un-halts; the format bits of the new value already count for both."""
        before, was_halted = self.time(now_s), self.halted
        self._registers[REGISTER_B] = value
        if self.halted and not was_halted:
            self._before_halt = before
            if before != BROKEN:
                dates.encode(before, self._registers, value)
            self._set_base(BROKEN, now_s)
        elif was_halted and not self.halted:
            return self._unhalt(now_s)
        return None

    def _unhalt(self, now_s: int) -> Announced | Withheld | None:
        before = self._before_halt
        change = self._recompute(before, now_s)
        if change is None or change.new_time == before:
            return None
        return Withheld(BROKEN_UNHALT, change.new_time) if before == BROKEN else change

    # -- the same clock in several possible worlds (worlds.py) ------------------------------------------------

    @property
    def ticks(self) -> bool:
        """Whether time passes for it: not while it is halted, broken or without its divider."""
        return not self.halted and self._base != BROKEN and self._divider_runs

    def copy(self) -> DmClock:
        """One that goes its own way from here."""
        twin = object.__new__(DmClock)
        twin._registers = bytearray(self._registers)
        twin._base, twin._base_s, twin._before_halt = self._base, self._base_s, self._before_halt
        return twin

    def counted_from(self, second: int, *, same_clock: bool) -> None:
        """Let seconds be counted from that one on. same_clock: go on as before, else what it shows is from then."""
        if not self.ticks:
            self._base_s = 0
        elif same_clock:
            self._base, self._base_s = self._base - self._base_s, 0
        else:
            self._base_s -= second

    def state(self) -> tuple[object, ...]:
        """All that decides what it will do: while its time is its own, the date's bytes are rewritten from it."""
        registers = bytes(self._registers)
        if not self.halted and self._base != BROKEN:
            kept = bytearray(self._registers)
            for index in (*dates.DATE_TIME, dates.DAY_OF_WEEK):
                kept[index] = 0
            registers = bytes(kept)
        return registers, self._base, self._base_s, self._before_halt if self.halted else 0
