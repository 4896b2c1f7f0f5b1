"""Runs of so many updates that passes are counted and gathered: the HTML report's results, and how far the run is."""

from __future__ import annotations

import io
import json
import os
import pty
import select
from pathlib import Path
from typing import Any

import pytest

from fixtures import progress
from fixtures.progress import RunProgress
from harness.judge.verdict import INCONCLUSIVE, PASS, PRODUCT_FAULT, Verdict
from reports import allure_results
from reports.allure_results import write_results
from reports.summary import summary
from tests.synthetic_run import SyntheticRun


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SyntheticRun:
    """Seven updates, where five are many: on each vRTC two that passed, a fault, and two that were not judged."""
    monkeypatch.setattr(allure_results, "MOST_SINGLE", 5)
    monkeypatch.setattr("reports.summary.MOST_SINGLE", 5)
    run = SyntheticRun(tmp_path / "run", guests=("a-1", "b-1"), on_hv=("b-1",))
    for number in range(2):
        run.update(f"every-running-000{number}", vm="a-1", number=number)
        run.update(f"hv-every-running-000{number}", vm="b-1", number=number)
    run.update("every-running-0007", vm="a-1", number=2, verdict="product fault", diagnosis="late", faults=["late"])
    for number, item in enumerate(("every-running-0008", "every-running-0001~2"), 3):
        run.update(item, vm="a-1", number=number, verdict="inconclusive", diagnosis="it stood still")
    run.end()
    return run


def results(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text("utf-8")) for path in folder.glob("*-result.json")]
    return {each["name"]: each for each in found}


def test_passes_are_gathered_and_everything_else_has_its_own_result(run: SyntheticRun, tmp_path: Path) -> None:
    assert write_results(run.path, tmp_path / "results") == 5
    found = results(tmp_path / "results")
    gathered = [name for name in found if "passed" in name]
    assert sorted(gathered) == ["2 passed: every-running, running, dm", "2 passed: hv-every-running, running, hv"]
    (attachment,) = found[gathered[0]]["attachments"]
    lines = (tmp_path / "results" / attachment["source"]).read_text("utf-8").splitlines()
    assert [line.split()[0] for line in lines] == ["pass", "pass"]
    others = {name: result["status"] for name, result in found.items() if name not in gathered}
    assert sorted(others.values()) == ["broken", "failed", "skipped"], "of another attempt at the last more is known"
    assert all(found[name]["attachments"] for name in others)


def test_the_summary_says_that_passes_are_gathered_in_the_page(run: SyntheticRun, tmp_path: Path) -> None:
    text = summary(run.path, html=tmp_path / "index.html")
    assert "passes are gathered in it; one by one:  python -m reports" in text


def verdict(item: str, word: str = PASS, role: str = "update", revision: int = 1) -> Verdict:
    return Verdict(item, "a-1", word, role, revision=revision)


def test_the_line_counts_each_plan_once_and_what_was_known_before_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    told = RunProgress(8, None)
    told.add(verdict("p1"), former=True)
    told.add(verdict("p2"))
    told.add(verdict("p2", PRODUCT_FAULT, revision=2))
    told.add(verdict("p3", INCONCLUSIVE))
    told.add(verdict("p3~2"))
    told.add(verdict("rtc-set-right", role="restore"))
    line = told.line()
    assert line is not None and line.startswith("3 of 8 updates (38%)")
    assert line.endswith("2 pass  1 product fault"), "and no guess at the end, so early"
    # and the next one is not at once
    assert not told.is_due
    monkeypatch.setattr(progress, "TOLD_EVERY", 0.0)
    assert told.is_due


def test_on_a_terminal_a_bar_comes_and_goes_and_leaves_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with io.TextIOWrapper(io.FileIO(theirs, "w"), write_through=True) as terminal:
        told = RunProgress(4, terminal)
        told.add(verdict("p1"))
        assert told.is_due and told.line() is None
        told.show()
        assert not told.is_due
        told.clear()
        drawn = b""
        while select.select([ours], [], [], 0)[0]:
            drawn += os.read(ours, 65536)
    os.close(ours)
    text = drawn.decode()
    assert "1 of 4" in text and "1 pass" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor is shown again"
    assert "\x1b[2K" in text[text.rfind("1 pass") :], "the line is wiped"
