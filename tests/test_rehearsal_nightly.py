"""Rehearsals with the machine that the project builds: the bench's whole way, and a nested host that comes up or dies.

Long: packages are fetched the first time, and all of it is emulated, the guests inside twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from harness.bench import Bench, NestedHostSpec, load_bench
from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests.cache import default_cache_dir
from harness.rehearsal.machine_image import SAY
from harness.rehearsal.nested_bench import prepare_nested
from tests.vm_event_support import eventually

pytest.importorskip("paramiko")
from harness.hosts.nested import NestedHost, NotAcrn

pytestmark = [pytest.mark.qemu, pytest.mark.soak]

ROOT = Path(__file__).parents[1]
SCENARIO_RUN = 900.0
TOLD_WITHIN = 5.0
TRANSIENT = "Assertion failed in file arch/x86/vtd.c,line 256 : fatal error\n"


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The bench of a nested host that boots the rehearsal machine's image."""
    return load_bench(prepare_nested(tmp_path_factory.mktemp("nested"), Deadline(600)))


def host_of(bench: Bench) -> NestedHostSpec:
    assert isinstance(bench.host, NestedHostSpec)
    return bench.host


def scenarios(folder: Path, bench: Path, marker: str, *more: str) -> dict[str, str]:
    """Runs scenarios on a bench as a user does; the outcome of each."""
    # The bench's own folder is this test's; the images are everybody's.
    environment = {**os.environ, "RTC_BENCH_CACHE": str(default_cache_dir()), "XDG_CACHE_HOME": str(folder / "cache")}
    command = [
        *(sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "fixtures.options", "-p", "no:cacheprovider"),
        *("-m", marker, "scenarios", "--bench", str(bench), "--run-dir", str(folder / "run"), *more),
    ]
    with (folder / "output").open("wb") as output:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, timeout=SCENARIO_RUN, check=False
        )
    assert done.returncode == 0, (folder / "output").read_text()[-6000:]
    cases = ET.parse(folder / "run" / "junit.xml").getroot().iter("testcase")
    return {case.attrib["name"]: "skipped" if case.find("skipped") is not None else "passed" for case in cases}


def passed(outcomes: dict[str, str], word: str) -> int:
    return sum(outcome == "passed" and word in name for name, outcome in outcomes.items())


def test_the_hw_scenarios_run_on_the_guests_in_the_machine(tmp_path: Path) -> None:
    bench = ROOT / "fixtures" / "benches" / "rehearsal-machine.yaml"
    outcomes = scenarios(tmp_path, bench, "hw", "--rtc-updates", "3", "-k", "random")
    assert passed(outcomes, "bare") >= 4
    assert passed(outcomes, "linux") >= 1


def test_the_nested_scenarios_run_on_a_nested_host(tmp_path: Path, nested: Bench) -> None:
    assert nested.file is not None
    outcomes = scenarios(tmp_path, nested.file, "nested", "--rtc-updates", "3", "-k", "random and bare")
    assert passed(outcomes, "bare") >= 4


def test_a_nested_host_comes_up_and_is_destroyed(tmp_path: Path, nested: Bench) -> None:
    with NestedHost(host_of(nested), tmp_path) as host:
        assert host.kind == "nested"
        assert host.run(["hostname"], Deadline(60)).output == b"rehearsal\n"
        machine = host._machine
        assert machine is not None and not machine.is_gone
    assert machine.is_gone and not Path(f"/proc/{machine.pid}").exists()
    assert host.notes == []


def test_a_transient_assertion_costs_one_boot(
    tmp_path: Path, nested: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a machine whose console says at its first boot what ACRN's hypervisor then says
    words = tmp_path / "words"
    words.write_text(TRANSIENT)
    spec = host_of(nested)
    spec = spec.model_copy(update={"arguments": (*spec.arguments, "-fw_cfg", f"name={SAY},file={words}")})
    told = NestedHost._retried

    def once(host: NestedHost, *end: object) -> None:
        words.write_text("this time it is well\n")
        told(host, *end)  # type: ignore[arg-type]

    monkeypatch.setattr(NestedHost, "_retried", once)
    # then it comes up at the second, and that is told
    with NestedHost(spec, tmp_path) as host:
        assert len(host.notes) == 1 and TRANSIENT.strip() in host.notes[0]
    log = (tmp_path / "nested-console.log").read_text()
    assert TRANSIENT.strip() in log and "this time it is well" in log


def test_a_machine_that_is_no_acrn_is_refused(tmp_path: Path, nested: Bench) -> None:
    spec = host_of(nested).model_copy(update={"detects": "Hypervisor detected: [A-Z]{4}"})
    with pytest.raises(NotAcrn, match="ACRN does not run it"):
        NestedHost(spec, tmp_path).__enter__()


@pytest.mark.parametrize("how", ["panic", "killed"])
def test_a_nested_machine_that_dies_in_use_is_told_by_name(tmp_path: Path, nested: Bench, how: str) -> None:
    with NestedHost(host_of(nested), tmp_path) as host:
        lost: list[InfrastructureError] = []
        host.on_lost(lost.append)
        process = host.start(["sleep", "1000"], log=tmp_path / "sleep.log")
        assert host._machine is not None
        started = time.monotonic()
        if how == "killed":
            os.kill(host._machine.pid, 9)
        else:
            with pytest.raises(InfrastructureError):
                host.run(["sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60"], Deadline(60))
        eventually(lambda: lost, "the loss")
        assert time.monotonic() - started < TOLD_WITHIN
        assert "sleep 1000" in lost[0].problem
        assert ("Kernel panic" if how == "panic" else "SIGKILL") in lost[0].problem
        eventually(lambda: process.exit_status() is not None, "the end of what ran there")
