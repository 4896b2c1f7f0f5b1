"""Judging a run again that was cut and resumed, or that found known defects: what of it counts, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.judge.__main__ import main
from tests.judge_run import MS, RTC0, SECOND, T0, RunWriter, settled

DAY_14, DAY_16, DAY_31 = 0x14, 0x16, 0x31
FEBRUARY = 0x02


def run_json(folder: Path, *, sessions: dict[str, int] | None = None, **more: Any) -> None:
    """run.json of a run of two sessions, by guest, or of one."""
    sessions = sessions or {"vm0": 1}
    guests = {vm: {"vrtc": "dm", "session": session} for vm, session in sessions.items()}
    former = [{"started": "then"}] * (max(sessions.values()) - 1)
    told = {"window_ns": SECOND, "estimate_tolerance": 0, "guests": guests, **more}
    (folder / "run.json").write_text(json.dumps({**told, **({"former_sessions": former} if former else {})}))


def guest(folder: Path, vm: str, *items: str, cut: str | None = None, wrong: str | None = None) -> None:
    """A guest that moves its day by one, there and back, in each item, and is cut before the event of one of them."""
    run = RunWriter(folder, vm)
    run.start()
    day, back = 15, False
    for number, item in enumerate(items):
        at = T0 + (5 + 10 * number) * SECOND
        before = RTC0 + 5 + 10 * number + (86_400 if back else 0)
        delta = -86_400 if back else 86_400
        day, back = (15, False) if back else (16, True)
        run.do(item, at, [(0, 0x07, int(str(day), 16))])
        if item == cut:
            run.record("end", at + 500 * MS, reason="console-closed")
            run.journal("closed", t_ns=at + 501 * MS, reason="closed by the service")
            run.journal("end", t_ns=at + SECOND)
            return
        new = before + delta + (60 if item == wrong else 0)
        run.event(at + SECOND + MS, settled(before, new, delta, 1, vm=vm))
    run.journal("end", t_ns=T0 + (5 + 10 * len(items)) * SECOND)


def judged(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    status = main([str(folder)])
    return status, capsys.readouterr().out.splitlines()


def test_what_was_cut_with_a_former_session_is_named_and_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a session in which "a" was done, "b" was done but done again, and "c" was cut; and the one after it
    guest(tmp_path, "vm0", "a", "b", "c", cut="c")
    guest(tmp_path, "vm1", "b~2", "c~2")
    run_json(tmp_path, sessions={"vm0": 1, "vm1": 2})
    # when the run is judged again
    status, told = judged(tmp_path, capsys)
    # then each is told apart, and each plan counts once
    assert status == 0
    former = [line.split()[:3] for line in told if line.endswith("(former session)")]
    assert former == [["vm0", "b", "pass"], ["vm0", "c", "inconclusive"]]
    assert told[-2:] == [
        "3 verdicts: 3 pass",
        "not among them, cut with a former session or done again since: 1 inconclusive, 1 pass",
    ]
    assert main([str(tmp_path), "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["item"] for line in said if line.get("former_session")} == {"b", "c"}


def test_but_in_a_run_of_one_session_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guest(tmp_path, "vm0", "a", "b", "c", cut="c")
    run_json(tmp_path)
    status, told = judged(tmp_path, capsys)
    assert (status, told[-1]) == (10, "3 verdicts: 1 inconclusive, 2 pass")


def test_a_fault_of_a_former_session_counts_whatever_came_after_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guest(tmp_path, "vm0", "a", wrong="a")
    guest(tmp_path, "vm1", "a~2")
    run_json(tmp_path, sessions={"vm0": 1, "vm1": 2})
    status, told = judged(tmp_path, capsys)
    assert (status, told[-1]) == (1, "2 verdicts: 1 pass, 1 product fault")


def broken_unhalt(folder: Path) -> None:
    """A guest that breaks its clock and un-halts it with a valid date: no event, as is known of the DM's vRTC."""
    run = RunWriter(folder)
    run.start()
    at = T0 + 5 * SECOND
    run.do("a", at, [(0, 0x0B, 0x82), (MS, 0x08, FEBRUARY), (2 * MS, 0x07, DAY_31), (3 * MS, 0x0B, 0x02)])
    run.do("b", at + 3 * SECOND, [(0, 0x0B, 0x82), (MS, 0x07, DAY_14), (2 * MS, 0x0B, 0x02)])
    run.journal("end", t_ns=at + 20 * SECOND)


ENTRY = {"name": "broken-unhalt", "vrtc": "dm", "what": "...", "since": "2026-01-01", "expires": "2026-06-01"}


@pytest.mark.parametrize(
    ("known", "status", "why"),
    [
        (None, 0, ""),
        ([{**ENTRY, "expired": False}], 0, ""),
        ([{**ENTRY, "expired": True}], 1, "broken-unhalt had to be mended by 2026-06-01"),
        ([{**ENTRY, "vrtc": "hv", "expired": False}], 1, "broken-unhalt is not among the known defects of the run"),
        ([], 1, "broken-unhalt is not among the known defects of the run"),
    ],
    ids=["not told", "known", "expired", "another vRTC's", "none"],
)
def test_a_defect_is_no_failure_where_the_run_knew_of_it(
    known: list[dict[str, Any]] | None, status: int, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_unhalt(tmp_path)
    told: dict[str, Any] = {} if known is None else {"known_defects": known}
    run_json(tmp_path, **told)
    found, lines = judged(tmp_path, capsys)
    assert found == status, lines
    assert any("known vRTC defect" in line and line.endswith(why) for line in lines), lines
