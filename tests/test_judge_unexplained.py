"""Rule 3: no event that no update explains, and no update that nobody has looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.judge import INCONCLUSIVE, KNOWN_DEFECT, PASS, PRODUCT_FAULT, GuestJudge
from tests.judge_cases import AT, DUE, HOUR_ON, final, hour_on, only, registered_guest
from tests.judge_run import MS, RTC0, SECOND, T0, RunWriter, settled


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return registered_guest(tmp_path)


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


def test_of_two_updates_that_say_the_same_each_keeps_its_own(tmp_path: Path) -> None:
    """A hypervisor's clock that is taken back to the same bytes again and again says the same each time."""
    run = registered_guest(tmp_path, vrtc="hv")
    back = {**settled(RTC0 + 8, RTC0, -8, 1), "source": "hv"}
    run.do("a", T0 + 8 * SECOND, [(0, 0x32, 0x20)])
    run.event(T0 + 12 * SECOND, back)
    run.do("b", T0 + 16 * SECOND, [(0, 0x32, 0x20)])
    for after_ms in (1, 600):
        run.event(T0 + 17 * SECOND + after_ms * MS, back)
    verdicts = final(run)
    assert (verdicts["a"].faults, verdicts["b"].faults) == (("late",), ("duplicate",))


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


# -- what is no RTC change ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [1, 2])
def test_other_vm_events_are_none_of_the_judges_business(run: RunWriter, kind: int) -> None:
    hour_on(run)
    run.event(DUE + MS, HOUR_ON)
    run.event(DUE + 2 * MS, {"vm_event": kind, "source": "dm", "vm": "vm0"})
    assert only(run).verdict == PASS


@pytest.mark.parametrize(
    "payload",
    [
        {"vm_event": 1, "last_time": 1},
        {"vm_event": 3},
        {"vm_event": 0},
        {"vm_event": True},
        {"vm_event": "1"},
        {},
        [],
        None,
        "power-off",
    ],
)
def test_anything_else_is_unexplained(run: RunWriter, payload: Any) -> None:
    run.do("a", AT, [(0, 0x06, 0x03)])
    run.event(AT + SECOND, payload)
    assert only(run).faults == ("unexplained",)


BROKEN_UNHALT = ((0, 0x08, 0x02), (MS, 0x0B, 0x82), (2 * MS, 0x07, 0x10), (3 * MS, 0x0B, 0x02))


@pytest.mark.parametrize("when", ["before", "while", "after"])
def test_a_lone_known_defect_is_told_where_somebody_listened(tmp_path: Path, when: str) -> None:
    run = RunWriter(tmp_path)
    run.start(T0, 1_706_702_400)  # 31 January 2024
    for after_ns, register, value in BROKEN_UNHALT:
        run.write(AT + after_ns, register, value)
    run.journal("connected", t_ns=AT + (10 if when == "before" else -1) * SECOND)
    if when == "after":
        run.journal("end", t_ns=AT + 500 * MS)
    found = [(verdict.item, verdict.verdict) for verdict in final(run, end=when != "after").values()]
    word = {"before": None, "while": KNOWN_DEFECT, "after": INCONCLUSIVE}[when]
    assert found == ([] if word is None else [("background-defect-1", word)])


@pytest.fixture
def broken_unhalt(tmp_path: Path) -> RunWriter:
    """A guest that wrote what brings the known defect about, on its own, while somebody listened."""
    run = registered_guest(tmp_path, 1_706_702_400)
    for after_ns, register, value in BROKEN_UNHALT:
        run.write(AT + after_ns, register, value)
    return run


def test_a_lone_known_defect_waits_for_the_listener_to_say_that_it_listened(broken_unhalt: RunWriter) -> None:
    with GuestJudge(broken_unhalt.dir, background_after_ns=0) as judge:
        broken_unhalt.journal("alive", t_ns=DUE + 100 * MS)
        judge.refresh()
        assert judge.decide(DUE + 500 * MS) == []
        broken_unhalt.journal("alive", t_ns=DUE + 600 * MS)
        judge.refresh()
        assert [verdict.verdict for verdict in judge.decide(DUE + 600 * MS)] == [KNOWN_DEFECT]


def test_a_lone_known_defect_is_none_where_the_trace_is_in_doubt(broken_unhalt: RunWriter) -> None:
    broken_unhalt.append("trace.log", "rubbish\n")
    assert [verdict.verdict for verdict in final(broken_unhalt).values()] == [INCONCLUSIVE]
