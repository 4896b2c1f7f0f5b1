"""Judging as the files grow and judging the kept run again come to the same; and the judge stands alone."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from harness.judge import GuestJudge, Verdict, payload
from harness.judge.__main__ import main, rejudge
from tests.judge_random_runs import KINDS, TWOFOLD, RandomRun, Sent, tamper
from tests.judge_run import MS, RTC0, SECOND, T0, RunWriter, settled

HERE = Path(__file__).parent.parent


def tampered(run: RandomRun, rng: random.Random, rate: float) -> list[Sent]:
    events: list[Sent] = []
    for sent in run.events:
        events += tamper(rng, rng.choice(KINDS + TWOFOLD), sent) if rng.random() < rate else [sent]
    return sorted(events, key=lambda sent: sent.t_ns)


def online(run: RandomRun, events: list[Sent], folder: Path, rng: random.Random) -> dict[str, Verdict]:
    """Judges while the files grow, looking in at random moments; the last verdict on each item."""
    writer, last = RunWriter(folder), {}
    with GuestJudge(writer.dir) as judge:
        revisions: dict[str, int] = {}

        def look(now_ns: int, *, final: bool = False) -> None:
            judge.refresh()
            for verdict in judge.decide(now_ns, final=final):
                assert verdict.revision == revisions.get(verdict.item, 0) + 1
                revisions[verdict.item] = verdict.revision
                last[verdict.item] = verdict

        for t_ns, write in run.lines(events):
            write(writer)
            if rng.random() < 0.3:
                look(t_ns + rng.choice((0, 10_000, 100 * MS)))
        look(run.end_ns, final=True)
        assert judge.errors == []
    return last


@pytest.mark.parametrize("vrtc", ["dm", "hv"])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_judged_while_it_grows_or_afterwards(tmp_path: Path, rate: float, vrtc: str) -> None:
    for seed in range(4):
        rng = random.Random(f"rejudge-{vrtc}-{rate}-{seed}")
        run = RandomRun(rng, 12, vrtc)
        events = tampered(run, rng, rate)
        live = online(run, events, tmp_path / str(seed), rng)
        (again,) = rejudge(tmp_path / str(seed))
        assert {verdict.item for verdict in again.verdicts} == set(live)
        for verdict in again.verdicts:
            assert verdict.same_finding(live[verdict.item]), (verdict, live[verdict.item])


def test_most_verdicts_are_told_before_the_end(tmp_path: Path) -> None:
    """Were all left to the final decision, the test above would say little."""
    rng = random.Random("early birds")
    run = RandomRun(rng, items=12)
    writer, told = RunWriter(tmp_path), set()
    with GuestJudge(writer.dir) as judge:
        for t_ns, write in run.lines(run.events):
            write(writer)
            judge.refresh()
            told |= {verdict.item for verdict in judge.decide(t_ns)}
    assert told == set(run.steps)


def simple_run(folder: Path, *, event: bool) -> None:
    run = RunWriter(folder)
    run.start()
    at = T0 + 5 * SECOND
    run.do("a", at, [(0, 0x04, 0x13)])
    if event:
        run.event(at + SECOND + MS, settled(RTC0 + 5, RTC0 + 3605, 3600, 1))
    run.journal("end", t_ns=at + 9 * SECOND)


def test_the_command_tells_a_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simple_run(tmp_path, event=True)
    (tmp_path / "run.json").write_text(json.dumps({"window_ns": SECOND, "estimate_tolerance": 0}))
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "vm0  a  pass  +1.00 ms\n1 verdicts: 1 pass\n"
    (line,) = (tmp_path / "vm0" / "rejudged.jsonl").read_text().splitlines()
    assert json.loads(line)["verdict"] == "pass"


def test_the_command_exits_1_for_a_product_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simple_run(tmp_path, event=False)
    assert main([str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["faults"] == ["missing"]


def test_the_command_exits_10_when_the_evidence_is_worth_little(tmp_path: Path) -> None:
    simple_run(tmp_path, event=True)
    run = RunWriter(tmp_path)
    run.item("b", T0 + SECOND, T0 + SECOND + MS, [(1, 2)])
    assert main([str(tmp_path)]) == 10


def test_the_command_exits_11_for_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 11
    assert "not a run directory" in capsys.readouterr().err


def test_the_judge_imports_nothing_of_what_it_judges() -> None:
    script = (
        "import pkgutil, sys, importlib, harness.judge as judge\n"
        "for module in pkgutil.iter_modules(judge.__path__): importlib.import_module(f'harness.judge.{module.name}')\n"
        "print(*sorted(name for name in sys.modules if name.startswith('harness')))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=HERE, capture_output=True, text=True, check=True)
    loaded = result.stdout.split()
    assert "harness.judge.guest" in loaded
    assert [name for name in loaded if not name.startswith("harness.judge")] == ["harness", "harness.errors"]


def test_the_work_per_update_does_not_grow_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: comparisons of payloads in the first and in the last third of a long run."""
    rng = random.Random("long")
    run = RandomRun(rng, items=240)
    lines = run.lines(tampered(run, rng, 0.3))
    compared = 0
    is_exact = payload.is_exact

    def counting(wanted: dict[str, object], got: object) -> bool:
        nonlocal compared
        compared += 1
        return is_exact(wanted, got)

    monkeypatch.setattr("harness.judge.readings.is_exact", counting)
    writer, counts = RunWriter(tmp_path), []
    third = len(lines) // 3
    with GuestJudge(writer.dir) as judge:
        for number in range(3):
            compared = 0
            for t_ns, write in lines[number * third : (number + 1) * third]:
                write(writer)
                judge.refresh()
                judge.decide(t_ns)
            counts.append(compared)
    assert counts[2] < 1.5 * counts[0], counts
