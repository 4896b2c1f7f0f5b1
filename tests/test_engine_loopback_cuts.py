"""A run on the rehearsal that is cut at random moments: nothing is left, the class is right, the next run begins."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.session import ROOT
from harness.bench import load_bench
from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.judge.verdict import PASS, PRODUCT_FAULT
from harness.rehearsal.loopback import LoopbackSshd
from tests.bench_on_this_machine import PATIENCE, short_linger
from tests.command_lines import naming
from tests.test_engine_loopback import own_rehearsal, rehearsal, rehearsed

__all__ = ["short_linger"]

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("short_linger")]

CUTS = int(os.environ.get("RTC_BENCH_CUTS", "10"))


@pytest.fixture
def sessions() -> Iterator[str]:
    """Where the host makes the folders of its sessions: by it what belongs to a test is told from others'."""
    with tempfile.TemporaryDirectory(prefix="rtc-cuts-") as folder:
        yield folder


def host_with(sessions: str) -> dict[str, Any]:
    return {**rehearsal()["host"], "folder": sessions}


def of(sessions: str, *words: str) -> list[int]:
    """Processes of sessions there, by words of their command lines."""
    found = naming(sessions).items()
    return [pid for pid, line in found if all(word in line for word in words) and "keep" not in line]


@pytest.mark.parametrize("number", range(CUTS))
@pytest.mark.parametrize("what", ["sshd", "qemu", "device model"])
def test_what_is_cut_below_a_run_costs_no_update(tmp_path: Path, sessions: str, what: str, number: int) -> None:
    choice = random.Random(f"{what}/{number}")
    with rehearsed(tmp_path, 3, host=host_with(sessions)) as (bench, sshd):
        moment = choice.uniform(0.8, 5.0)
        select.select([], [], [], moment)
        since = time.monotonic()
        if what == "sshd":
            victims = list(sshd.sessions())
        else:
            victims = of(sessions, "qemu-system-x86_64" if what == "qemu" else "harness.devicemodel.acrn_dm")
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        outcomes = [bench.final(f"p{number}") for number in (1, 2, 3)]
        told = list(bench.engine.errors)
    assert [outcome.verdict.verdict for outcome in outcomes if outcome.verdict] == [PASS] * 3, f"cut at {moment:.2f} s"
    assert all(isinstance(error, InfrastructureError) for error in told)
    assert len(told) <= 1 and time.monotonic() - since < 2 * PATIENCE
    assert PRODUCT_FAULT not in {verdict.verdict for verdict in bench.verdicts}
    assert sshd.pid is None and not of(sessions) and not list(Path(sessions).iterdir())


@pytest.mark.parametrize("number", range(CUTS))
def test_a_harness_that_is_killed_leaves_nothing_behind(tmp_path: Path, sessions: str, number: int) -> None:
    host = host_with(sessions)
    file = own_rehearsal(tmp_path, host=host, guests=rehearsal()["guests"][:1], parallel=1, quiet={"seconds": 0.3})
    bench = load_bench(file)
    sshd = LoopbackSshd(bench.scratch)
    command = [
        *(sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "fixtures.options", "-p", "no:cacheprovider"),
        *("-p", "no:hypothesispytest", "-m", "hw", "--bench", str(file), "--no-html", "--rtc-updates", "5"),
        *("-k", "random_order and bare and not hv and not pauses", "scenarios/test_random_orders.py"),
    ]
    with subprocess.Popen(
        [*command, "--run-dir", str(tmp_path / "first")], cwd=ROOT, stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    ) as harness:  # fmt: skip
        select.select([], [], [], random.Random(number).uniform(1.0, 7.0))
        harness.kill()
    try:
        # then what it had started ends by itself, with its folder
        deadline = Deadline(PATIENCE)
        while (found := [*map(str, of(sessions)), *map(str, Path(sessions).iterdir())]) and not deadline.expired:
            select.select([], [], [], 0.1)
        assert not found
        # and the lock that it held is seen to be a dead one's
        done = subprocess.run(
            [*command, "--run-dir", str(tmp_path / "second")], cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=3 * PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
    finally:
        sshd.stop()
