"""When the judge says what: as soon as it is certain, and again when it has to be corrected."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judge import PASS, GuestJudge
from harness.judge.ruling import NOTICE_NS
from tests.judge_cases import AT, DUE, HOUR_ON, hour_on, only, registered_guest
from tests.judge_run import MS, SECOND, RunWriter


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return registered_guest(tmp_path)


def test_a_pass_is_told_when_the_time_is_up_and_not_before(run: RunWriter) -> None:
    hour_on(run)
    run.event(DUE + MS, HOUR_ON)
    judge = GuestJudge(run.dir)
    judge.refresh()
    view = judge.item("a")
    assert view is not None
    assert (view.due_ns, view.latest_ns, view.silent, view.complete) == (DUE, DUE + 150 * MS + 20_000, False, True)
    assert [seen.t_ns for seen in view.seen] == [DUE + MS]
    assert judge.decide(view.latest_ns - 1) == []
    assert [verdict.verdict for verdict in judge.decide(view.latest_ns)] == [PASS]
    assert judge.decide(view.latest_ns + 1) == []


def test_missing_is_told_after_the_linger_and_revised_when_the_event_comes(run: RunWriter) -> None:
    hour_on(run)
    judge = GuestJudge(run.dir)
    judge.refresh()
    assert judge.decide(DUE + 6 * SECOND - 1) == []
    (verdict,) = judge.decide(DUE + 6 * SECOND)
    assert (verdict.revision, verdict.faults) == (1, ("missing",))
    run.event(DUE + 7 * SECOND, HOUR_ON)
    judge.refresh()
    (verdict,) = judge.decide(DUE + 7 * SECOND + NOTICE_NS)
    assert (verdict.revision, verdict.faults) == (2, ("late",))


def test_a_late_event_is_told_once_a_stall_would_have_been_noticed_and_a_double_revises(run: RunWriter) -> None:
    hour_on(run)
    judge = GuestJudge(run.dir)
    run.event(DUE + SECOND, HOUR_ON)
    judge.refresh()
    assert judge.decide(DUE + SECOND + NOTICE_NS - 1) == []
    assert [verdict.faults for verdict in judge.decide(DUE + SECOND + NOTICE_NS)] == [("late",)]
    run.event(DUE + 4 * SECOND, HOUR_ON)
    judge.refresh()
    (verdict,) = judge.decide(DUE + 4 * SECOND)
    assert (verdict.revision, verdict.faults) == (2, ("duplicate", "late"))


def test_an_event_that_a_stopped_processor_held_up_is_inconclusive_even_if_that_is_noticed_later(
    run: RunWriter,
) -> None:
    hour_on(run)
    judge = GuestJudge(run.dir)
    run.event(DUE + 300 * MS, HOUR_ON)
    judge.refresh()
    assert judge.decide(DUE + 300 * MS) == []
    run.journal("cpu-stall", t_ns=DUE + 310 * MS, cpu=1, from_ns=DUE - 10 * MS, to_ns=DUE + 290 * MS)
    judge.refresh()
    (verdict,) = judge.decide(DUE + 300 * MS + NOTICE_NS)
    assert (verdict.verdict, verdict.faults) == ("inconclusive", ())
    assert "stood still" in verdict.diagnosis


def test_an_event_many_seconds_late_blames_no_update_but_its_own(run: RunWriter) -> None:
    hour_on(run)
    run.do("b", AT + 3 * SECOND, [(0, 0x02, 0x30)])
    b = {**HOUR_ON, "last_time": HOUR_ON["new_time"] + 3, "delta_time": 1800, "new_time": HOUR_ON["new_time"] + 1803}
    run.event(DUE + 3 * SECOND + MS, b)
    run.event(DUE + 15 * SECOND, HOUR_ON)
    judge = GuestJudge(run.dir)
    judge.refresh()
    verdicts = {verdict.item: verdict for verdict in judge.decide(DUE + 40 * SECOND, final=True)}
    assert set(verdicts) == {"a", "b"}
    assert verdicts["a"].faults == ("late",)
    assert verdicts["b"].verdict == PASS


def test_silence_counts_only_while_the_listener_says_that_it_listens(run: RunWriter) -> None:
    # given a listener that was last known to be alive half a second after the event was due
    hour_on(run)
    run.journal("alive", t_ns=DUE - 500 * MS)
    judge = GuestJudge(run.dir)
    judge.refresh()
    assert judge.decide(DUE + 20 * SECOND) == []
    # then nothing is known of an event that is not there
    (verdict,) = judge.decide(DUE + 20 * SECOND, final=True)
    assert verdict.verdict == "inconclusive"


def test_a_stopped_processor_does_not_cast_doubt_on_an_event_in_time(run: RunWriter) -> None:
    hour_on(run)
    run.event(DUE + MS, HOUR_ON)
    run.journal("cpu-stall", t_ns=DUE + 100 * MS, cpu=1, from_ns=DUE - 100 * MS, to_ns=DUE + 90 * MS)
    assert only(run).verdict == PASS


@pytest.mark.parametrize(("waited_ms", "faults"), [(290, ()), (160, ()), (130, ("late",))])
def test_an_event_of_a_service_that_was_given_no_processor_is_late_by_the_rest_only(
    run: RunWriter, waited_ms: int, faults: tuple[str, ...]
) -> None:
    hour_on(run)
    run.journal("starved", t_ns=DUE + 300 * MS, waited_ns=waited_ms * MS)
    run.event(DUE + 300 * MS, HOUR_ON)
    found = only(run)
    assert (found.faults, found.verdict) == (faults, "product fault" if faults else "inconclusive")


def test_a_service_that_was_given_no_processor_is_not_excused_a_wrong_payload(run: RunWriter) -> None:
    # given one item of two writes 0.8 s apart, and a service that had waited for a processor now and then
    run.do("a", AT, [(0, 0x04, 0x13), (800 * MS, 0x02, 0x30)])
    run.journal("starved", t_ns=AT + 1790 * MS, waited_ns=1000 * MS)
    # when the sum is wrong by a second
    run.event(AT + 1801 * MS, {**HOUR_ON, "new_time": HOUR_ON["new_time"] + 1800, "delta_time": 5401, "raw_events": 2})
    # then that is the service's fault: many short waits are no stop in which it missed a write
    assert (only(run).verdict, only(run).faults) == ("product fault", ("payload",))


def test_stalls_that_overlap_count_once(run: RunWriter) -> None:
    hour_on(run)
    run.event(DUE + 400 * MS, HOUR_ON)
    for cpu in (0, 1):
        run.journal("cpu-stall", t_ns=DUE + 200 * MS, cpu=cpu, from_ns=DUE, to_ns=DUE + 150 * MS)
    assert only(run).faults == ("late",)


def test_a_held_up_write_excuses_no_second_event_beside_one_that_came_whole(run: RunWriter) -> None:
    # given two writes 0.8 s apart, the second of which may have reached the service 0.3 s late
    run.do("a", AT, [(0, 0x04, 0x13)])
    run.lag_ns = 300 * MS
    run.do("b", AT + 800 * MS, [(0, 0x02, 0x30)])
    # when their event comes whole, and then again
    both = {**HOUR_ON, "new_time": HOUR_ON["new_time"] + 1800, "delta_time": 5400, "raw_events": 2}
    run.event(AT + 1800 * MS + MS, both)
    run.event(AT + 1800 * MS + 2 * MS, both)
    # then the service was not misled, and the second one is its fault
    judge = GuestJudge(run.dir)
    judge.refresh()
    faults = {verdict.faults for verdict in judge.decide(DUE + 40 * SECOND, final=True)}
    assert ("duplicate",) in faults


def test_a_write_known_only_after_its_window_makes_a_split_inconclusive(run: RunWriter) -> None:
    # given two writes 0.8 s apart, the second of which reached the service 0.3 s late
    run.do("a", AT, [(0, 0x04, 0x13)])
    run.lag_ns = 300 * MS
    run.do("b", AT + 800 * MS, [(0, 0x02, 0x30)])
    # when the service, not knowing of it, has told the first one alone
    run.event(AT + SECOND + MS, HOUR_ON)
    # then that is nobody's fault
    judge = GuestJudge(run.dir)
    judge.refresh()
    verdicts = judge.decide(AT + 20 * SECOND, final=True)
    assert verdicts and all(verdict.verdict == "inconclusive" for verdict in verdicts)


def test_silence_is_told_after_window_and_grace(run: RunWriter) -> None:
    last = run.do("a", AT, [(0, 0x06, 0x03)])
    judge = GuestJudge(run.dir)
    judge.refresh()
    view = judge.item("a")
    assert view is not None and view.silent and view.due_ns is None
    assert view.latest_ns == last + MS + SECOND + 150 * MS
    assert judge.decide(view.latest_ns - 1) == []
    assert [verdict.verdict for verdict in judge.decide(view.latest_ns)] == [PASS]


def test_an_item_is_unknown_before_the_agent_answered(run: RunWriter) -> None:
    judge = GuestJudge(run.dir)
    run.write(AT, 0x04, 0x13)
    judge.refresh()
    assert judge.item("a") is None
    assert judge.decide(DUE + 2 * SECOND) == []
