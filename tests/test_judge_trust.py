"""Evidence that cannot be trusted makes no product fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.judge import INCONCLUSIVE, PASS, GuestJudge
from tests.judge_cases import AT, DUE, END, HOUR_ON, final, hour_on, only, registered_guest
from tests.judge_run import MS, RTC0, SECOND, T0, RunWriter, settled


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return registered_guest(tmp_path)


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


@pytest.mark.parametrize(("again", "word"), [("", INCONCLUSIVE), ("reset", PASS), ("start", PASS)])
def test_after_a_line_that_was_lost_nothing_is_certain_until_the_rtc_begins_anew(
    run: RunWriter, again: str, word: str
) -> None:
    run.trace(T0 + 1, "resettable_reset obj=0xbbb cold=1")
    run.trace(T0 + 2, "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)")
    # given a line that may have set the guest's date
    run.append("trace.log", "rubbish\n")
    if again == "reset":
        run.trace(AT + SECOND, "resettable_reset obj=0xbbb cold=0")
    elif again == "start":
        run.start(AT + SECOND, RTC0 + 6)
    # when, much later, the event says what the judge's model would say
    hour_on(run, "b", AT + 10 * SECOND)
    run.event(DUE + 10 * SECOND + MS, settled(RTC0 + 15, RTC0 + 3615, 3600, 1))
    assert final(run)["b"].verdict == word


def test_a_hypervisors_rtc_does_not_begin_anew_with_a_reset(tmp_path: Path) -> None:
    run = registered_guest(tmp_path, vrtc="hv")
    run.append("trace.log", "rubbish\n")
    run.record("service-restart", AT + SECOND)
    run.do("b", AT + 10 * SECOND, [(0, 0x04, 0x13)])
    verdict = final(run)["b"]
    assert (verdict.verdict, verdict.faults) == (INCONCLUSIVE, ())
    assert "the vRTC's state is unknown since" in verdict.diagnosis


def test_an_event_that_came_while_the_trace_is_in_doubt_is_no_fault(run: RunWriter) -> None:
    run.append("trace.log", "rubbish\n")
    run.event(DUE + MS, settled(1, 2, 1, 1))
    assert [verdict.verdict for verdict in final(run).values()] == [INCONCLUSIVE]


def test_a_guest_whose_vrtc_changes_is_not_judged(run: RunWriter) -> None:
    run.start(AT - SECOND, vrtc="hv")
    hour_on(run)
    verdict = only(run)
    assert (verdict.verdict, verdict.faults) == (INCONCLUSIVE, ())
    assert "had the vRTC 'dm' and then 'hv'" in verdict.diagnosis


# -- the journal -------------------------------------------------------------------------------------------


def test_a_line_of_the_journal_that_cannot_be_read_may_have_been_the_event(run: RunWriter) -> None:
    hour_on(run, "a")
    run.append("events.jsonl", '{"t_ns": 1007, "kind": "obje\n')
    run.journal("alive", t_ns=DUE + 500 * MS)
    hour_on(run, "b", AT + 10 * SECOND)
    verdicts = final(run)
    assert (verdicts["a"].verdict, verdicts["a"].faults) == (INCONCLUSIVE, ())
    assert "cannot be read" in verdicts["a"].diagnosis
    assert verdicts["b"].faults == ("missing",)


def test_nor_is_silence_certain_where_a_line_cannot_be_read(run: RunWriter) -> None:
    run.do("a", AT, [(0, 0x06, 0x03)])
    run.append("events.jsonl", "[1, 2]\n")
    assert only(run).verdict == INCONCLUSIVE


def test_arrivals_out_of_order_are_an_error_and_mix_nothing_up(run: RunWriter) -> None:
    hour_on(run, "a")
    run.event(DUE + 2 * MS, HOUR_ON)
    run.event(DUE + MS, HOUR_ON)
    run.do("b", AT + 20 * SECOND, [(0, 0x04, 0x15)])
    run.event(DUE + 20 * SECOND + MS, settled(RTC0 + 3625, RTC0 + 3 * 3600 + 25, 7200, 1))
    run.journal("end", t_ns=END)
    with GuestJudge(run.dir) as judge:
        judge.refresh()
        verdicts = {verdict.item: verdict for verdict in judge.decide(END, final=True)}
        (error,) = judge.errors
    assert "lies before the one before it" in str(error)
    assert verdicts["a"].faults == ("duplicate",)
    assert verdicts["b"].verdict == PASS


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
