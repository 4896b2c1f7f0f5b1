"""The scenarios of `./lab hw` on the rehearsal bench: a real sshd, a real device model, and what can be cut between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fixtures.session import ROOT
from harness.bench import Bench, load_bench
from harness.engine import Engine, EngineSettings
from harness.engine.bench_host import BenchHosts
from harness.errors import InfrastructureError
from harness.hosts.base import LinkLost
from harness.judge.verdict import PASS
from harness.rehearsal.loopback import LoopbackSshd
from harness.yamltree import parse_yaml
from tests.bench_on_this_machine import PATIENCE, Hosts, Walk, plans, short_linger
from tests.command_lines import naming
from tests.test_engine_bench_faults import at_work, told

__all__ = ["short_linger"]

REHEARSAL = ROOT / "fixtures" / "benches" / "rehearsal-loopback.yaml"


def rehearsal() -> dict[str, Any]:
    """What the project's bench file says."""
    data: Any = parse_yaml(REHEARSAL.read_bytes()).data
    return dict(data)


def own_rehearsal(folder: Path, **more: Any) -> Path:
    """The rehearsal's bench file with a name, a lock and a folder of its own."""
    lock = {"kind": "lock", "folder": str(folder)}
    file = folder / "loopback.yaml"
    file.write_text(json.dumps({**rehearsal(), "name": "loopback-tried", "reservation": lock, **more}))
    return file


def run_hw(bench: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`./lab hw`, without what installs things."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "fixtures.options"),
            *("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-o", "faulthandler_timeout=0"),
            *("-m", "hw", "--bench", str(bench)),
            *("--no-html", "--run-dir", str(folder / "run"), "--rtc-seed", "11", *words),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def first_verdict_s(run: Path) -> float:
    """Seconds from the engine's beginning to the first verdict."""
    begun_ns = json.loads((run / "run.json").read_text())["clock"]["monotonic_ns"]
    verdicts = [json.loads(line) for file in run.glob("*/verdicts.jsonl") for line in file.read_text().splitlines()]
    return float(min(verdict["decided_ns"] for verdict in verdicts) - begun_ns) / 1e9


def test_hw_scenarios_run_on_the_rehearsal_and_leave_it_as_it_was(tmp_path: Path) -> None:
    file = own_rehearsal(tmp_path)
    wanted = "bare and (test_random_order or full_reset) and not pauses or settled_too"
    done = run_hw(file, tmp_path, "--rtc-updates", "2", "-k", wanted, "--rtc-guests", "6", "scenarios")
    assert done.returncode == 0, done.stdout
    assert "a reset: on a bench the agent is the witness" in done.stdout
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["bench"]["host"] == "ssh rehearsal" and not run["errors"]
    assert {about["host"] for about in run["guests"].values()} == {"ssh rehearsal"}
    # then what the harness has switched on is off again, and nothing of it is left
    bench = load_bench(file)
    assert LoopbackSshd(bench.scratch).pid is None
    assert not naming(bench.scratch)
    assert first_verdict_s(tmp_path / "run") < 15, "5 s on a machine that is not busy with something else"


@pytest.mark.soak
def test_all_hw_scenarios_run_on_the_rehearsal(tmp_path: Path) -> None:
    done = run_hw(own_rehearsal(tmp_path), tmp_path, "--rtc-updates", "5", "--rtc-guests", "6", "scenarios")
    assert done.returncode == 0, done.stdout


@contextmanager
def rehearsed(folder: Path, count: int, **more: Any) -> Iterator[tuple[Walk, LoopbackSshd]]:
    """The engine on the rehearsal, with one bare guest."""
    file = own_rehearsal(folder, guests=rehearsal()["guests"][:1], parallel=1, quiet={"seconds": 0.3}, **more)
    bench: Bench = load_bench(file)
    with BenchHosts(bench, folder / "run") as hosts:
        hosts.reserve(lambda line: None)
        with Engine(bench, hosts.root, EngineSettings(folder / "run", 1, 1)) as engine:
            engine.start(plans(count))
            yield Walk(engine, Hosts(folder), folder / "run", []), LoopbackSshd(bench.scratch)


@pytest.mark.usefixtures("short_linger")
def test_an_sshd_that_is_killed_is_a_lost_link_and_begun_with_again(tmp_path: Path) -> None:
    with rehearsed(tmp_path, 2) as (bench, sshd):
        at_work(bench)
        since = time.monotonic()
        for pid in sshd.sessions():
            os.kill(pid, signal.SIGKILL)
        error = told(bench, since)
        assert isinstance(error, LinkLost) and "rehearsal" in error.problem
        outcomes = [bench.final(f"p{number}") for number in (1, 2)]
    assert [outcome.verdict.verdict for outcome in outcomes if outcome.verdict] == [PASS, PASS]
    assert sshd.pid is None


@pytest.mark.soak
@pytest.mark.usefixtures("short_linger")
def test_a_host_that_hangs_is_told_within_seconds(tmp_path: Path) -> None:
    with rehearsed(tmp_path, 1) as (bench, sshd):
        at_work(bench)
        since = time.monotonic()
        for pid in sshd.sessions():
            os.kill(pid, signal.SIGSTOP)
        deadline = since + PATIENCE
        while not bench.engine.errors and time.monotonic() < deadline:
            time.sleep(0.01)
        waited = time.monotonic() - since
        error = bench.engine.errors[0]
        assert isinstance(error, InfrastructureError) and waited < 10
        assert "has not answered for 4 s" in error.problem or "hangs" in error.problem
        assert bench.final("p1").verdict is not None
    assert sshd.pid is None
