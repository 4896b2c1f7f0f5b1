"""Guests with the hypervisor's vRTC: every row of ACRN.md's table, and the ways to tell an update of theirs wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.judge import PASS, PRODUCT_FAULT, Verdict
from tests.judge_cases import AT, DUE, final, only, registered_guest
from tests.judge_registers import bcd, fields, utc
from tests.judge_run import MS, RTC0, SECOND, T0, RunWriter, Step, settled

JAN_31 = utc(2024, 1, 31, 12)


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return registered_guest(tmp_path, vrtc="hv", offset_s=0)


@pytest.fixture
def january(tmp_path: Path) -> RunWriter:
    return registered_guest(tmp_path, JAN_31, vrtc="hv", offset_s=0)


def hv(last: int | None, new: int, delta: int | None, raw: int, **more: Any) -> dict[str, Any]:
    """An event as the service must tell it."""
    return {**settled(0, new, 0, raw, source="hv"), "last_time": last, "delta_time": delta, **more}


def all_seven(time: int, after_ns: int = 0) -> list[Step]:
    return [
        (after_ns + place * MS, register, bcd(value)) for place, (register, value) in enumerate(fields(time).items())
    ]


READ: Step = (0, 0x0A, None)
"""What a careful guest does first: it looks whether an update is in progress."""


# -- the table ---------------------------------------------------------------------------------------------


def test_a_no_op_with_fresh_bytes_is_seven_raw_events_and_delta_0(run: RunWriter) -> None:
    run.do("a", AT, [READ, *all_seven(RTC0 + 5, MS)])
    run.event(DUE + 8 * MS, hv(RTC0 + 5, RTC0 + 5, 0, 7))
    assert only(run).verdict == PASS


def test_a_no_op_with_stale_bytes_takes_back_the_seconds_since_they_were_read(run: RunWriter) -> None:
    run.do("a", AT, [(0, 0x32, 0x20)])
    run.event(DUE + MS, hv(RTC0 + 5, RTC0, -5, 1))
    assert only(run).verdict == PASS


def test_set_means_nothing_a_halted_update_announces_seven_times(run: RunWriter) -> None:
    run.do("a", AT, [(0, 0x0B, 0x82), *all_seven(RTC0 + 86_400, MS), (9 * MS, 0x0B, 0x02)], mode="halted")
    run.event(AT + 7 * MS + SECOND + MS, hv(RTC0 + 5, RTC0 + 86_400, 86_395, 7))
    verdict = only(run)
    assert verdict.verdict == PASS
    assert [announced for *_, announced in verdict.writes] == [False, *[True] * 7, False]


def test_an_invalid_date_in_the_middle_telescopes(january: RunWriter) -> None:
    january.do("a", AT, [READ, (MS, 0x08, 0x02), (900 * MS, 0x07, 0x29)])
    new = utc(2024, 2, 29, 12, 0, 5)
    january.event(AT + 1_901 * MS, hv(JAN_31 + 5, new, new - JAN_31 - 5, 2))
    assert only(january).verdict == PASS


def test_ticks_in_the_middle_are_not_in_the_sum(january: RunWriter) -> None:
    january.do("a", AT, [READ, (900 * MS, 0x08, 0x02), (1_800 * MS, 0x07, 0x29)])
    new = utc(2024, 2, 29, 12, 0, 5)
    # from 31 January to -1, then from 0, where it has ticked to, to 29 February
    january.event(AT + 2_801 * MS, hv(JAN_31 + 5, new, -1 - JAN_31 - 5 + new, 2))
    assert only(january).verdict == PASS


def test_an_invalid_date_at_the_end_is_an_event_that_ends_at_minus_one(january: RunWriter) -> None:
    january.do("a", AT, [READ, (MS, 0x04, 0x13), (500 * MS, 0x08, 0x02)])
    january.event(AT + 1_501 * MS, hv(JAN_31 + 5, -1, -1 - JAN_31 - 5, 2))
    assert only(january).verdict == PASS


@pytest.mark.parametrize(("after_s", "where"), [(0, -1), (2, 1), (3, 2), (7, 6)])
def test_the_next_update_begins_where_the_clock_then_is(january: RunWriter, after_s: int, where: int) -> None:
    """And without a read the bytes are still those that were no date."""
    gap_ns = after_s * SECOND + 20 * MS
    january.do("a", AT, [READ, (MS, 0x08, 0x02), (gap_ns, 0x07, 0x29)])
    new, broken = utc(2024, 2, 29, 12, 0, 5), hv(JAN_31 + 5, -1, -1 - JAN_31 - 5, 1)
    if after_s:
        january.event(AT + SECOND + 2 * MS, broken)
        january.event(AT + gap_ns + SECOND + MS, hv(where, new, new - where, 1))
    else:
        january.event(AT + gap_ns + SECOND + MS, hv(JAN_31 + 5, new, new - JAN_31 - 5, 2))
    assert only(january).verdict == PASS


def test_after_two_ticks_a_read_replaces_the_whole_date_by_1970(january: RunWriter) -> None:
    january.do("a", AT, [READ, (MS, 0x08, 0x02), (4 * SECOND, 0x0A, None), (4 * SECOND + MS, 0x09, 0x71)])
    january.event(AT + SECOND + 2 * MS, hv(JAN_31 + 5, -1, -1 - JAN_31 - 5, 1))
    new = utc(1971, 1, 1, 0, 0, 3)
    january.event(AT + 5 * SECOND + 2 * MS, hv(3, new, new - 3, 1))
    assert only(january).verdict == PASS


def test_broken_halted_and_un_halted_it_announces_as_ever(january: RunWriter) -> None:
    """What is a known defect of the device model's vRTC is none here."""
    january.do("a", AT, [READ, (MS, 0x08, 0x02), (2 * MS, 0x0B, 0x82), (3 * MS, 0x07, 0x10), (4 * MS, 0x0B, 0x02)])
    new = utc(2024, 2, 10, 12, 0, 5)
    january.event(AT + SECOND + 4 * MS, hv(JAN_31 + 5, new, new - JAN_31 - 5, 2))
    verdict = only(january)
    assert (verdict.verdict, verdict.defect) == (PASS, None)


def test_there_and_back_is_one_event_with_delta_0(run: RunWriter) -> None:
    run.do("a", AT, [READ, (MS, 0x04, 0x13), (500 * MS, 0x04, 0x12)])
    run.event(AT + 1_501 * MS, hv(RTC0 + 5, RTC0 + 5, 0, 2))
    assert only(run).verdict == PASS


@pytest.mark.parametrize(("reads", "delta"), [(False, -1), (True, 0)])
def test_there_and_back_over_a_tick_ends_at_minus_1_without_a_read(run: RunWriter, reads: bool, delta: int) -> None:
    again: list[Step] = [(890 * MS, 0x0A, None)] if reads else []
    at_ns = AT + 500 * MS
    run.do("a", at_ns, [READ, (MS, 0x04, 0x13), *again, (900 * MS, 0x04, 0x12)])
    run.event(at_ns + 1_901 * MS, hv(RTC0 + 5, RTC0 + 5 + 1 + delta, delta, 2))
    assert only(run).verdict == PASS


def test_a_system_reset_in_mid_update_changes_nothing(run: RunWriter) -> None:
    run.trace(T0 + 1, "resettable_reset obj=0xbbb cold=1")
    run.trace(T0 + 2, "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)")
    run.do("a", AT, [READ, (MS, 0x04, 0x13)])
    run.trace(AT + 300 * MS, "resettable_reset obj=0xbbb cold=0")
    run.port(AT + 400 * MS, 0x71, 0x14)  # to the register that was indexed before
    run.event(AT + 1_401 * MS, hv(RTC0 + 5, RTC0 + 2 * 3600 + 5, 7200, 2))
    run.do("b", AT + 4 * SECOND, [READ, (MS, 0x04, 0x15)])
    run.event(AT + 5 * SECOND + 2 * MS, hv(RTC0 + 7209, RTC0 + 3 * 3600 + 9, 3600, 1))
    assert [verdict.verdict for verdict in final(run).values()] == [PASS, PASS]


# -- the chain: no anchor, restarts, silent moves, a clock that never runs ---------------------------------


def test_a_service_restart_ends_the_update_and_the_chain_but_not_the_clock(january: RunWriter) -> None:
    # given a clock that ends at -1, and the service restarted before it has told so
    january.do("a", AT, [READ, (MS, 0x08, 0x02)])
    january.record("service-restart", AT + 300 * MS)
    # when the next update begins within the same second, for a service that knows nothing of the guest's RTC
    january.do("b", AT + 500 * MS, [(0, 0x07, 0x10)])
    january.event(AT + 1_501 * MS, hv(None, utc(2024, 2, 10, 12, 0, 5), None, 1, estimated=True))
    assert [verdict.verdict for verdict in final(january).values()] == [PASS, PASS]


@pytest.mark.parametrize("anchored", [False, True])
def test_nobody_tells_the_service_what_the_hypervisors_rtc_shows(tmp_path: Path, anchored: bool) -> None:
    """A service that took the device model's time for it would say `lost`."""
    run = registered_guest(tmp_path, vrtc="hv", offset_s=-86_400)
    run.do("a", AT, [READ, (MS, 0x04, 0x13)])
    before = RTC0 - 86_400 + 5
    run.event(DUE + 2 * MS, hv(before, before + 3600, 3600, 1, **({"lost": True} if anchored else {})))
    verdict = only(run)
    assert verdict.faults == (("payload",) if anchored else ())


def noon_read_as_midnight(run: RunWriter) -> int:
    """An update to noon; then 12 h format and NVRAM: the clock silently goes back twelve hours, and an update of
    another hour begins there. Returns when the last one's event is due.
    """
    run.do("a", AT, [READ, *all_seven(RTC0 + 86_400, MS)])
    run.event(DUE + 8 * MS, hv(RTC0 + 5, RTC0 + 86_400, 86_395, 7))
    run.do("b", AT + 4 * SECOND, [(0, 0x0B, 0x00), (MS, 0x0F, 0x0A)])
    run.do("c", AT + 8 * SECOND, [(0, 0x04, 0x03)])
    return AT + 9 * SECOND


def test_a_silent_move_is_no_event_and_a_lost_link_of_the_next(run: RunWriter) -> None:
    due_ns = noon_read_as_midnight(run)
    midnight = RTC0 + 43_200
    run.event(due_ns + MS, hv(midnight + 4, midnight + 3 * 3600, 3 * 3600 - 4, 1, lost=True))
    assert [verdict.verdict for verdict in final(run).values()] == [PASS, PASS, PASS]


def test_a_gap_that_is_not_told_is_a_fault_and_the_verdict_says_where_it_came_from(run: RunWriter) -> None:
    due_ns = noon_read_as_midnight(run)
    midnight = RTC0 + 43_200
    run.event(due_ns + MS, hv(midnight + 4, midnight + 3 * 3600, 3 * 3600 - 4, 1))
    verdict = final(run)["c"]
    assert (verdict.verdict, verdict.faults) == (PRODUCT_FAULT, ("payload",))
    assert verdict.diagnosis == (
        "lost is missing, expected true; the RTC had been moved without an event: 0x0f=0x0a by -43204 s"
    )


def test_silent_moves_that_have_nothing_to_do_with_a_fault_are_not_named(run: RunWriter) -> None:
    # given one that died with the service, and one that moved nothing
    run.do("a", AT, [(0, 0x0F, 0x0A)])
    run.record("service-restart", AT + SECOND)
    run.do("b", AT + 4 * SECOND, [READ, (MS, 0x06, 0x02), (2 * MS, 0x04, 0x13)])
    run.event(AT + 5 * SECOND + 3 * MS, hv(RTC0 + 4, RTC0 + 3604, 3601, 1))
    assert final(run)["b"].diagnosis == "delta_time is 3601, expected 3600 (+1 s)"


def test_a_silent_move_that_lags_is_explained_by_a_clock_that_stood(run: RunWriter) -> None:
    """Back to the bytes of the last write, but not behind it: that may be a halted clock, for all one knows."""
    run.do("a", AT, [READ, (MS, 0x04, 0x13)])
    run.event(DUE + 2 * MS, hv(RTC0 + 5, RTC0 + 3605, 3600, 1))
    run.do("b", AT + 4 * SECOND, [(0, 0x06, 0x02)])
    run.do("c", AT + 7 * SECOND, [(0, 0x04, 0x15)])
    run.event(AT + 8 * SECOND + MS, hv(RTC0 + 3608, RTC0 + 3 * 3600 + 5, 2 * 3600 - 3, 1))
    assert [verdict.verdict for verdict in final(run).values()] == [PASS, PASS, PASS]


def test_a_silent_move_to_no_date_is_a_break_to_be_estimated_over(january: RunWriter) -> None:
    january.do("a", AT, [READ, (MS, 0x04, 0x13)])
    january.event(DUE + 2 * MS, hv(JAN_31 + 5, JAN_31 + 3605, 3600, 1))
    # when binary format and NVRAM take the clock to -1 before the day is written
    january.do("b", AT + 4 * SECOND, [(0, 0x0B, 0x06), (MS, 0x0F, 0x0A), (2 * MS, 0x07, 12)])
    estimate = JAN_31 + 3609
    january.event(AT + 5 * SECOND + 3 * MS, hv(estimate, -1, -1 - estimate, 1, estimated=True))
    # then what follows at once from where it stands is no break
    january.do("c", AT + 6_500 * MS, [(0, 0x0B, 0x02), (MS, 0x07, 0x12)])
    new = utc(2024, 1, 12, 13, 0, 5)
    january.event(AT + 7_502 * MS, hv(1, new, new - 1, 1))
    assert [verdict.verdict for verdict in final(january).values()] == [PASS, PASS, PASS]


def test_a_clock_that_never_runs_is_estimated_from_the_second_event_on(tmp_path: Path) -> None:
    run = registered_guest(tmp_path, 0, vrtc="hv", offset_s=0)
    first, second = utc(2024, 6, 15, 12), utc(2030, 1, 2, 3, 4, 5)
    run.do("a", AT, [(0, 0x32, 0x20), *all_seven(first, MS)])
    run.event(AT + 7 * MS + SECOND + MS, hv(None, first, None, 8, estimated=True))
    run.do("b", AT + 4 * SECOND, all_seven(second))
    run.event(AT + 5 * SECOND + 7 * MS, hv(first + 4, second, second - first - 4, 7, estimated=True))
    assert [verdict.diagnosis for verdict in final(run).values()] == ["", ""]


# -- told wrongly ------------------------------------------------------------------------------------------


def told(run: RunWriter, **change: Any) -> Verdict:
    """The verdict on an hour that was written 5 s after the bytes were last read, told with such a change."""
    run.do("a", AT, [(0, 0x04, 0x13)])
    event = {**hv(RTC0 + 5, RTC0 + 3600, 3595, 1), **change}
    run.event(DUE + MS, {key: value for key, value in event.items() if value != "absent"})
    return only(run)


@pytest.mark.parametrize(
    ("change", "diagnosis"),
    [
        ({"source": "dm"}, 'source is "dm", expected "hv"'),
        ({"source": "absent"}, 'source is missing, expected "hv"'),
        ({"delta_time": 3596}, "delta_time is 3596, expected 3595 (+1 s)"),
        ({"delta_time": 3600}, "delta_time is 3600, expected 3595 (+5 s)"),
        ({"last_time": RTC0}, f"last_time is {RTC0}, expected {RTC0 + 5} (-5 s)"),
        ({"new_time": RTC0 + 3605}, f"new_time is {RTC0 + 3605}, expected {RTC0 + 3600} (+5 s)"),
        ({"raw_events": 2}, "raw_events is 2, expected 1 (+1)"),
        ({"estimated": True}, "unexpected key estimated = true"),
        ({"lost": True}, "unexpected key lost = true"),
        ({"last_time": None}, f"last_time is null, expected {RTC0 + 5}"),
    ],
)
def test_an_event_told_wrongly_is_a_fault(run: RunWriter, change: dict[str, Any], diagnosis: str) -> None:
    verdict = told(run, **change)
    assert (verdict.verdict, verdict.faults, verdict.diagnosis) == (PRODUCT_FAULT, ("payload",), diagnosis)


def test_told_rightly_it_is_none(run: RunWriter) -> None:
    assert told(run).verdict == PASS


def test_what_the_device_models_vrtc_would_have_said_comes_as_well(run: RunWriter) -> None:
    run.do("a", AT, [READ, (MS, 0x04, 0x13)])
    run.event(DUE + 2 * MS, hv(RTC0 + 5, RTC0 + 3605, 3600, 1))
    run.event(DUE + 3 * MS, settled(RTC0 + 5, RTC0 + 3605, 3600, 1))
    verdict = only(run)
    assert verdict.faults == ("duplicate", "payload")
    assert verdict.diagnosis == 'second event 1 ms after the first (source is "dm", expected "hv")'


def test_an_event_for_a_silent_move_is_unexplained(run: RunWriter) -> None:
    run.do("a", AT, [(0, 0x06, 0x02)])
    run.event(DUE + MS, hv(RTC0 + 5, RTC0, -5, 1))
    assert only(run).faults == ("unexplained",)


@pytest.mark.parametrize(
    ("change", "diagnosis"),
    [
        ({"last_time": -1}, "last_time is -1, expected null"),
        ({"delta_time": RTC0 + 86_401}, f"delta_time is {RTC0 + 86_401}, expected null"),
        ({"last_time": "absent"}, "last_time is missing, expected null"),
        ({"estimated": "absent"}, "estimated is missing, expected true"),
        ({"new_time": None}, f"new_time is null, expected {RTC0 + 86_400}"),
    ],
)
def test_what_nobody_knows_must_be_null(tmp_path: Path, change: dict[str, Any], diagnosis: str) -> None:
    run = registered_guest(tmp_path, 0, vrtc="hv", offset_s=0)
    run.do("a", AT, all_seven(RTC0 + 86_400))
    event = {**hv(None, RTC0 + 86_400, None, 7, estimated=True), **change}
    run.event(DUE + 7 * MS, {key: value for key, value in event.items() if value != "absent"})
    verdict = only(run)
    assert (verdict.faults, verdict.diagnosis) == (("payload",), diagnosis)
