"""A scenario about a reset is told where there was none, or none in the window: then it is about something else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from fixtures.resets import expect_reset_in_window, resets_of
from fixtures.updates import Update
from harness.errors import InfrastructureError
from harness.judge.__main__ import rejudge
from harness.judge.verdict import Verdict
from tests.judge_run import MS, SECOND, T0, RunWriter

RESET = "resettable_reset obj=0xbbb cold=0"
WRITTEN = T0 + 5 * SECOND


def judged(folder: Path, *resets_ns: int, full: bool = False) -> tuple[Update, Verdict]:
    """An update of a guest that is reset at these moments."""
    run = RunWriter(folder)
    run.start()
    run.trace(T0 + 1, RESET)
    run.trace(T0 + 2, "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)")
    for before_ns in [reset_ns for reset_ns in resets_ns if reset_ns < WRITTEN]:
        run.trace(before_ns, RESET)
    run.do("a", WRITTEN, [(0, 0x07, 0x16)])
    for reset_ns in [reset_ns for reset_ns in resets_ns if reset_ns > WRITTEN]:
        run.trace(reset_ns, RESET)
        if full:
            run.record("service-restart", reset_ns + MS)
    run.journal("end", t_ns=WRITTEN + 20 * SECOND)
    (guest,) = rejudge(folder)
    (verdict,) = [verdict for verdict in guest.verdicts if verdict.item == "a"]
    return cast(Update, SimpleNamespace(records_of=lambda verdict: run.dir)), verdict


@pytest.mark.parametrize("full", [False, True])
def test_a_reset_in_the_window_is_what_was_wanted(full: bool, tmp_path: Path) -> None:
    update, verdict = judged(tmp_path, WRITTEN + 400 * MS, WRITTEN + 3 * SECOND, full=full)
    expect_reset_in_window(update, verdict, WRITTEN)


@pytest.mark.parametrize(
    ("resets_ns", "said"),
    [
        ((), "never reset after it had written"),
        ((WRITTEN - 100 * MS,), "never reset after it had written"),
        ((WRITTEN + 1200 * MS,), "reset 1.20 s after it had written, where the scenario is about a reset within 1 s"),
    ],
)
def test_any_other_is_an_infrastructure_error(resets_ns: tuple[int, ...], said: str, tmp_path: Path) -> None:
    update, verdict = judged(tmp_path, *resets_ns)
    with pytest.raises(InfrastructureError, match=said):
        expect_reset_in_window(update, verdict, WRITTEN)


def test_resets_on_a_bench_are_found_too(tmp_path: Path) -> None:
    records = [{"event": "system-reset", "stamp_ns": T0 + SECOND}, {"event": "end", "stamp_ns": T0 + 2 * SECOND}]
    (tmp_path / "witness.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert resets_of(tmp_path) == [T0 + SECOND]
