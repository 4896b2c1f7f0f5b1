"""QEMU's MC146818 beside the device model's vRTC while time passes: every tick is seen on both at the same moment.

QEMU's clock is real, so an access lies between two readings of our own clock. The moments of QEMU's ticks are known
as narrowly; an access that may lie on either side of one is compared with both, and no write is made there.
"""

from __future__ import annotations

import calendar
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.deadline import Deadline
from harness.vrtc import DmVrtc
from harness.vrtc import registers as r
from tests.qtest import PATIENCE, Access, Answer, QtestRtc, qemu_rtc
from tests.vrtc_differences import BASE, FORMAT, accesses

SECOND = 10**9
MARGIN_NS = 20_000
"""QEMU reads its clock more than once in one access."""
NARROW_NS = 2_000_000
LAST_DAYS = ("1999-12-31", "2024-02-28", "2023-02-28", "2000-02-29", "2037-12-31", "2100-02-28", "2024-04-30")

pytestmark = pytest.mark.qemu


class Torn(Exception):
    """This machine stood still for so long that nobody knows on which side of a tick a write fell."""


@dataclass(frozen=True)
class Span:
    """Something in nanoseconds that is known to lie between two values."""

    low: int
    high: int

    def moved(self, by: Span) -> Span:
        return Span(self.low + by.low, self.high + by.high)

    def before(self, other: Span) -> Span:
        """How far this lies before the other."""
        return Span(other.low - self.high, other.high - self.low)

    @property
    def second(self) -> int:
        """The whole second; raises Torn where it is not known."""
        if self.low // SECOND != self.high // SECOND:
            raise Torn
        return self.low // SECOND


def when(answer: Answer) -> Span:
    return Span(answer.from_ns - MARGIN_NS, answer.to_ns + MARGIN_NS)


def now() -> Span:
    moment = time.monotonic_ns()
    return Span(moment, moment)


class Beside:
    """One QEMU and one vRTC that ticks when QEMU's RTC does. A running write of a date register starts QEMU's second
    anew, at the fraction that the last un-halt left (second-starts-anew); the vRTC's clock is led accordingly.
    """

    def __init__(self, rtc: QtestRtc) -> None:
        self.rtc = rtc
        self._now = 0
        self.vrtc = DmVrtc(lambda change: None, BASE, lambda: self._now, per_second=SECOND)
        self._began = Span(0, 0)
        self._fraction = Span(0, 0)
        self.ticks = 0
        self._shown = 0

    def clock(self, moment: Span) -> Span:
        """What the vRTC's clock shows then."""
        return self._began.before(moment)

    def synchronise(self, fraction: float) -> None:
        """Find a tick of QEMU's, then halt and un-halt so that a running write is `1 - fraction` before the next."""
        self.rtc.access(accesses("wa=26 wb=02"))
        before = self.rtc.one(Access(r.SECOND))
        while (after := self.rtc.one(Access(r.SECOND))).value == before.value:
            before = after
        self._began = Span(before.from_ns - MARGIN_NS, after.to_ns + MARGIN_NS)
        if self._began.high - self._began.low > NARROW_NS:
            raise Torn
        while self.clock(now()).low < fraction * SECOND:
            pass
        self._now = self.clock(now()).low
        self.vrtc = DmVrtc(lambda change: None, BASE, lambda: self._now, per_second=SECOND)
        self.do(*accesses("wa=26 wb=82 w0=45 w2=30 w4=12 w7=15 w8=06 w9=24 w32=20 w1=0 w3=0 w5=0 wb=02 rc"))
        self.vrtc.read(r.REGISTER_C)

    def forget(self) -> None:
        """Nobody knows any more where QEMU is in its second."""
        self._fraction = Span(0, 0)

    def in_step(self, low: float, high: float) -> bool:
        """Whether a running write is so far into its second, surely."""
        return low * SECOND <= self._fraction.low and self._fraction.high <= high * SECOND

    def do(self, *steps: Access) -> None:
        """The same accesses to both; reads are compared, but for those of register C."""
        for access in steps:
            if access.value is None:
                self._read(access)
            else:
                self._write(access)

    def until_tick(self) -> None:
        """Both are read all the time until they have ticked."""
        ticks, deadline = self.ticks, Deadline(PATIENCE)
        while self.ticks == ticks:
            self.do(*accesses("r0 r2 r4 r6 r7 r8 r9 r32 rb"))
            assert not deadline.expired

    def write_vrtc(self, access: Access, moment: Span) -> None:
        """A write to the vRTC alone."""
        assert access.value is not None
        self._now = self.clock(moment).low
        self.vrtc.write(access.register, access.value)

    def _read(self, access: Access) -> None:
        answer = self.rtc.one(access)
        if access.register == r.REGISTER_C:
            return
        clock = self.clock(when(answer))
        admitted = []
        for self._now in (clock.low, clock.high):
            admitted.append(self.vrtc.read(access.register))
        assert answer.value in admitted, (access, answer, admitted)
        if clock.low // SECOND == clock.high // SECOND:
            self.ticks += self._shown != clock.low // SECOND
            self._shown = clock.low // SECOND

    def _write(self, access: Access) -> None:
        halted = self.vrtc.halted
        answer = self.rtc.one(access)
        moment = when(answer)
        second = self.clock(moment).second
        self.write_vrtc(access, moment)
        if access.register == r.REGISTER_B and halted and not self.vrtc.halted:
            into = self.clock(moment)
            self._fraction = Span(into.low - second * SECOND, into.high - second * SECOND)
        elif access.register in {*r.TIME_REGISTERS, r.DAY_OF_WEEK} and not halted:
            whole = Span(second * SECOND, second * SECOND)
            self._began = whole.moved(self._fraction).before(moment)
        self._shown = second

@pytest.fixture(scope="module")
def beside() -> Iterator[Beside]:
    with qemu_rtc("rt") as rtc:
        yield Beside(rtc)


def in_step(beside: Beside) -> None:
    """A tick follows 30 to 100 ms after a running write."""
    deadline = Deadline(PATIENCE)
    while not beside.in_step(0.90, 0.97):
        assert not deadline.expired, "this machine is never quick enough to see one tick"
        try:
            beside.synchronise(0.92)
        except Torn:
            continue


def try_until_whole(beside: Beside, attempt: Callable[[], None]) -> None:
    """Again, where this machine stood still at the wrong moment."""
    deadline = Deadline(PATIENCE)
    while True:
        in_step(beside)
        try:
            attempt()
            return
        except Torn:
            assert not deadline.expired, "this machine stands still all the time"
            beside.forget()


def last_second(date: str, format_bits: int) -> dict[int, int]:
    """The registers of a date's last second."""
    day = time.strptime(date + " UTC", "%Y-%m-%d %Z")
    return r.encode_date(calendar.timegm(day) + 86_399, format_bits)


@settings(max_examples=14, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    date=st.sampled_from(LAST_DAYS),
    format_bits=st.sampled_from([0, r.B_24_HOUR, r.B_BINARY, FORMAT]),
    halted=st.booleans(),
    order=st.permutations(sorted(r.TIME_REGISTERS)),
)
def test_both_tick_at_the_same_moment_and_carry_alike(
    beside: Beside, date: str, format_bits: int, halted: bool, order: list[int]
) -> None:
    fields = last_second(date, format_bits)

    def attempt() -> None:
        # Given both in the same format, a little before QEMU's tick
        beside.do(Access(r.REGISTER_B, 0x02), Access(r.SECOND, 0x10), Access(r.REGISTER_B, format_bits))
        # When the last second of a day, month, year or century is written, halted or not
        if halted:
            beside.do(Access(r.REGISTER_B, format_bits | r.B_SET))
        safe = [Access(r.DAY_OF_MONTH, 1), *(Access(i, fields[i]) for i in order if i != r.DAY_OF_MONTH)]
        beside.do(*safe, Access(r.DAY_OF_MONTH, fields[r.DAY_OF_MONTH]))
        if halted:
            beside.do(Access(r.REGISTER_B, format_bits))
        # Then both show it, tick, and show the next, at the same moment
        beside.until_tick()

    try_until_whole(beside, attempt)


def test_the_interrupt_flags_of_a_tick_are_alike_where_they_are_enabled(beside: Beside) -> None:
    flags: list[int] = []

    def attempt() -> None:
        # Given the update-ended and the alarm interrupt enabled, the alarm at the next second
        beside.do(*accesses("wb=02 w0=10 w2=20 w4=05 w1=11 w3=20 w5=05 wb=32 w0=10"))
        beside.rtc.read(r.REGISTER_C)
        beside.vrtc.read(r.REGISTER_C)
        # When the tick has come
        beside.until_tick()
        beside.do(*accesses("r0 r2"))
        flags[:] = [beside.rtc.read(r.REGISTER_C), beside.vrtc.read(r.REGISTER_C)]
        beside.do(Access(r.REGISTER_B, 0x02))

    try_until_whole(beside, attempt)
    # Then both say so: update-ended, alarm, interrupt
    assert flags == [0xB0, 0xB0]


# -- what is different while time passes ---------------------------------------------------------------------


def test_update_in_progress_and_the_flags_of_a_tick_nobody_enabled_are_qemus_only(beside: Beside) -> None:
    seen: set[int] = set()

    def attempt() -> None:
        # Given no interrupt enabled, and no flag set
        beside.do(*accesses("wb=02 w0=10 rc"))
        assert copy.deepcopy(beside.vrtc).read(r.REGISTER_C) == 0
        # When register A is read until the tick has come
        while beside.rtc.read(r.SECOND) == 0x10:
            answers = beside.rtc.access([Access(r.REGISTER_A)] * 8)
            seen.update(answer.value for answer in answers if answer.value is not None)
        # Then QEMU has raised the update-ended flag, ACRN's vRTC has not
        beside.do(*accesses("r0"))
        assert beside.rtc.read(r.REGISTER_C) & r.C_UPDATE
        assert beside.vrtc.read(r.REGISTER_C) == 0
        assert beside.vrtc.read(r.REGISTER_A) == 0x26

    deadline = Deadline(PATIENCE)
    while 0xA6 not in seen:  # UIP lasts for 244 us: on a busy machine it can be missed
        assert not deadline.expired
        try_until_whole(beside, attempt)
    # And has shown an update in progress just before, which ACRN's never does
    assert seen == {0x26, 0xA6}


def test_second_starts_anew_on_qemu_only(beside: Beside) -> None:
    def attempt() -> None:
        # Given that both are about to tick
        beside.do(*accesses("wb=02 w0=10"))
        # When the second is written again and again over more than a second
        deadline = Deadline(1.2)
        alone = DmVrtc(lambda change: None, BASE, time.monotonic_ns, per_second=SECOND)
        alone.write(r.SECOND, 0x10)
        while not deadline.expired:
            beside.rtc.write(r.SECOND, 0x10 + 0x08)
            alone.write(r.MINUTE, 0x30)
            # Then QEMU's never ticks, and ACRN's does
            assert beside.rtc.read(r.SECOND) == 0x18
        assert alone.read(r.SECOND) in (0x11, 0x12)
        beside.forget()

    try_until_whole(beside, attempt)


def test_stale_bytes_come_back_with_a_write_on_qemu_only(beside: Beside) -> None:
    def attempt() -> None:
        # Given the flag of an ended update that nobody cleared: QEMU's bytes then follow only when they are read
        beside.do(*accesses("wb=02 w0=10"))
        beside.until_tick()
        second = beside.rtc.one(Access(r.SECOND))
        first = beside.clock(when(second)).second
        # When more than a second later another register is written, before anything is read
        while beside.clock(now()).low < (first + 1) * SECOND + SECOND // 20:
            pass
        answer = beside.rtc.one(Access(r.MINUTE, 0x20))
        assert beside.clock(when(answer)).second == first + 1
        beside.write_vrtc(Access(r.MINUTE, 0x20), when(answer))
        # Then QEMU's second is what it was when it was last looked at, and ACRN's has ticked
        assert second.value is not None
        assert beside.vrtc.read(r.SECOND) == second.value + 1
        assert beside.rtc.read(r.SECOND) == second.value
        beside.forget()

    try_until_whole(beside, attempt)


@pytest.mark.soak
def test_next_to_a_whole_second_every_running_write_is_a_second_more_on_qemu_only(beside: Beside) -> None:
    # Given un-halts nearer and nearer to QEMU's tick: a running write starts the second where the last one was
    update = accesses("w0=10 w2=00 w4=12 w7=15 w8=06 w9=24 w32=20")
    deadline, gained, tries = Deadline(PATIENCE), 0, 0
    beside.forget()
    beside.rtc.access(accesses("wa=26 wb=82 wb=02"))
    while gained < 2:
        if deadline.expired:
            pytest.skip("this machine never un-halted QEMU's RTC within 10 us of its tick")
        written = beside.rtc.one(Access(r.SECOND, 0x10))
        while (tick := beside.rtc.one(Access(r.SECOND))).value == 0x10:
            pass
        to_tick = tick.to_ns - written.from_ns
        written = beside.rtc.one(Access(r.SECOND, 0x10))
        # What the un-halt itself takes is tried out.
        tries, wait = tries + 1, to_tick * 7 // 10 if to_tick > 400_000 else to_tick - 70_000 + tries % 10 * 6_000
        while time.monotonic_ns() < written.from_ns + wait:
            pass
        beside.rtc.access(accesses("wb=82 wb=02"))
        # When all registers are written, running
        for access in update:
            beside.rtc.one(access)
        gained = beside.rtc.read(r.SECOND) - 0x10
    # Then QEMU's second is seconds further than what was written, and ACRN's is not
    alone = DmVrtc(lambda change: None, BASE, lambda: 1000)
    for access in update:
        alone.write(access.register, access.value or 0)
    assert alone.read(r.SECOND) == 0x10
