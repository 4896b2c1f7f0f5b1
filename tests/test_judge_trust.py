"""Evidence that cannot be trusted makes no product fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.judge import INCONCLUSIVE, PASS
from tests.judge_cases import AT, DUE, HOUR_ON, final, hour_on, only, registered_guest
from tests.judge_run import MS, SECOND, RunWriter


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
