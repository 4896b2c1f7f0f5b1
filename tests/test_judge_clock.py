"""The judge's model of the DM's vRTC against ACRN.md, by cases worked out by hand."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.judge.chain import Chain
from harness.judge.dm_clock import BROKEN_UNHALT, DmClock
from harness.judge.outcomes import BROKEN, Announced, Withheld
from tests.judge_registers import (
    CENTURY,
    DAY,
    DOW,
    HOUR,
    JUNE,
    MIN,
    MONTH,
    REGISTERS,
    SEC,
    TRANSITIONS,
    YEAR,
    A,
    B,
    bcd,
    exists,
    fields,
    utc,
)

HALT, RUN = 0x82, 0x02


@pytest.mark.parametrize(("old", "new"), TRANSITIONS.values(), ids=TRANSITIONS.keys())
def test_in_every_order_the_links_add_up_and_only_existing_dates_are_announced(old: int, new: int) -> None:
    goal = fields(new)
    for order in itertools.permutations(REGISTERS):
        clock, chain, date = DmClock(old, 50), Chain(), fields(old)
        chain.set_rtc(old, 50_000_000_000)
        expected = 0
        links = []
        for register in order:
            date[register] = goal[register]
            expected += exists(date)
            change = clock.write(register, bcd(goal[register]), 50)
            if change is not None:
                assert isinstance(change, Announced)
                links.append(chain.add(change.last_time, change.new_time, 50_000_000_000))
        assert len(links) == expected
        assert links[0].before == old
        assert links[-1].after == new
        assert sum(link.delta or 0 for link in links) == new - old
        assert not any(link.lost for link in links)


@pytest.mark.parametrize(("old", "new"), TRANSITIONS.values(), ids=TRANSITIONS.keys())
def test_halted_every_order_announces_once(old: int, new: int) -> None:
    goal = fields(new)
    for order in itertools.permutations(REGISTERS):
        clock = DmClock(old, 50)
        assert clock.write(B, HALT, 50) is None
        assert [clock.write(register, bcd(goal[register]), 57) for register in order] == [None] * 7
        assert clock.write(B, RUN, 58) == Announced(old, new)
        assert clock.time(60) == new + 2


def test_a_running_no_op_announces_every_write_with_the_clock_ticking_on() -> None:
    clock = DmClock(JUNE, 0)
    for second, register in enumerate((DAY, MONTH, YEAR, CENTURY)):
        value = bcd(fields(JUNE)[register])
        assert clock.write(register, value, second) == Announced(JUNE + second, JUNE + second)


def test_a_halted_no_op_says_nothing_and_the_clock_goes_on_from_where_it_stood() -> None:
    clock = DmClock(JUNE, 0)
    clock.write(B, HALT, 5)
    assert clock.write(B, RUN, 9) is None
    assert clock.time(10) == JUNE + 6


def test_an_invalid_date_breaks_the_clock_until_the_next_valid_write() -> None:
    clock = DmClock(utc(2024, 1, 31), 0)
    assert clock.write(MONTH, 0x02, 1) is None
    assert clock.time(5) == BROKEN
    assert clock.write(DAY, 0x29, 9) == Announced(BROKEN, utc(2024, 2, 29, 0, 0, 1))
    assert clock.time(10) == utc(2024, 2, 29, 0, 0, 2)


def test_a_broken_clock_keeps_its_bytes_whatever_is_read() -> None:
    clock = DmClock(utc(2024, 1, 31), 0)
    clock.write(MONTH, 0x02, 1)
    assert (clock.read(DAY, 7), clock.read(MONTH, 7), clock.read(SEC, 7)) == (0x31, 0x02, 0x01)


def test_day_of_week_alarm_and_other_registers_say_nothing() -> None:
    clock = DmClock(JUNE, 0)
    for register in (DOW, 1, 3, 5, 0x0C, 0x0D, 0x0E, 0x31, 0x33, 0x7F):
        assert clock.write(register, 0x3F, 2) is None
    assert clock.time(4) == JUNE + 4


def test_bit_7_of_a_written_second_is_ignored() -> None:
    clock = DmClock(JUNE, 0)
    assert clock.write(SEC, 0xB5, 0) == Announced(JUNE, JUNE + 35)


def test_unhalt_with_an_invalid_date_leaves_the_clock_broken() -> None:
    clock = DmClock(utc(2024, 1, 31), 0)
    clock.write(B, HALT, 0)
    clock.write(MONTH, 0x02, 0)
    assert clock.write(B, RUN, 1) is None
    assert clock.time(9) == BROKEN


def test_unhalt_with_a_valid_date_after_a_broken_clock_is_the_known_defect() -> None:
    clock = DmClock(utc(2024, 1, 31), 0)
    clock.write(MONTH, 0x02, 0)
    clock.write(B, HALT, 1)
    clock.write(DAY, 0x10, 2)
    assert clock.write(B, RUN, 3) == Withheld(BROKEN_UNHALT, utc(2024, 2, 10))
    assert clock.time(5) == utc(2024, 2, 10, 0, 0, 2)


def test_halted_twice_counts_once() -> None:
    clock = DmClock(JUNE, 0)
    clock.write(B, HALT, 1)
    clock.write(HOUR, 0x13, 2)
    clock.write(B, HALT, 5)
    assert clock.write(B, RUN, 6) == Announced(JUNE + 1, JUNE + 3601)


def test_the_divider_freezes_the_clock_at_what_it_shows() -> None:
    clock = DmClock(JUNE, 0)
    clock.write(A, 0x76, 3)
    assert clock.time(10) == JUNE + 3
    assert clock.write(HOUR, 0x13, 10) == Announced(JUNE + 3, JUNE + 3603)
    clock.write(A, 0x26, 20)
    assert clock.time(22) == JUNE + 3605


def test_hwclock_with_the_divider_off_around_the_unhalt_announces_once() -> None:
    clock, goal = DmClock(JUNE, 0), utc(2031, 2, 3, 4, 5, 6)
    clock.write(B, HALT, 1)
    clock.write(A, 0x76, 1)
    for register in (YEAR, MONTH, DAY, HOUR, MIN, SEC):
        assert clock.write(register, bcd(fields(goal)[register]), 1) is None
    assert clock.write(B, RUN, 1) == Announced(JUNE + 1, goal)
    assert clock.time(3) == goal
    clock.write(A, 0x26, 3)
    assert clock.time(4) == goal + 1


def test_a_format_change_says_nothing_and_the_next_write_is_read_in_the_new_format() -> None:
    clock = DmClock(JUNE, 0)
    assert clock.write(B, 0x06, 1) is None
    assert clock.write(MIN, 45, 1) == Announced(JUNE + 1, JUNE + 45 * 60 + 1)
    assert clock.write(B, 0x04, 2) is None
    assert clock.write(HOUR, 0x81, 2) == Announced(JUNE + 45 * 60 + 2, JUNE + 3600 + 45 * 60 + 2)


def test_halted_the_bytes_are_read_in_the_format_of_the_unhalting_write() -> None:
    clock = DmClock(utc(2024, 6, 5, 1), 0)
    clock.write(B, HALT, 0)
    clock.write(HOUR, 0x10, 0)
    assert clock.write(B, 0x06, 0) == Announced(utc(2024, 6, 5, 1), utc(3236, 6, 5, 16))


@pytest.mark.parametrize("halt_value", [0x80, 0x84, 0x86])
def test_the_halting_write_lays_out_the_date_in_its_own_format(halt_value: int) -> None:
    clock = DmClock(utc(2024, 6, 15, 22, 33, 44), 0)
    clock.write(B, halt_value, 0)
    assert clock.write(B, halt_value & 0x7F, 3) is None, "the same date, whatever its format"
    assert clock.time(4) == utc(2024, 6, 15, 22, 33, 45)


def test_a_reset_forgets_registers_and_halt() -> None:
    clock = DmClock(JUNE, 0)
    clock.write(B, 0x84, 1)
    clock.write(DAY, 3, 1)
    clock.reset(JUNE + 100, 100)
    assert not clock.halted
    assert (clock.read(A, 100), clock.read(B, 100), clock.read(0x0D, 100)) == (0x20, 0x02, 0x80)
    assert clock.write(HOUR, 0x13, 101) == Announced(JUNE + 101, JUNE + 3701)


@given(
    st.lists(
        st.tuples(
            st.sampled_from((*REGISTERS, DOW, 1, 3, 5, A, B, 0x0C, 0x40)),
            st.integers(0, 255),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
def test_under_any_writes_what_is_announced_is_where_the_clock_went(steps: list[tuple[int, int, int]]) -> None:
    clock, now_s = DmClock(JUNE, 0), 0
    for register, value, seconds in steps:
        now_s += seconds
        before, was_halted = clock.time(now_s), clock.halted
        change = clock.write(register, value, now_s)
        if isinstance(change, Announced):
            assert clock.time(now_s) == change.new_time
            assert not clock.halted
            if not was_halted:
                assert change.last_time == before
        if isinstance(change, Withheld):
            assert was_halted and not clock.halted
        if change is None and register not in (A, B) and not was_halted and clock.time(now_s) != BROKEN:
            assert clock.time(now_s) == before
