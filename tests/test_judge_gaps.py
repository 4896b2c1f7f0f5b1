"""Rule 1: gaps so close to the window that both readings are admitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judge import PASS
from tests.judge_cases import AT, DUE, HOUR_ON, final, hour_on, only, registered_guest
from tests.judge_run import MS, RTC0, SECOND, RunWriter, settled


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return registered_guest(tmp_path)


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
