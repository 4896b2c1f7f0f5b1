"""Rule by rule: what the judge says of one or two updates, and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.judge import INCONCLUSIVE, KNOWN_DEFECT, PASS, PRODUCT_FAULT, GuestJudge
from tests.judge_cases import AT, DUE, END, HOUR_ON, final, hour_on, only, registered_guest
from tests.judge_run import MS, RTC0, SECOND, T0, RunWriter, settled


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return registered_guest(tmp_path)


def test_the_event_in_time_passes_in_the_shape_of_the_contract(run: RunWriter) -> None:
    hour_on(run, seq=3)
    run.event(DUE + 310_000, HOUR_ON)
    verdict = only(run)
    assert json.loads(json.dumps(verdict.as_json())) == {
        "item": "a",
        "revision": 1,
        "vm": "vm0",
        "verdict": "pass",
        "role": "update",
        "mode": "running",
        "order": [0, 2, 4, 7, 8, 9, 50],
        "diagnosis": "",
        "faults": [],
        "defect": None,
        "expected": [
            {
                "last_time": RTC0 + 5,
                "new_time": RTC0 + 3605,
                "delta_time": 3600,
                "raw_events": 1,
                "estimated": False,
                "lost": False,
                "first_ns": AT,
                "last_ns": AT,
                "due_ns": DUE,
                "last_arrival_ns": AT + 20_000,
            }
        ],
        "seen": [{"t_ns": DUE + 310_000, "event": HOUR_ON, "after_due_ms": 0.31, "faults": []}],
        "writes": [[AT, 4, 0x13, True]],
        "latency_ms": 0.31,
        "decided_ns": END,
        "expect": "any",
        "seq": 3,
    }


@pytest.mark.parametrize(
    ("t_ns", "faults", "diagnosis"),
    [
        (DUE - MS, (), ""),
        (DUE - MS - 1, ("early",), "event 1 ms early"),
        (DUE - 312 * MS, ("early",), "event 312 ms early"),
        (DUE + 150 * MS + 20_000, (), ""),
        (DUE + 150 * MS + 20_001, ("late",), "event 150 ms late"),
        (DUE + 1_850 * MS, ("late",), "event 1.85 s late"),
        (DUE + 6 * SECOND, ("late",), "event 6.00 s late"),
    ],
)
def test_in_time_is_from_1_ms_before_due_to_150_ms_after(
    run: RunWriter, t_ns: int, faults: tuple[str, ...], diagnosis: str
) -> None:
    hour_on(run)
    run.event(t_ns, HOUR_ON)
    verdict = only(run)
    assert (verdict.faults, verdict.diagnosis) == (faults, diagnosis)
    assert verdict.verdict == (PRODUCT_FAULT if faults else PASS)


def test_a_trace_line_that_arrives_late_moves_the_limit(run: RunWriter) -> None:
    run.lag_ns = 400 * MS
    hour_on(run)
    run.event(DUE + 500 * MS, HOUR_ON)
    assert only(run).verdict == PASS


@pytest.mark.parametrize(
    ("change", "diagnosis"),
    [
        ({"delta_time": 3601}, "delta_time is 3601, expected 3600 (+1 s)"),
        ({"last_time": RTC0 + 4}, f"last_time is {RTC0 + 4}, expected {RTC0 + 5} (-1 s)"),
        ({"raw_events": 2}, "raw_events is 2, expected 1 (+1)"),
        ({"raw_events": "1"}, 'raw_events is "1", expected 1 (JSON type string instead of integer)'),
        ({"raw_events": 1.0}, "raw_events is 1.0, expected 1 (JSON type fraction instead of integer)"),
        ({"raw_events": True}, "raw_events is true, expected 1 (JSON type boolean instead of integer)"),
        ({"vm_event": 1}, "vm_event is 1, expected 0 (+1)"),
        ({"vm_event": False}, "vm_event is false, expected 0 (JSON type boolean instead of integer)"),
        ({"source": "hv"}, 'source is "hv", expected "dm"'),
        ({"vm": "vm1"}, 'vm is "vm1", expected "vm0"'),
        ({"overrun": 3}, "unexpected key overrun = 3"),
        ({"lost": True}, "unexpected key lost = true"),
        ({"estimated": False}, "unexpected key estimated = false"),
        ({"delta_time": None}, "delta_time is null, expected 3600"),
    ],
)
def test_every_field_counts(run: RunWriter, change: dict[str, Any], diagnosis: str) -> None:
    hour_on(run)
    run.event(DUE + MS, {**HOUR_ON, **change})
    verdict = only(run)
    assert (verdict.verdict, verdict.faults, verdict.diagnosis) == (PRODUCT_FAULT, ("payload",), diagnosis)


def test_a_key_that_is_not_there(run: RunWriter) -> None:
    hour_on(run)
    run.event(DUE + MS, {key: value for key, value in HOUR_ON.items() if key != "vm"})
    assert only(run).diagnosis == 'vm is missing, expected "vm0"'


def test_a_second_event(run: RunWriter) -> None:
    hour_on(run)
    run.event(DUE + MS, HOUR_ON)
    run.event(DUE + 313 * MS, HOUR_ON)
    verdict = only(run)
    assert (verdict.faults, verdict.diagnosis) == (("duplicate",), "second event 312 ms after the first")
    assert [seen.faults for seen in verdict.seen] == [(), ("duplicate",)]


def test_no_event(run: RunWriter) -> None:
    hour_on(run)
    verdict = only(run)
    assert (verdict.verdict, verdict.faults) == (PRODUCT_FAULT, ("missing",))
    assert verdict.diagnosis == "no event came, awaited until 6.00 s after it was due"


def test_an_event_for_what_must_say_nothing(run: RunWriter) -> None:
    run.do("a", AT, [(0, 0x06, 0x03), (MS, 0x01, 0x30)])
    run.event(DUE + MS, settled(RTC0 + 5, RTC0 + 5, 0, 1))
    verdict = only(run)
    assert (verdict.verdict, verdict.faults) == (PRODUCT_FAULT, ("unexplained",))
    assert "an event that no update explains" in verdict.diagnosis


STRANGE = settled(7, 9_999, 9_992, 1)
"""An event that resembles no update."""


def test_what_comes_while_nothing_may_come_does_not_fall_back_on_the_update_before(run: RunWriter) -> None:
    hour_on(run, "a")
    run.event(DUE + MS, HOUR_ON)
    run.do("b", DUE + SECOND, [(0, 0x06, 0x03)])
    run.event(DUE + 2 * SECOND, STRANGE)
    verdicts = final(run)
    assert (verdicts["a"].verdict, verdicts["b"].faults) == (PASS, ("unexplained",))


def test_it_does_so_too_when_the_agent_answers_only_later(run: RunWriter) -> None:
    hour_on(run, "a")
    run.event(DUE + MS, HOUR_ON)
    judge = GuestJudge(run.dir)
    judge.refresh()
    judge.decide(DUE + SECOND)
    run.event(DUE + 2 * SECOND, STRANGE)
    judge.refresh()
    judge.decide(DUE + 2 * SECOND)
    run.do("b", DUE + SECOND, [(0, 0x06, 0x03)])
    judge.refresh()
    last = {verdict.item: verdict for verdict in judge.decide(DUE + 3 * SECOND)}
    assert (last["a"].verdict, last["b"].faults) == (PASS, ("unexplained",))


def test_silence_already_told_is_revised_by_an_event_read_late(run: RunWriter) -> None:
    last = run.do("a", AT, [(0, 0x06, 0x03)])
    judge = GuestJudge(run.dir)
    judge.refresh()
    assert [verdict.verdict for verdict in judge.decide(last + 2 * SECOND)] == [PASS]
    run.event(last + SECOND, STRANGE)
    judge.refresh()
    (verdict,) = judge.decide(last + 2 * SECOND)
    assert (verdict.revision, verdict.faults) == (2, ("unexplained",))


def test_an_event_altered_beyond_recognition_is_the_one_that_is_missed(run: RunWriter) -> None:
    hour_on(run, "a")
    run.event(DUE + 3 * SECOND, STRANGE)
    run.do("b", DUE + 4 * SECOND, [(0, 0x04, 0x15)])
    run.event(DUE + 5 * SECOND + MS, settled(RTC0 + 3609 + 1, RTC0 + 10_810, 7_200, 1))
    verdicts = final(run)
    assert (verdicts["a"].faults, verdicts["b"].verdict) == (("late", "payload"), PASS)


def test_a_lone_update_is_revised_like_any_other(run: RunWriter) -> None:
    run.write(AT, 0x04, 0x13)
    run.event(DUE + MS, HOUR_ON)
    judge = GuestJudge(run.dir, background_after_ns=0)
    judge.refresh()
    assert [verdict.verdict for verdict in judge.decide(DUE + SECOND)] == [PASS]
    run.event(DUE + 2 * SECOND, HOUR_ON)
    judge.refresh()
    (verdict,) = judge.decide(DUE + 2 * SECOND)
    assert (verdict.item, verdict.revision, verdict.faults) == ("background-1", 2, ("duplicate",))


def test_an_event_nobody_asked_for_blames_no_item(run: RunWriter) -> None:
    hour_on(run)
    run.event(DUE + MS, HOUR_ON)
    run.event(DUE + 15 * SECOND, settled(1, 2, 1, 1))
    verdicts = final(run)
    assert verdicts["a"].verdict == PASS
    assert verdicts["background-event-2"].faults == ("unexplained",)
    assert verdicts["background-event-2"].role == "background"


def test_an_update_of_no_item_is_background_and_judged(run: RunWriter) -> None:
    run.write(AT, 0x04, 0x13)
    run.event(DUE + MS, HOUR_ON)
    verdict = only(run)
    assert (verdict.item, verdict.role, verdict.verdict) == ("background-1", "background", PASS)


def test_what_the_firmware_did_before_anyone_listened_is_not_judged(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.start()
    run.write(AT, 0x04, 0x13)
    run.journal("connected", t_ns=AT + 3 * SECOND)
    assert final(run) == {}


def test_two_updates_of_one_item_are_two_events(run: RunWriter) -> None:
    run.do("a", AT, [(0, 0x04, 0x13), (1_300 * MS, 0x04, 0x15)])
    run.event(DUE + MS, HOUR_ON)
    verdict = only(run)
    assert (len(verdict.expected), verdict.faults) == (2, ("missing",))


# -- agent and witness (rule 7) ----------------------------------------------------------------------------


def test_a_witness_that_lacks_the_last_writes_is_not_complete_yet(run: RunWriter) -> None:
    run.item("a", AT - MS, AT + MS, [(0x04, 0x13), (0x02, 0x30)])
    run.write(AT, 0x04, 0x13)
    judge = GuestJudge(run.dir)
    judge.refresh()
    view = judge.item("a")
    assert view is not None and not view.complete
    assert judge.decide(DUE + SECOND) == []
    assert judge.errors == []
    (verdict,) = judge.decide(DUE + 20 * SECOND, final=True)
    assert verdict.verdict == INCONCLUSIVE
    (error,) = judge.errors
    assert "the agent reports 2 writes [0x04=0x13, 0x02=0x30], the trace holds 1 writes [0x04=0x13]" in str(error)


def test_a_contradiction_is_an_infrastructure_error_at_once(run: RunWriter) -> None:
    run.write(AT, 0x04, 0x14)
    run.item("a", AT - MS, AT + MS, [(0x04, 0x13)])
    run.event(DUE + MS, HOUR_ON)
    judge = GuestJudge(run.dir)
    judge.refresh()
    (verdict,) = judge.decide(DUE + SECOND)
    assert (verdict.verdict, verdict.faults) == (INCONCLUSIVE, ())
    assert "agent and witness disagree" in verdict.diagnosis
    assert len(judge.errors) == 1


def test_a_stamp_that_misses_the_span_by_a_little_is_still_the_items(run: RunWriter) -> None:
    run.write(AT - 3 * MS, 0x04, 0x13)
    run.item("a", AT, AT + MS, [(0x04, 0x13)])
    run.event(DUE - 2 * MS, settled(RTC0 + 4, RTC0 + 3604, 3600, 1))
    assert only(run).verdict == PASS


def test_writes_the_agent_cannot_know_are_taken_from_the_witness(run: RunWriter) -> None:
    run.write(AT, 0x04, 0x13)
    run.item("a", AT - MS, AT + MS, None)
    run.event(DUE + MS, HOUR_ON)
    assert only(run).verdict == PASS


def test_an_agent_that_died_makes_its_item_inconclusive(run: RunWriter) -> None:
    run.write(AT, 0x04, 0x13)
    run.item("a", AT - MS, AT + MS, [], ok=False, error="kernel panic")
    run.event(DUE + MS, HOUR_ON)
    verdict = only(run)
    assert (verdict.verdict, verdict.diagnosis) == (INCONCLUSIVE, "the agent failed: kernel panic")


# -- special cases (rule 8) --------------------------------------------------------------------------------

JAN_31 = 1_706_702_400
"""2024-01-31 12:00:00 UTC."""


@pytest.fixture
def january(tmp_path: Path) -> RunWriter:
    run = RunWriter(tmp_path)
    run.start(T0, JAN_31)
    run.journal("connected", t_ns=T0 + 1)
    return run


def test_an_invalid_date_in_the_middle_is_repaired_by_estimate(january: RunWriter) -> None:
    january.do("a", AT, [(0, 0x08, 0x02), (900 * MS, 0x07, 0x29)])
    new = JAN_31 + 29 * 86_400 + 5
    january.event(AT + 1_901 * MS, settled(JAN_31 + 5, new, new - JAN_31 - 5, 1) | {"estimated": True})
    assert only(january).verdict == PASS


def test_an_invalid_date_at_the_end_is_due_from_the_last_valid_write(january: RunWriter) -> None:
    january.do("a", AT, [(0, 0x04, 0x13), (500 * MS, 0x08, 0x02)])
    january.event(DUE + MS, settled(JAN_31 + 5, JAN_31 + 3605, 3600, 1))
    assert only(january).verdict == PASS


BROKEN_UNHALT = [(0, 0x08, 0x02), (MS, 0x0B, 0x82), (2 * MS, 0x07, 0x10), (3 * MS, 0x0B, 0x02)]


def test_the_known_defect_is_named_when_it_occurs(january: RunWriter) -> None:
    january.do("a", AT, BROKEN_UNHALT, mode="halted")
    verdict = only(january)
    assert (verdict.verdict, verdict.defect, verdict.faults) == (KNOWN_DEFECT, "broken-unhalt", ())
    assert verdict.diagnosis


def test_the_known_defect_is_a_fault_when_it_stops_occurring(january: RunWriter) -> None:
    january.do("a", AT, BROKEN_UNHALT, mode="halted")
    new = JAN_31 + 10 * 86_400
    january.event(DUE + 4 * MS, settled(JAN_31 + 5, new, new - JAN_31, 1) | {"estimated": True})
    verdict = only(january)
    assert (verdict.verdict, verdict.faults) == (PRODUCT_FAULT, ("unexplained",))
    assert "known defect broken-unhalt did not occur" in verdict.diagnosis


def test_the_known_defect_within_an_update_is_named_when_it_may_have_stopped(january: RunWriter) -> None:
    january.do("a", AT, [*BROKEN_UNHALT, (500 * MS, 0x04, 0x13)], mode="halted")
    new = JAN_31 + 10 * 86_400 + 3600
    january.event(AT + 1_501 * MS, settled(JAN_31 + 5, new, new - JAN_31 - 5, 2) | {"estimated": True})
    verdict = only(january)
    assert verdict.faults == ("payload",)
    assert "perhaps the known defect broken-unhalt did not occur" in verdict.diagnosis


def test_the_update_after_the_known_defect_has_a_lost_link(january: RunWriter) -> None:
    january.do("a", AT, BROKEN_UNHALT, mode="halted")
    january.do("b", AT + 4 * SECOND, [(0, 0x04, 0x13)])
    before = JAN_31 + 10 * 86_400 + 9
    january.event(AT + 5 * SECOND + MS, settled(before, before + 3600, 3600, 1) | {"lost": True})
    assert final(january)["b"].verdict == PASS


def test_a_system_reset_leaves_the_pending_update_and_takes_the_clock_back(run: RunWriter) -> None:
    run.trace(T0 + 1, "resettable_reset obj=0xbbb cold=1")
    run.trace(T0 + 2, "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)")
    hour_on(run, "a")
    run.trace(AT + 300 * MS, "resettable_reset obj=0xbbb cold=0")
    run.event(DUE + MS, HOUR_ON)
    run.do("b", AT + 4 * SECOND, [(0, 0x04, 0x15)])
    run.event(AT + 5 * SECOND + MS, settled(RTC0 + 9, RTC0 + 3 * 3600 + 9, 3 * 3600, 1))
    verdicts = final(run)
    assert (verdicts["a"].verdict, verdicts["b"].verdict) == (PASS, PASS)


def test_a_service_restart_ends_the_pending_update(run: RunWriter) -> None:
    hour_on(run, "a")
    run.record("service-restart", AT + 300 * MS)
    assert only(run).verdict == PASS


def test_an_event_for_an_update_that_ended_with_the_service_is_a_fault(run: RunWriter) -> None:
    hour_on(run, "a")
    run.record("service-restart", AT + 300 * MS)
    run.event(DUE + MS, HOUR_ON)
    assert only(run).faults == ("unexplained",)


# -- ambiguous gaps (rule 1) -------------------------------------------------------------------------------


@pytest.mark.parametrize("gap_ns", [960 * MS, 1_000 * MS - 1, 1_000 * MS, 1_040 * MS])
@pytest.mark.parametrize("reading", ["one", "two"])
def test_a_gap_close_to_the_window_admits_both_readings(run: RunWriter, gap_ns: int, reading: str) -> None:
    run.do("a", AT, [(0, 0x04, 0x13), (gap_ns, 0x04, 0x15)])
    ticked = (AT + gap_ns) // SECOND - AT // SECOND
    second = settled(RTC0 + 3605 + ticked, RTC0 + 3605 + ticked + 7200, 7200, 1)
    if reading == "two":
        run.event(DUE + MS, HOUR_ON)
        run.event(DUE + gap_ns + MS, second)
    else:
        run.event(DUE + gap_ns + MS, settled(RTC0 + 5, second["new_time"], 10_800, 2))
    verdict = only(run)
    assert verdict.verdict == PASS
    assert len(verdict.expected) == (2 if reading == "two" else 1)


@pytest.mark.parametrize(("gap_ns", "events"), [(SECOND - 1, 1), (SECOND, 2)])
def test_where_nothing_was_heard_plain_arithmetic_decides(run: RunWriter, gap_ns: int, events: int) -> None:
    run.do("a", AT, [(0, 0x04, 0x13), (gap_ns, 0x04, 0x15)])
    verdict = only(run)
    assert (verdict.faults, len(verdict.expected)) == (("missing",), events)


def test_outside_50_ms_only_one_reading_is_admitted(run: RunWriter) -> None:
    run.do("a", AT, [(0, 0x04, 0x13), (1_051 * MS, 0x04, 0x15)])
    run.event(DUE + 1_052 * MS, settled(RTC0 + 5, RTC0 + 3606 + 7200, 10_800, 2))
    assert only(run).faults == ("missing", "payload")


def test_updates_in_quick_succession_keep_their_items_apart(run: RunWriter) -> None:
    hour_on(run, "a")
    run.event(DUE + MS, HOUR_ON)
    run.do("b", DUE + 20 * MS, [(0, 0x04, 0x15)])
    verdicts = final(run)
    assert (verdicts["a"].verdict, verdicts["b"].faults) == (PASS, ("missing",))
    assert not verdicts["a"].ambiguous


# -- evidence that cannot be trusted -----------------------------------------------------------------------


def test_a_trace_without_a_beginning_judges_nothing(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    hour_on(run)
    assert only(run).verdict == INCONCLUSIVE


def test_a_garbled_trace_line_makes_the_update_at_hand_inconclusive(run: RunWriter) -> None:
    hour_on(run, "a")
    run.event(DUE + MS, HOUR_ON)
    run.write(AT + 4 * SECOND, 0x04, 0x14)
    run.append("trace.log", "rubbish\n")
    run.item("b", AT + 4 * SECOND - MS, AT + 4 * SECOND + MS, [(0x04, 0x14)])
    verdicts = final(run)
    assert (verdicts["a"].verdict, verdicts["b"].verdict) == (PASS, INCONCLUSIVE)
    assert "trace.log line" in verdicts["b"].diagnosis


@pytest.mark.parametrize("explained", [True, False])
def test_stamps_that_jump_are_trusted_only_with_a_recorded_step(run: RunWriter, explained: bool) -> None:
    run.write(AT - 2 * SECOND, 0x06, 1)
    run.port(AT, 0x70, 0x04, wall_ns=10**18)
    if explained:
        run.record("clock-step", AT, by_ns=1)
    run.port(AT, 0x71, 0x13, wall_ns=10**18)
    run.item("a", AT - MS, AT + MS, [(0x04, 0x13)])
    run.event(DUE + MS, HOUR_ON)
    verdicts = final(run)
    assert verdicts["a"].verdict == (PASS if explained else INCONCLUSIVE)


@pytest.mark.parametrize(
    "fields", [{"vrtc": "xen"}, {"vm": "vm9"}, {"window_ns": 500 * MS}], ids=["vrtc", "vm", "window"]
)
def test_a_device_model_other_than_assumed_is_not_judged(tmp_path: Path, fields: dict[str, Any]) -> None:
    run = RunWriter(tmp_path)
    run.start(**fields)
    hour_on(run)
    run.event(DUE + MS, HOUR_ON)
    assert only(run).verdict == INCONCLUSIVE
