"""What QEMU's RTC_CHANGE says to a settled event: yes, no, or nothing, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.opinion.opinions import CONSISTENT, INCONSISTENT, NO_OPINION, Said
from tests.opinion_run import BASE, ORDER, Records, at, bcd

THERE = at("2025-07-20T08:09:10")
CANNOT = "a time that QEMU's RTC cannot have"


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "vm0")


def only(records: Records) -> Said:
    (opinion,) = records.opinions()
    return opinion.qmp


@pytest.mark.parametrize("iso", [False, True])
@pytest.mark.parametrize("halted", [False, True])
@pytest.mark.parametrize(
    ("off", "opinion"), [(0, CONSISTENT), (-1, CONSISTENT), (3600, INCONSISTENT), (-20, INCONSISTENT)]
)
def test_a_whole_update_is_consistent_within_the_grain_only(
    tmp_path: Path, halted: bool, off: int, opinion: str, iso: bool
) -> None:
    records = Records(tmp_path / "vm0", iso=iso)
    last = records.update(10.2, THERE, halted=halted)
    records.change(last, THERE + off)
    records.event(last, THERE)
    said = only(records)
    assert said.opinion == opinion, said
    assert said.evidence["qemu_time"] == THERE + off


@pytest.mark.parametrize(("halted", "opinion"), [(False, CONSISTENT), (True, INCONSISTENT)])
def test_near_a_whole_second_qemu_gains_one_with_every_running_write(
    records: Records, halted: bool, opinion: str
) -> None:
    last = records.update(10.2, THERE, halted=halted)
    records.change(last, THERE + 6)
    records.event(last, THERE)
    assert only(records).opinion == opinion


def test_a_settled_event_without_an_rtc_change_is_contradicted(records: Records) -> None:
    records.change(3.0, BASE)  # of another write
    last = records.update(10.2, THERE)
    records.event(last, THERE)
    said = only(records)
    assert said.opinion == INCONSISTENT and "no RTC_CHANGE" in said.why


def test_what_came_after_the_recording_is_not_missed(records: Records) -> None:
    last = records.update(10.2, THERE)
    records.event(last, THERE)
    assert [opinion.qmp.why for opinion in records.opinions(11.0)] == ["the recording had ended"]
    assert [opinion.qmp.why for opinion in records.opinions(failure="EOFError")] == ["the recording had ended"]


def test_what_the_next_update_superseded_is_not_missed(records: Records) -> None:
    first = records.update(10.2, THERE)
    records.event(first, THERE)
    second = records.update(11.4, THERE + 5000)
    records.change(second, THERE + 5000)
    records.event(second, THERE + 5000)
    assert [opinion.qmp.why for opinion in records.opinions()] == ["superseded by the next update", ""]


@pytest.mark.parametrize("halted", [False, True])
def test_an_offset_of_32_bits_wraps(records: Records, halted: bool) -> None:
    there = at("2150-01-02T03:04:05")
    last = records.update(10.2, there, halted=halted)
    records.change(last, there, bits=32)
    records.event(last, there)
    assert only(records).opinion == CONSISTENT


@pytest.mark.parametrize(("halted", "opinion", "why"), [(True, CONSISTENT, ""), (False, NO_OPINION, CANNOT)])
def test_beyond_2262_qemus_clock_is_lost_but_an_unhalt_still_tells_what_was_written(
    records: Records, halted: bool, opinion: str, why: str
) -> None:
    there = at("3000-01-02T03:04:05")
    last = records.update(10.2, there, halted=halted)
    records.change(last, there, bits=32)
    records.event(last, there)
    records.read_back(11.5, BASE)
    (found,) = records.opinions()
    assert (found.qmp.opinion, found.qmp.why, found.read_back) == (opinion, why, None)


@pytest.mark.parametrize(("new_time", "why"), [(None, CANNOT), (-1, CANNOT)])
def test_an_event_without_a_time_cannot_be_compared(records: Records, new_time: int | None, why: str) -> None:
    last = records.update(10.2, THERE)
    records.change(last, THERE)
    records.event(last, new_time)
    assert only(records).why == why


@pytest.mark.parametrize(("delta", "opinion"), [(0, CONSISTENT), (-2, CONSISTENT), (3600, INCONSISTENT)])
def test_delta_time_is_what_the_offset_changed_by(records: Records, delta: int, opinion: str) -> None:
    before = BASE + 10
    last = records.update(10.2, THERE)
    records.change(last, THERE)
    records.event(last, THERE, THERE - before + delta)
    later = records.update(20.2, THERE + 999)
    records.change(later, THERE + 999)
    records.event(later, THERE + 999, 989)
    found = [opinion.qmp.opinion for opinion in records.opinions()]
    assert found == [opinion, CONSISTENT]


def test_part_of_the_registers_is_compared_with_what_is_known_of_the_rest(records: Records) -> None:
    last = records.update(10.2, THERE)
    records.change(last, THERE)
    records.event(last, THERE)
    hour = THERE + 5 * 3600 + 20
    part = records.update(30.2, hour, registers=[0x04])
    records.change(part, hour - 19)  # QEMU's second stood at what was last looked at
    records.event(part, hour, 5 * 3600)
    assert [opinion.qmp.opinion for opinion in records.opinions()] == [CONSISTENT, NO_OPINION]


def test_part_of_the_registers_soon_after_is_compared(records: Records) -> None:
    last = records.update(10.2, THERE)
    records.change(last, THERE)
    records.event(last, THERE)
    for number, (shows, opinion) in enumerate([(0, CONSISTENT), (-3, CONSISTENT), (-3600, INCONSISTENT)]):
        case = Records(records.folder.parent / f"case{number}")
        last = case.update(10.2, THERE)
        case.change(last, THERE)
        case.event(last, THERE)
        part = case.update(12.2, THERE + 7202, registers=[0x04], halted=True)
        case.change(part, THERE + 7202 + shows)
        case.event(part, THERE + 7202, 7200)
        assert [opinion.qmp.opinion for opinion in case.opinions()] == [CONSISTENT, opinion]


def test_nothing_is_known_of_the_rest_after_a_reset(records: Records) -> None:
    last = records.update(10.2, THERE)
    records.change(last, THERE)
    records.event(last, THERE)
    records.line(20.0, "resettable_reset obj=0x5 cold=0")
    part = records.update(30.2, BASE + 7200, registers=[0x04], halted=True)
    records.change(part, THERE + 7200)
    records.event(part, BASE + 7200)
    found = records.opinions()[1].qmp
    assert (found.opinion, found.why) == (NO_OPINION, "too few registers known to be alike")


def test_nothing_is_known_of_the_rest_after_a_write_that_was_no_event(records: Records) -> None:
    last = records.update(10.2, THERE)
    records.change(last, THERE)
    records.event(last, THERE)
    records.write(20.0, 0x07, 0x31)  # to ACRN no date, to QEMU another one
    part = records.update(30.2, THERE + 7200, registers=[0x04], halted=True)
    records.change(part, THERE - 500_000)
    records.event(part, THERE + 7200)
    assert records.opinions()[1].qmp.opinion == NO_OPINION


@pytest.mark.parametrize(
    ("qemu", "opinion"),
    [(THERE, CONSISTENT), (THERE + 2 * 86_400, NO_OPINION)],
)
def test_a_date_that_was_invalid_on_the_way_only_confirms(records: Records, qemu: int, opinion: str) -> None:
    last = records.update(10.2, THERE)
    records.change(last, qemu)
    records.event(last, THERE, estimated=True)
    assert only(records).opinion == opinion


def test_but_where_qemu_took_the_registers_as_they_are_the_event_has_to_say_so(records: Records) -> None:
    last = records.update(10.2, THERE)
    records.change(last, THERE)
    records.event(last, THERE + 3600, estimated=True)
    assert only(records).opinion == INCONSISTENT


def test_a_carry_in_mid_update_may_be_overwritten_on_one_side(records: Records) -> None:
    slow = at("2025-07-20T08:08:58")
    last = records.update(10.2, slow, registers=[0x04, 0x07, 0x08, 0x09, 0x32, 0x00, 0x02], gap_s=0.8)
    records.change(last, slow + 1)
    records.event(last, slow - 58)
    assert only(records).why == "a carry in mid-update"


@pytest.mark.parametrize(("second", "opinion"), [(59, NO_OPINION), (10, INCONSISTENT)])
def test_a_carry_of_qemus_may_be_overwritten_too_but_only_near_the_minutes_end(
    records: Records, second: int, opinion: str
) -> None:
    last = records.update(10.2, BASE + 20)
    records.change(last, BASE + 20)
    records.event(last, BASE + 20)
    there = at(f"2025-07-20T08:08:{second}")
    last = records.update(20.2, there)
    records.change(last, there + 60)
    records.event(last, there)
    assert [said.qmp.opinion for said in records.opinions()] == [CONSISTENT, opinion]


@pytest.mark.parametrize(
    ("before", "opinion"), [("2200-01-01T03:04:05", NO_OPINION), ("1999-01-01T03:04:05", INCONSISTENT)]
)
def test_a_year_on_the_way_that_qemus_rtc_does_not_have_is_another_one_to_it_from_then_on(
    records: Records, before: str, opinion: str
) -> None:
    last = records.update(10.2, at(before), halted=True)
    records.change(last, at(before))
    records.event(last, at(before))
    there = at("1970-01-01T04:28:22")  # by way of 2270, or of 1970
    last = records.update(20.2, there, registers=[0x09, 0x08, 0x02, 0x07, 0x04, 0x32, 0x00])
    records.change(last, at("1985-01-01T04:28:22"))
    records.event(last, there)
    assert [said.qmp.opinion for said in records.opinions()] == [CONSISTENT, opinion]


@pytest.mark.parametrize("vrtc", ["dm", "hv"])
def test_a_day_of_the_week_written_after_the_update_does_not_hide_it(tmp_path: Path, vrtc: str) -> None:
    records = Records(tmp_path / "vm0", vrtc=vrtc)
    for number, off in enumerate((0, 3600)):
        last = records.update(10.2 + 20 * number, THERE + number)
        records.write(last + 0.6, 0x06, 3)
        records.change(last + 0.6, THERE + number)
        records.event(last, THERE + number + off)
    opinions = [opinion.qmp.opinion for opinion in records.opinions()]
    assert opinions == [CONSISTENT, INCONSISTENT]


def test_an_event_that_no_write_explains_is_nobodys(records: Records) -> None:
    last = records.update(10.2, THERE)
    records.change(last, THERE)
    records.event(last + 0.7, THERE)
    records.event(3.0, THERE)
    assert {opinion.qmp.why for opinion in records.opinions()} == {"no write is its last"}


def test_an_event_with_another_write_in_its_window_is_nobodys(records: Records) -> None:
    last = records.update(10.2, THERE)
    records.write(last + 0.5, 0x07, 0x31)
    records.change(last + 0.5, THERE + 999_999)
    records.event(last, THERE)
    assert only(records).why == "another write in its window"


@pytest.mark.parametrize(
    ("writes", "why"),
    [
        ([(0x0B, 0x86), (0x04, 0x08), (0x0B, 0x06)], "format-with-halt"),
        ([(0x0B, 0x82), "update", (0x0B, 0x06)], "format-with-unhalt"),
        ([(0x0B, 0x82), (0x37, 0x20), "update", (0x0B, 0x02)], "ps2-century"),
        ([(0x0B, 0x82), "update", (0x00, 0x85), (0x0B, 0x02)], "second-bit-7"),
        ([(0x0A, 0x36), (0x0A, 0x26), "update"], "divider-reserved"),
    ],
)
def test_where_qemus_rtc_is_known_to_differ_there_is_no_opinion(
    records: Records, writes: list[tuple[int, int] | str], why: str
) -> None:
    moment = 10.2
    for write in writes:
        moment += 0.001
        if isinstance(write, tuple):
            records.write(moment, *write)
        else:
            moment = records.update(moment, THERE)
    records.change(moment, THERE + 999_999)
    records.event(moment, THERE)
    found = only(records)
    if why == "divider-reserved":  # the doubt went with the first register; all seven were written after it
        assert found.opinion == INCONSISTENT
    else:
        assert (found.opinion, found.why) == (NO_OPINION, why)


@pytest.mark.parametrize(("vrtc", "opinion"), [("dm", INCONSISTENT), ("hv", NO_OPINION)])
def test_bytes_whose_format_changes_while_halted_are_read_again_by_all_but_the_hypervisor(
    tmp_path: Path, vrtc: str, opinion: str
) -> None:
    records = Records(tmp_path / "vm0", vrtc=vrtc)
    records.write(10.2, 0x0B, 0x82)
    last = records.update(10.201, THERE)
    records.write(last + 0.001, 0x0B, 0x86)
    unhalt = last + 0.002
    records.write(unhalt, 0x0B, 0x06)
    records.change(unhalt, THERE + 999_999)
    records.event(unhalt if vrtc == "dm" else last, THERE)
    assert only(records).opinion == opinion


@pytest.mark.parametrize(("off", "opinion"), [(0, CONSISTENT), (3600, INCONSISTENT)])
def test_a_format_that_came_with_the_halt_does_not_matter_where_all_registers_were_written_in_it(
    records: Records, off: int, opinion: str
) -> None:
    records.write(10.1, 0x0B, 0x86)
    for number, (register, byte) in enumerate(bcd(THERE).items()):
        records.write(10.2 + number * 3e-5, register, (byte >> 4) * 10 + (byte & 15))
    records.write(10.3, 0x0B, 0x82)
    records.write(10.3001, 0x0B, 0x86)  # what is changed while it is halted is only read otherwise
    records.write(10.4, 0x0B, 0x06)
    records.change(10.4, THERE + off)
    records.event(10.4, THERE)
    assert only(records).opinion == opinion


def test_near_a_step_of_the_wall_clock_stamps_attribute_nothing(records: Records) -> None:
    last = records.update(10.2, THERE)
    records.say("clock-step", 11.0, by_ns=3_600_000_000_000)
    records.event(last, THERE)
    assert only(records).why == "clock-step"


def test_the_clock_of_a_restored_guest_is_taken_from_the_first_event_that_qemu_must_agree_with(tmp_path: Path) -> None:
    # given a first update on the way of which QEMU may have made another date of a date that there is not
    records = Records(tmp_path / "vm0", register_a=0x26, register_b=0x02)
    last = records.update(3.2, THERE - 1000)
    records.change(last, THERE - 1000 + 30 * 86400, origin=BASE + 12_345)
    records.event(last, THERE - 1000)
    for number, off in enumerate((0, 0, 3600)):
        last = records.update(10.2 + 20 * number, THERE + number * 1000, halted=True)
        records.change(last, THERE + number * 1000 + off, origin=BASE + 12_345)
        records.event(last, THERE + number * 1000)
    found = [opinion.qmp for opinion in records.opinions()]
    assert [said.opinion for said in found] == [NO_OPINION, NO_OPINION, CONSISTENT, INCONSISTENT]
    assert found[0].why == "invalid-date" and "reference clock" in found[1].why


def test_qemus_rtc_stands_while_the_machine_does_and_what_its_offsets_refer_to_goes_on(records: Records) -> None:
    records.line(2.0, "runstate_set current_run_state 9 (running) new_state 4 (paused)")
    records.line(52.0, "runstate_set current_run_state 4 (paused) new_state 9 (running)")
    part = records.update(60.2, BASE + 7200 + 60, registers=[0x04], halted=True)
    records.change(part, BASE + 7200 + 10)
    records.event(part, BASE + 7200 + 60)
    last = records.update(70.2, THERE, halted=True)
    records.change(last, THERE)
    records.event(last, THERE)
    assert [opinion.qmp.opinion for opinion in records.opinions()] == [NO_OPINION, CONSISTENT]


def test_registers_written_before_a_reset_are_not_those_that_are_there_after_it(records: Records) -> None:
    records.update(10.2, THERE, registers=ORDER[:6])
    records.line(10.3, "resettable_reset obj=0x5 cold=0")
    last = records.update(10.4, THERE, registers=ORDER[6:])
    records.change(last, THERE)
    records.event(last, BASE + 10)
    assert only(records).why == "too few registers known to be alike"


@pytest.mark.parametrize(("late_s", "opinion"), [(1.4, CONSISTENT), (9.0, NO_OPINION)])
def test_when_qemu_began_to_count_is_known_by_its_first_line_at_the_latest(
    tmp_path: Path, late_s: float, opinion: str
) -> None:
    records = Records(tmp_path / "vm0", first_line_s=late_s)
    last = records.update(20.2, THERE)
    records.change(last, THERE, origin=BASE - 1)
    records.event(last, THERE)
    assert only(records).opinion == opinion


@pytest.mark.parametrize("halted", [False, True])
def test_on_the_hypervisors_vrtc_the_last_date_register_counts_and_qemu_takes_it_at_the_unhalt(
    tmp_path: Path, halted: bool
) -> None:
    for number, off in enumerate((0, 3600)):
        records = Records(tmp_path / f"vm{number}", vrtc="hv")
        last = records.update(10.2, THERE, halted=halted)
        records.change(last, THERE)
        records.event(last - 3e-5 if halted else last, THERE + off)
        assert only(records).opinion == (INCONSISTENT if off else CONSISTENT)


def test_a_clock_that_is_not_unhalted_in_time_says_nothing(tmp_path: Path) -> None:
    records = Records(tmp_path / "vm0", vrtc="hv")
    records.write(10.0, 0x0B, 0x82)
    last = records.update(10.2, THERE)
    records.event(last, THERE)
    records.write(15.0, 0x0B, 0x02)
    assert only(records).why == "QEMU's RTC was still halted"


def test_events_of_another_source_are_left_alone(records: Records) -> None:
    last = records.update(10.2, THERE)
    records.event(last, THERE, source="monitor")
    assert records.opinions() == []
    assert len(ORDER) == 7


def test_what_the_guest_read_is_held_against_the_event_before(records: Records) -> None:
    for number, off in enumerate((0, 3600)):
        last = records.update(10.2 + 20 * number, THERE)
        records.change(last, THERE)
        records.event(last, THERE)
        records.read_back(15.2 + 20 * number, THERE + 5 + off)
    records.write(50.0, 0x07, 0x31)
    records.read_back(50.1, BASE)  # written since, without an event: nothing to hold it against
    found = [opinion.read_back for opinion in records.opinions()]
    assert [said.opinion if said else None for said in found] == [CONSISTENT, INCONSISTENT]
