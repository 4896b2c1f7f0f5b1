"""The hypervisor's vRTC against ACRN.md, quirk for quirk."""

from __future__ import annotations

import calendar
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.vm_event import RtcChange, RtcChangeSettler, SettledRtcChange
from harness.vrtc import TIME_REGISTERS, HvVrtc

A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
DATE = (0x32, 9, 8, 7, 4, 2, 0)
HALT, RUN = 0x82, 0x02
START = calendar.timegm((2024, 6, 15, 12, 0, 0))
SECOND = 10**9


class Rig:
    def __init__(self, time: int = START, *, offset: int = 0) -> None:
        self.now = 1000 * SECOND + 250_000_000
        self.sent: list[RtcChange] = []
        self.rtc = HvVrtc(self.sent.append, time, lambda: self.now, per_second=SECOND, offset=offset)

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)

    def write(self, *pairs: tuple[int, int]) -> None:
        for index, value in pairs:
            assert self.rtc.write(index, value) is True

    def date(self) -> tuple[int, ...]:
        return tuple(self.rtc.read(index) for index in DATE)


def at(*date: int) -> int:
    return calendar.timegm(date)


def bcd(number: int) -> int:
    return number // 10 << 4 | number % 10


def registers(year: int, month: int, day: int, hour: int, minute: int, second: int) -> dict[int, int]:
    numbers = (year // 100, year % 100, month, day, hour, minute, second)
    return {index: bcd(number) for index, number in zip(DATE, numbers, strict=True)}


def test_starts_with_the_physical_rtcs_bytes() -> None:
    rig = Rig()
    assert rig.date() == (0x20, 0x24, 0x06, 0x15, 0x12, 0, 0)
    assert [rig.rtc.read(index) for index in (A, B, C, D, 1, 3, 5, 0x0E)] == [0x26, 0x02, 0, 0x80, 0, 0, 0, 0]
    assert rig.rtc.read(6) == 7  # a Saturday
    assert (rig.rtc.time, rig.rtc.offset) == (START, 0)


def test_ticks_where_whole_seconds_have_passed_since_the_creation() -> None:
    rig = Rig()
    rig.now += SECOND - 1
    assert rig.rtc.time == START
    rig.now += 1
    assert rig.rtc.time == START + 1
    rig.write((0, 0x30))  # the phase outlives a write
    rig.now += SECOND - 1
    assert rig.rtc.time == START + 30
    rig.now += 1
    assert rig.rtc.time == START + 31


def test_integer_nanoseconds_stay_exact_where_floats_would_not() -> None:
    rig = Rig()
    rig.now = 2**60
    rig.rtc = HvVrtc(rig.sent.append, START, lambda: rig.now, per_second=SECOND)
    rig.now += 5 * SECOND - 1
    assert rig.rtc.time == START + 4
    rig.now += 1
    assert rig.rtc.time == START + 5


def test_in_seconds_as_float_by_default() -> None:
    clock = [10.25]
    rtc = HvVrtc(lambda change: None, START, lambda: clock[0])
    clock[0] = 12.2
    assert rtc.time == START + 1
    clock[0] = 12.25
    assert rtc.time == START + 2


@pytest.mark.parametrize("halted", [False, True])
def test_every_write_to_one_of_the_seven_registers_is_an_event_whatever_set_says_and_no_other_is(halted: bool) -> None:
    rig = Rig()
    rig.write((B, HALT if halted else RUN))
    for index in range(0x80):
        if index == B:
            continue
        before = len(rig.sent)
        rig.write((index, rig.rtc.read(index)))
        assert len(rig.sent) - before == (index in TIME_REGISTERS), hex(index)
    assert all(change.delta_time == 0 for change in rig.sent)


def test_a_noop_gives_back_the_seconds_since_the_last_read() -> None:
    rig = Rig()
    rig.wait(5)
    rig.write((4, 0x12))
    assert rig.sent == [RtcChange(START + 5, -5)]
    rig.wait(5)
    rig.rtc.read(A)  # any index up to the century will do
    rig.write((4, 0x12))
    assert rig.sent[1:] == [RtcChange(START + 5, 0)]


def test_a_read_above_the_century_gives_ff_and_refreshes_nothing() -> None:
    rig = Rig()
    rig.wait(5)
    assert {rig.rtc.read(index) for index in range(0x33, 0x80)} == {0xFF}
    rig.write((4, 0x12))
    assert rig.sent == [RtcChange(START + 5, -5)]


def test_a_full_update_hides_stale_bytes() -> None:
    rig = Rig()
    rig.wait(7)
    new = registers(2025, 7, 20, 13, 14, 15)
    rig.write(*new.items())
    assert rig.sent[0].last_time == START + 7
    assert rig.rtc.time == at(2025, 7, 20, 13, 14, 15)
    assert sum(change.delta_time for change in rig.sent) == at(2025, 7, 20, 13, 14, 15) - START - 7


def test_an_invalid_date_counts_as_minus_one_and_ticks_on_from_there() -> None:
    january = at(2024, 1, 31, 12, 0, 0)
    rig = Rig(january)
    rig.write((8, 0x02))
    assert rig.sent == [RtcChange(january, -1 - january)]
    invalid = (0x20, 0x24, 0x02, 0x31, 0x12, 0, 0)
    for shown in (-1, 0):
        assert rig.rtc.time == shown
        assert rig.date() == invalid  # the guest's own bytes for two ticks
        rig.wait(1)
    assert rig.rtc.time == 1
    assert rig.date() == (0x19, 0x70, 0x01, 0x01, 0, 0, 0x01)


@pytest.mark.parametrize("ticks", [0, 1, 5])
def test_the_event_after_an_invalid_date_starts_from_where_the_clock_then_is(ticks: int) -> None:
    rig = Rig(at(2024, 1, 31, 12, 0, 0))
    rig.write((8, 0x02))
    rig.wait(ticks)
    rig.write((7, 0x29))
    new = at(2024, 2, 29, 12, 0, 0)
    assert rig.sent[1:] == [RtcChange(ticks - 1, new - ticks + 1)]
    assert rig.rtc.time == new


def test_there_and_back_over_a_tick_without_a_read_ends_at_minus_one() -> None:
    rig = Rig()
    rig.wait(0.9)
    rig.write((4, 0x13))
    rig.wait(0.2)
    rig.write((4, 0x12))
    assert sum(change.delta_time for change in rig.sent) == -1


@pytest.mark.parametrize("index", [0x06, 0x0E, 0x31, 0x33, 0x37])
def test_day_of_week_and_nvram_move_the_clock_to_the_stale_bytes_in_silence(index: int) -> None:
    rig = Rig()
    rig.wait(5)
    rig.write((index, 0x01))
    assert rig.sent == []
    assert (rig.rtc.time, rig.rtc.offset) == (START, -5)


def test_registers_a_c_and_d_are_not_the_guests_and_b_is_stored_as_it_is() -> None:
    rig = Rig()
    rig.wait(5)
    rig.write((A, 0x76), (C, 0xFF), (D, 0x00))
    assert [rig.rtc.read(index) for index in (A, C, D)] == [0x26, 0, 0x80]
    for value in (0xFF, 0x80, 0x00):
        rig.write((B, value))
        assert rig.rtc.read(B) == value
    assert rig.sent == [] and rig.rtc.time == START + 5


def test_alarm_bytes_keep_seven_bits_and_do_nothing_else() -> None:
    rig = Rig()
    rig.wait(5)
    rig.write((1, 0xFF), (3, 0xC5), (5, 0x92))
    assert rig.rtc.time == START + 5
    assert [rig.rtc.read(index) for index in (1, 3, 5)] == [0x7F, 0x45, 0x12]


@pytest.mark.parametrize(("apart", "flags"), [(-2, 0), (-1, 0xA0), (0, 0xA0), (1, 0xA0), (2, 0)])
def test_register_c_shows_the_alarm_within_a_second_and_only_where_it_is_enabled(apart: int, flags: int) -> None:
    rig = Rig(START + 35)
    rig.write((1, bcd(35 + apart)), (3, 0), (5, 0x12))
    assert rig.rtc.read(C) == 0
    rig.write((B, 0x22))
    assert rig.rtc.read(C) == flags
    assert rig.rtc.read(C) == flags  # it comes from the bytes, not from a flag that the first read cleared


def test_the_alarm_is_compared_by_raw_bytes_so_from_29_to_30_in_bcd_is_no_second() -> None:
    rig = Rig(START + 30)
    rig.write((1, 0x29), (3, 0), (5, 0x12), (B, 0x22))
    assert rig.rtc.read(C) == 0


def test_a_format_change_re_encodes_only_at_the_next_read() -> None:
    rig = Rig()
    rig.write((B, 0x06), (4, 13))
    assert rig.sent == [RtcChange(START, -1 - START)]  # 0x20 is century 32 in binary
    rig = Rig()
    rig.write((B, 0x06))
    assert rig.date() == (20, 24, 6, 15, 12, 0, 0)
    rig.write((4, 13))
    assert rig.sent == [RtcChange(START, 3600)]


@pytest.mark.parametrize(("byte", "hour"), [(0x12, 0), (0x92, 12), (0x01, 1), (0x81, 13), (0x91, 23)])
def test_twelve_hour_format(byte: int, hour: int) -> None:
    rig = Rig()
    rig.write((B, 0x00), (4, byte))
    assert rig.rtc.time == at(2024, 6, 15, hour, 0, 0)
    assert rig.rtc.read(4) == byte


@pytest.mark.parametrize(
    ("index", "byte"),
    [(0, 0x60), (2, 0x5A), (4, 0x24), (7, 0), (7, 0x31), (8, 0), (8, 0x13), (9, 0xA0), (9, 0x38), (0x32, 0x19)],
)
def test_what_is_no_date_or_not_between_1970_and_2037_is_invalid(index: int, byte: int) -> None:
    rig = Rig()
    rig.write((index, byte))
    assert rig.rtc.time == -1


def test_a_binary_year_may_exceed_99() -> None:
    rig = Rig()
    rig.write((B, 0x06))
    rig.rtc.read(0)
    rig.write((0x32, 19), (9, 124))
    assert rig.rtc.time == START


def test_bit_7_of_the_second_is_ignored() -> None:
    rig = Rig()
    rig.write((0, 0xB0))
    assert rig.rtc.time == START + 30 and rig.rtc.read(0) == 0x30


def test_past_2037_the_clock_ticks_on_but_the_bytes_stand() -> None:
    end = at(2037, 12, 31, 23, 59, 59)
    rig = Rig(end)
    shown = rig.date()
    rig.wait(10)
    assert rig.rtc.time == end + 10
    assert rig.date() == shown
    rig.write((0, 0x59))
    assert rig.sent == [RtcChange(end + 10, -10)]


def test_time_is_32_bits_wide_and_never_runs_backwards_between_writes() -> None:
    rig = Rig(at(2037, 12, 31, 23, 59, 59))
    rig.wait(2**31 - 1 - rig.rtc.time)
    rig.rtc.read(0)
    rig.wait(1)
    assert rig.rtc.time == 2**31 - 1


@pytest.mark.parametrize("base", [0, -1, at(2038, 1, 1, 0, 0, 0)])
def test_an_invalid_physical_rtc_or_one_at_the_epoch_makes_a_clock_that_never_runs(base: int) -> None:
    rig = Rig(base)
    rig.write(*registers(2024, 6, 15, 12, 0, 0).items())
    rig.wait(100)
    rig.write((4, 0x12))
    assert [change.last_time for change in rig.sent] == [-1] * 8
    assert rig.sent[-2:] == [RtcChange(-1, START + 1)] * 2
    assert rig.rtc.time == -1
    assert rig.date() == (0x20, 0x24, 0x06, 0x15, 0x12, 0, 0)


def test_a_vm_created_again_in_the_same_slot_inherits_the_offset_but_not_the_bytes() -> None:
    former = Rig()
    former.write((4, 0x13))
    rig = Rig(START + 60, offset=former.rtc.offset)
    assert (rig.rtc.offset, rig.rtc.time) == (3600, START + 3660)
    rig.write((2, 0x01))  # before the first read: what the physical RTC's bytes say
    assert rig.sent == [RtcChange(START + 3660, -3600)]
    rig = Rig(START + 60, offset=former.rtc.offset)
    assert rig.date()[4:] == (0x13, 0x01, 0)


def test_bytes_beyond_the_structure_are_kept_to_themselves() -> None:
    rig = Rig()
    rig.wait(5)
    rig.write(*((index, 0x55) for index in range(0x38, 0x80)))
    assert rig.sent == [] and rig.rtc.time == START + 5


TRANSITIONS = [
    ((2024, 1, 31, 12, 0, 0), (2024, 2, 29, 12, 0, 0)),
    ((2024, 2, 29, 0, 0, 0), (2023, 2, 28, 0, 0, 0)),
    ((1999, 12, 31, 23, 59, 59), (2000, 1, 1, 0, 0, 0)),
    ((2024, 3, 31, 12, 0, 0), (2024, 4, 30, 12, 0, 0)),
    ((2024, 5, 5, 1, 2, 3), (1985, 10, 26, 4, 5, 6)),
    ((2024, 6, 15, 12, 0, 0), (2025, 7, 20, 13, 14, 15)),
    ((2037, 12, 31, 23, 59, 59), (1970, 1, 1, 0, 0, 1)),
]


@pytest.mark.parametrize(("start", "end"), TRANSITIONS)
def test_all_orders_are_seven_raw_events_with_the_right_sum_and_last_time(
    start: tuple[int, ...], end: tuple[int, ...]
) -> None:
    before, after = at(*start), at(*end)
    values = registers(*end).items()
    right = SettledRtcChange(before, after, after - before, 7, source="hv")
    sent: list[RtcChange] = []
    for order in itertools.permutations(values):
        rtc = HvVrtc(sent.append, before, lambda: 0, per_second=SECOND)
        settler = RtcChangeSettler(source="hv", per_second=SECOND)
        for index, value in order:
            rtc.write(index, value)
        for change in sent:
            settler.add(change, 0)
        sent.clear()
        assert settler.expire(SECOND) == right, order


accesses = st.tuples(st.integers(0, 0x7F), st.integers(0, 0xFF), st.booleans(), st.integers(0, 3 * SECOND))


@given(
    st.integers(1, at(2037, 12, 31, 0, 0, 0)),
    st.lists(st.one_of(accesses, st.tuples(st.sampled_from(DATE), st.integers(1, 9), st.booleans(), st.just(0)))),
)
def test_any_traffic_keeps_the_clock_and_its_events_together(
    base: int, traffic: list[tuple[int, int, bool, int]]
) -> None:
    rig = Rig(base)
    created = rig.now
    for index, value, reads, pause in traffic:
        rig.now += pause
        before = rig.rtc.time
        rig.sent.clear()
        if reads:
            rig.rtc.read(index)
        else:
            rig.write((index, value))
        announced = not reads and index in TIME_REGISTERS
        assert len(rig.sent) == announced
        if announced:
            assert rig.sent[0] == RtcChange(before, rig.rtc.time - before)
        elif reads or index >= 0x38 or index in {A, B, C, D, 1, 3, 5}:
            assert rig.rtc.time == before, "neither a read nor another register moves the clock"
        assert rig.rtc.time == base + rig.rtc.offset + (rig.now - created) // SECOND


@pytest.mark.parametrize(("index", "value"), [(-1, 0), (128, 0), (0, -1), (0, 256)])
def test_what_no_port_access_can_carry_is_an_error(index: int, value: int) -> None:
    with pytest.raises(ValueError, match="CMOS"):
        Rig().rtc.write(index, value)


@pytest.mark.parametrize("index", [-1, 128])
def test_what_no_port_access_can_ask_for_is_an_error(index: int) -> None:
    with pytest.raises(ValueError, match="CMOS"):
        Rig().rtc.read(index)
