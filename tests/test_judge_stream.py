"""Rules 5 and 6: what deaths, stalls, garbage and the end of the stream make of an update, or of silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.judge import INCONCLUSIVE, PASS, PRODUCT_FAULT, GuestJudge
from tests.judge_cases import AT, DUE, END, HOUR_ON, final, hour_on, only, registered_guest
from tests.judge_run import MS, RTC0, SECOND, T0, RunWriter, settled


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return registered_guest(tmp_path)


def test_garbage_is_the_fault_of_the_update_in_flight(run: RunWriter) -> None:
    hour_on(run)
    run.journal("garbage", t_ns=AT + 500 * MS, hex="deadbeef")
    run.event(DUE + MS, HOUR_ON)
    verdict = only(run)
    assert (verdict.verdict, verdict.faults) == (PRODUCT_FAULT, ("garbage",))
    assert r"\xde\xad\xbe\xef" in verdict.diagnosis


def test_garbage_between_updates_is_the_fault_of_the_one_before(run: RunWriter) -> None:
    hour_on(run, "a")
    run.event(DUE + MS, HOUR_ON)
    run.journal("garbage", t_ns=DUE + 3 * SECOND, hex="00")
    run.do("b", AT + 8 * SECOND, [(0, 0x06, 0x01)])
    verdicts = final(run)
    assert (verdicts["a"].faults, verdicts["b"].verdict) == (("garbage",), PASS)


def test_a_stream_closed_while_the_device_model_lives(run: RunWriter) -> None:
    hour_on(run, "a")
    run.event(DUE + MS, HOUR_ON)
    hour_on(run, "b", AT + 3 * SECOND)
    run.journal("closed", t_ns=AT + 3_500 * MS, reason="EOF")
    hour_on(run, "c", AT + 6 * SECOND)
    verdicts = final(run)
    assert verdicts["a"].verdict == PASS
    assert (verdicts["b"].verdict, verdicts["b"].faults) == (PRODUCT_FAULT, ("closed",))
    assert "closed while the device model lived" in verdicts["b"].diagnosis
    assert (verdicts["c"].verdict, verdicts["c"].faults) == (INCONCLUSIVE, ())


def test_a_close_after_the_verdict_revises_it_once_no_death_explains_it(run: RunWriter) -> None:
    hour_on(run)
    run.event(DUE + MS, HOUR_ON)
    judge = GuestJudge(run.dir)
    judge.refresh()
    assert [verdict.verdict for verdict in judge.decide(DUE + SECOND)] == [PASS]
    run.journal("closed", t_ns=DUE + 20 * SECOND, reason="EOF")
    judge.refresh()
    assert judge.decide(DUE + 21 * SECOND - 1) == []
    (verdict,) = judge.decide(DUE + 21 * SECOND)
    assert (verdict.revision, verdict.faults) == (2, ("closed",))


@pytest.mark.parametrize("how", ["exit record", "trace"])
def test_the_death_of_the_device_model_is_nobodys_fault_and_told_at_once(run: RunWriter, how: str) -> None:
    hour_on(run, "a")
    run.event(DUE + MS, HOUR_ON)
    hour_on(run, "b", AT + 3 * SECOND)
    judge = GuestJudge(run.dir)
    judge.refresh()
    judge.decide(AT + 3_200 * MS)
    dead_ns = AT + 3_500 * MS
    run.journal("garbage", t_ns=dead_ns, hex="7b22")
    run.journal("closed", t_ns=dead_ns, reason="EOF")
    judge.refresh()
    assert judge.decide(dead_ns + MS) == [], "it may yet turn out why"
    if how == "trace":
        run.record("end", dead_ns, reason="QEMU was killed")
    else:
        run.append("exit.json", json.dumps({"class": "infrastructure", "text": "QEMU was killed"}))
    judge.refresh()
    (verdict,) = judge.decide(dead_ns + 2 * MS)
    assert (verdict.item, verdict.verdict, verdict.faults) == ("b", INCONCLUSIVE, ())
    assert "QEMU was killed" in verdict.diagnosis


def test_an_orderly_end_leaves_verdicts_alone(run: RunWriter) -> None:
    hour_on(run)
    run.event(DUE + MS, HOUR_ON)
    run.journal("closed", t_ns=END - SECOND, reason="EOF")
    run.record("end", END - SECOND, reason="destroyed")
    assert only(run).verdict == PASS


def test_a_journal_that_breaks_off_judges_what_it_covers(run: RunWriter) -> None:
    hour_on(run, "a")
    run.event(DUE + MS, HOUR_ON)
    hour_on(run, "b", AT + 3 * SECOND)
    verdicts = final(run, end=False)
    assert (verdicts["a"].verdict, verdicts["b"].verdict) == (PASS, INCONCLUSIVE)
    assert "listening ended" in verdicts["b"].diagnosis


def test_a_stall_that_explains_lateness_is_inconclusive(run: RunWriter) -> None:
    hour_on(run)
    run.journal("stall", from_ns=DUE + 10 * MS, to_ns=DUE + 300 * MS)
    run.event(DUE + 301 * MS, HOUR_ON)
    verdict = only(run)
    assert (verdict.verdict, verdict.faults) == (INCONCLUSIVE, ())
    assert "stood still" in verdict.diagnosis


def test_a_stall_does_not_explain_more_than_it_lasted(run: RunWriter) -> None:
    hour_on(run)
    run.journal("stall", from_ns=DUE + 10 * MS, to_ns=DUE + 300 * MS)
    run.event(DUE + 700 * MS, HOUR_ON)
    assert only(run).faults == ("late",)


def test_a_stall_over_the_whole_linger_makes_absence_inconclusive(run: RunWriter) -> None:
    hour_on(run)
    run.journal("stall", from_ns=DUE + 50 * MS, to_ns=DUE + 7 * SECOND)
    assert only(run).verdict == INCONCLUSIVE


def test_a_stall_that_may_hide_an_early_event_is_inconclusive(run: RunWriter) -> None:
    hour_on(run)
    run.journal("stall", from_ns=DUE - 100 * MS, to_ns=DUE + 2 * MS)
    run.event(DUE + 3 * MS, HOUR_ON)
    assert only(run).verdict == INCONCLUSIVE


def test_a_stall_does_not_excuse_a_wrong_payload(run: RunWriter) -> None:
    hour_on(run)
    run.journal("stall", from_ns=DUE - 100 * MS, to_ns=DUE + 2 * MS)
    run.event(DUE + 3 * MS, {**HOUR_ON, "delta_time": 1})
    assert only(run).faults == ("payload",)


# -- silence is heard, too ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("death", "the device model ended meanwhile (QEMU was killed)"),
        ("end", "the listening ended meanwhile"),
        ("never", "nobody was listening"),
    ],
)
def test_silence_that_nobody_heard_is_no_pass(run: RunWriter, what: str, why: str) -> None:
    run.do("a", AT if what != "never" else T0 - 5 * SECOND, [(0, 0x06, 0x03)])
    if what == "death":
        run.journal("closed", t_ns=AT + 100 * MS, reason="EOF")
        run.record("end", AT + 100 * MS, reason="QEMU was killed")
    elif what == "end":
        run.journal("end", t_ns=AT + 1_100 * MS)
    verdict = only(run, end=what == "never")
    assert (verdict.verdict, verdict.faults) == (INCONCLUSIVE, ())
    assert verdict.diagnosis == f"nothing was to come, but it would not have been heard: {why}"


def test_silence_is_over_when_the_service_restarts(run: RunWriter) -> None:
    run.do("a", AT, [(0, 0x06, 0x03)])
    run.record("service-restart", AT + 300 * MS)
    run.journal("closed", t_ns=AT + 310 * MS, reason="EOF")
    assert only(run, end=False).verdict == PASS


def test_silence_waits_for_the_listener_to_say_that_it_listened(run: RunWriter) -> None:
    last_ns = run.do("a", AT, [(0, 0x06, 0x03)])
    ripe_ns = last_ns + MS + SECOND + 150 * MS
    judge = GuestJudge(run.dir)
    run.journal("alive", t_ns=ripe_ns - MS)
    judge.refresh()
    assert judge.decide(ripe_ns + 400 * MS) == []
    run.journal("alive", t_ns=ripe_ns + 499 * MS)
    judge.refresh()
    assert [verdict.verdict for verdict in judge.decide(ripe_ns + 500 * MS)] == [PASS]


# -- one device model after another ------------------------------------------------------------------------


def another_device_model(run: RunWriter, died_ns: int, began_ns: int) -> None:
    """QEMU is killed, and another device model takes the guest's place, with its RTC at RTC0."""
    run.journal("closed", t_ns=died_ns, reason="EOF")
    run.record("end", died_ns, reason="QEMU was killed")
    run.start(began_ns, RTC0)
    run.journal("connected", t_ns=began_ns + MS)
    run.journal("ack", t_ns=began_ns + 2 * MS, object={"ack": 0})


def test_a_new_device_model_owes_nothing_of_what_the_former_took_with_it(run: RunWriter) -> None:
    hour_on(run, "a")
    another_device_model(run, AT + 100 * MS, AT + 300 * MS)
    hour_on(run, "b", AT + 500 * MS)
    run.event(AT + 1_501 * MS, settled(RTC0, RTC0 + 3600, 3600, 1))
    verdicts = final(run)
    assert (verdicts["a"].verdict, verdicts["a"].faults) == (INCONCLUSIVE, ())
    assert verdicts["a"].diagnosis == "in flight when the device model ended (QEMU was killed)"
    assert verdicts["b"].verdict == PASS


def test_the_former_ones_death_excuses_nothing_of_the_new_one(run: RunWriter) -> None:
    another_device_model(run, AT - SECOND, AT - 500 * MS)
    hour_on(run, "b")
    verdict = only(run)
    assert (verdict.verdict, verdict.faults) == (PRODUCT_FAULT, ("missing",))


def test_the_new_one_may_die_as_well(run: RunWriter) -> None:
    another_device_model(run, AT - SECOND, AT - 500 * MS)
    hour_on(run, "b")
    run.journal("closed", t_ns=AT + 100 * MS, reason="EOF")
    run.record("end", AT + 100 * MS, reason="QEMU ran out of memory")
    verdict = only(run, end=False)
    assert (verdict.verdict, verdict.faults) == (INCONCLUSIVE, ())
    assert "QEMU ran out of memory" in verdict.diagnosis
