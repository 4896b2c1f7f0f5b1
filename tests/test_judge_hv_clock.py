"""The judge's model of the hypervisor's vRTC against ACRN.md, by cases worked out by hand."""

from __future__ import annotations

import itertools

import pytest

from harness.judge.chain import Chain
from harness.judge.hv_clock import HvClock
from harness.judge.outcomes import BROKEN, Announced, Moved
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
from tests.judge_run import MS, SECOND

START = 77 * SECOND + 345 * MS
"""The VM is created in mid-second: its clock ticks in mid-second, too."""


def at(seconds: int, *, ns: int = 0) -> int:
    return START + seconds * SECOND + ns


@pytest.mark.parametrize(("old", "new"), TRANSITIONS.values(), ids=TRANSITIONS.keys())
def test_in_every_order_all_seven_writes_announce_and_the_links_add_up(old: int, new: int) -> None:
    goal = fields(new)
    for order in itertools.permutations(REGISTERS):
        clock, chain, date, links = HvClock(old, START), Chain(), fields(old), []
        for register in order:
            date[register] = goal[register]
            change = clock.write(register, bcd(goal[register]), at(0))
            assert isinstance(change, Announced)
            valid = exists(date) and date[CENTURY] * 100 + date[YEAR] <= 2037
            assert (change.new_time != BROKEN) == valid
            links.append(chain.add(change.last_time, change.new_time, at(0)))
        assert (links[0].before, links[-1].after) == (old, new)
        assert sum(link.delta or 0 for link in links) == new - old
        assert not any(link.lost or link.estimated for link in links)


def test_the_clock_ticks_where_a_whole_second_has_passed_since_the_start() -> None:
    clock = HvClock(JUNE, START)
    assert [clock.time(at(1, ns=ns)) for ns in (-1, 0, SECOND - 1, SECOND)] == [JUNE, JUNE + 1, JUNE + 1, JUNE + 2]


@pytest.mark.parametrize("b", [0x02, 0x82])
def test_set_means_nothing(b: int) -> None:
    clock = HvClock(JUNE, START)
    assert clock.write(B, b, at(3)) is None
    assert clock.write(HOUR, 0x13, at(3)) == Announced(JUNE + 3, JUNE + 3600)
    assert clock.write(B, 0x02, at(5)) is None
    assert clock.time(at(6)) == JUNE + 3603


def test_a_write_to_bytes_that_no_read_has_refreshed_takes_the_seconds_since_back() -> None:
    clock = HvClock(JUNE, START)
    assert clock.write(HOUR, 0x13, at(7)) == Announced(JUNE + 7, JUNE + 3600)
    assert clock.write(HOUR, 0x13, at(7)) == Announced(JUNE + 3600, JUNE + 3600)
    assert clock.write(HOUR, 0x13, at(12)) == Announced(JUNE + 3605, JUNE + 3600)


@pytest.mark.parametrize("index", [SEC, 0x01, DOW, A, B, 0x0C, 0x0E, 0x31, CENTURY])
def test_a_read_up_to_the_century_refreshes_all_bytes(index: int) -> None:
    clock = HvClock(JUNE, START)
    clock.read(index, at(7))
    assert clock.write(HOUR, 0x13, at(7)) == Announced(JUNE + 7, JUNE + 3607)


@pytest.mark.parametrize("index", [0x33, 0x37, 0x38, 0x7F])
def test_a_read_beyond_the_century_gets_nothing_and_refreshes_nothing(index: int) -> None:
    clock = HvClock(JUNE, START)
    assert clock.read(index, at(7)) == 0xFF
    assert clock.write(HOUR, 0x13, at(7)) == Announced(JUNE + 7, JUNE + 3600)


def test_a_read_gets_the_date_as_it_is_then() -> None:
    clock = HvClock(utc(2024, 12, 31, 23, 59, 59), START)
    shown = [clock.read(index, at(1)) for index in (CENTURY, YEAR, MONTH, DAY, HOUR, MIN, SEC, DOW)]
    assert shown == [0x20, 0x25, 0x01, 0x01, 0x00, 0x00, 0x00, 0x04]
    assert (clock.read(A, at(1)), clock.read(B, at(1)), clock.read(0x0D, at(1))) == (0x26, 0x02, 0x80)


@pytest.mark.parametrize("register", [DOW, 0x0E, 0x0F, 0x31, 0x33, 0x37])
def test_day_of_week_and_nvram_move_the_clock_silently_to_what_the_bytes_say(register: int) -> None:
    clock = HvClock(JUNE, START)
    assert clock.write(register, 0x5A, at(9)) == Moved(-9)
    assert clock.time(at(10)) == JUNE + 1
    assert clock.read(register, at(10)) == (0xFF if register > CENTURY else 0x07 if register == DOW else 0x5A)


@pytest.mark.parametrize("register", [A, 0x0C, 0x0D, B, 0x01, 0x03, 0x05, 0x38, 0x40, 0x7F])
def test_the_rest_moves_nothing(register: int) -> None:
    clock = HvClock(JUNE, START)
    assert clock.write(register, 0x02, at(9)) is None
    assert clock.time(at(9)) == JUNE + 9


def test_what_is_kept_of_a_written_byte() -> None:
    clock = HvClock(JUNE, START)
    for register in (A, 0x0C, 0x0D):
        clock.write(register, 0x55, at(0))
    for alarm in (0x01, 0x03, 0x05):
        clock.write(alarm, 0xFF, at(0))
    clock.write(B, 0xA2, at(0))
    kept = [clock.read(index, at(0)) for index in (A, B, 0x0C, 0x0D, 0x01, 0x03, 0x05)]
    assert kept == [0x26, 0xA2, 0x00, 0x80, 0x7F, 0x7F, 0x7F]
    assert clock.write(SEC, 0xB5, at(0)) == Announced(JUNE, JUNE + 35), "bit 7 of a written second is ignored"


# -- no date -----------------------------------------------------------------------------------------------


def test_an_invalid_date_is_announced_as_minus_one_and_the_clock_ticks_on_from_there() -> None:
    clock = HvClock(utc(2024, 1, 31), START)
    assert clock.write(MONTH, 0x02, at(1)) == Announced(utc(2024, 1, 31, 0, 0, 1), -1)
    assert [clock.time(at(seconds)) for seconds in (1, 2, 3, 4)] == [-1, 0, 1, 2]


def test_the_guest_sees_the_invalid_bytes_for_two_ticks_and_then_1970() -> None:
    clock = HvClock(utc(2024, 1, 31), START)
    clock.write(MONTH, 0x02, at(1))
    for seconds in (1, 2):
        assert (clock.read(MONTH, at(seconds)), clock.read(DAY, at(seconds))) == (0x02, 0x31)
    shown = [clock.read(index, at(3)) for index in (CENTURY, YEAR, MONTH, DAY, HOUR, MIN, SEC)]
    assert shown == [0x19, 0x70, 0x01, 0x01, 0x00, 0x00, 0x01]
    assert clock.write(YEAR, 0x71, at(3)) == Announced(1, utc(1971, 1, 1, 0, 0, 1))


def test_the_invalid_bytes_stay_as_long_as_nobody_reads() -> None:
    clock = HvClock(utc(2024, 1, 31), START)
    clock.write(MONTH, 0x02, at(1))
    assert clock.write(DAY, 0x29, at(9)) == Announced(7, utc(2024, 2, 29))


@pytest.mark.parametrize(
    ("year", "month", "day", "valid"),
    [
        (1969, 12, 31, False),
        (1970, 1, 1, True),
        (2037, 12, 31, True),
        (2038, 1, 1, False),
        (2023, 2, 29, False),
        (2024, 2, 29, True),
        (2024, 4, 31, False),
        (2024, 0, 1, False),
        (2024, 1, 0, False),
    ],
)
def test_which_dates_are_valid(year: int, month: int, day: int, valid: bool) -> None:
    clock = HvClock(JUNE, START)
    for register, number in ((CENTURY, year // 100), (YEAR, year % 100), (MONTH, month)):
        clock.write(register, bcd(number), at(0))
    last = clock.write(DAY, bcd(day), at(0))
    assert isinstance(last, Announced)
    assert last.new_time == (utc(year, month, day, 12) if valid else BROKEN)


def test_beyond_its_years_the_clock_goes_on_and_no_read_refreshes() -> None:
    clock = HvClock(utc(2037, 12, 31, 23, 59, 59), START)
    assert clock.time(at(1)) == utc(2038)
    assert clock.read(SEC, at(1)) == 0x59
    assert clock.write(HOUR, 0x12, at(5)) == Announced(utc(2038, 1, 1, 0, 0, 4), utc(2037, 12, 31, 12, 59, 59))


@pytest.mark.parametrize("base", [0, -1, utc(2038)], ids=["epoch", "invalid", "beyond 2037"])
def test_a_physical_rtc_without_a_date_or_at_the_epoch_makes_a_clock_that_never_runs(base: int) -> None:
    clock, new = HvClock(base, START), utc(2025, 7, 20, 1, 2, 3)
    changes = [clock.write(register, bcd(value), at(5)) for register, value in fields(new).items()]
    assert [change.last_time for change in changes if isinstance(change, Announced)] == [BROKEN] * 7
    assert changes[-1] == Announced(BROKEN, new)
    assert clock.time(at(9)) == BROKEN
    assert clock.read(SEC, at(9)) == 0x03


def test_the_clock_counts_in_32_bits_and_never_tells_less_than_it_has_told() -> None:
    clock = HvClock(utc(2037, 12, 31), START)
    most = (1 << 31) - 1
    seconds = most - utc(2037, 12, 31)
    assert clock.time(at(seconds)) == most
    assert clock.time(at(seconds + 1)) == most
    assert clock.time(at(3)) == most, "not even if its own time base went back"


# -- a VM in the place of another --------------------------------------------------------------------------


def test_what_a_former_vm_moved_is_inherited_by_the_clock_and_not_by_the_bytes() -> None:
    clock = HvClock(JUNE, START, offset_s=-86_400)
    assert clock.time(at(2)) == JUNE - 86_398
    assert clock.write(HOUR, 0x13, at(2)) == Announced(JUNE - 86_398, JUNE + 3600)


def test_a_read_shows_the_inherited_clock() -> None:
    clock = HvClock(JUNE, START, offset_s=-86_400)
    assert clock.read(DAY, at(0)) == 0x14


# -- formats -----------------------------------------------------------------------------------------------


def test_a_format_change_re_encodes_at_the_next_read_and_not_before() -> None:
    clock = HvClock(JUNE, START)
    assert clock.write(B, 0x06, at(1)) is None
    assert clock.write(MIN, 45, at(1)) == Announced(JUNE + 1, BROKEN), "BCD 20 24 06 15 is no date in binary"
    clock = HvClock(JUNE, START)
    clock.write(B, 0x06, at(1))
    clock.read(SEC, at(1))
    assert clock.write(MIN, 45, at(1)) == Announced(JUNE + 1, JUNE + 45 * 60 + 1)


@pytest.mark.parametrize(
    ("b", "byte", "hour"),
    [
        (0x00, 0x12, 0),
        (0x00, 0x01, 1),
        (0x00, 0x92, 12),
        (0x00, 0x91, 23),
        (0x00, 0x13, None),
        (0x00, 0x00, None),
        (0x04, 0x8B, 23),
        (0x04, 0x0C, 0),
        (0x02, 0x92, None),
        (0x06, 0x17, 23),
        (0x06, 0x18, None),
    ],
)
def test_hours(b: int, byte: int, hour: int | None) -> None:
    clock = HvClock(JUNE, START)
    clock.write(B, b, at(0))
    clock.read(SEC, at(0))
    change = clock.write(HOUR, byte, at(0))
    assert change == Announced(JUNE, BROKEN if hour is None else utc(2024, 6, 15, hour))


def test_a_binary_year_may_have_hundreds() -> None:
    clock = HvClock(JUNE, START)
    clock.write(B, 0x06, at(0))
    clock.read(SEC, at(0))
    assert clock.write(CENTURY, 19, at(0)) == Announced(JUNE, BROKEN)
    assert clock.write(YEAR, 124, at(0)) == Announced(BROKEN, JUNE)


def test_an_hour_read_in_the_other_format_is_moved_to_silently() -> None:
    clock = HvClock(JUNE, START)
    clock.write(B, 0x00, at(0))
    assert clock.write(0x0F, 0x0A, at(0)) == Moved(-12 * 3600), "0x12 is noon, and in 12 h format midnight"
