"""Rule 7: the witness and the agent's own report must agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judge import INCONCLUSIVE, PASS, GuestJudge
from tests.judge_cases import AT, DUE, HOUR_ON, only, registered_guest
from tests.judge_run import MS, RTC0, SECOND, RunWriter, settled


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return registered_guest(tmp_path)


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
