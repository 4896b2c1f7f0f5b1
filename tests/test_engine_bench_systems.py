"""A guest with a system of the user's on a bench: logged in to, judged, given back; and one that goes on running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.judge.verdict import PASS
from tests.bench_on_this_machine import PATIENCE, WINDOW, bench_file, plans, short_linger, walk
from tests.system_machine import PASSWORD, system_image
from tests.test_engine_bench_faults import SOCKET_CONSOLE, until

__all__ = ["short_linger"]

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("short_linger")]

KERNEL_ARGUMENTS = "console=ttyS0 quiet loglevel=1 clocksource=hpet cryptomgr.notests nolapic"


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GUESTS_PASSWORD", PASSWORD)
    return "GUESTS_PASSWORD"


def device_model(folder: Path, monitor: str, name: str) -> list[str]:
    """acrn-dm's command line for the system, played by ours."""
    kernel = system_image(folder)
    return [
        *("env", "PYTHONPATH={harness}", f"RTC_BENCH_DM_OPTIONS=--full-events --window {WINDOW}", "{python}", "-m"),
        *("harness.devicemodel.acrn_dm", "-m", "256M", "-k", str(kernel), "-r", str(folder / "initrd")),
        *("-B", KERNEL_ARGUMENTS, "-l", "com1,stdio", "--cmd_monitor", monitor, name),
    ]


def own(name: str, password: str, model: dict[str, Any], **more: Any) -> dict[str, Any]:
    login = {"user": "root", "password_env": password}
    return {"name": name, "system": "linux", "device_model": model, "login": login, "boot_timeout": PATIENCE, **more}


def test_a_users_system_is_logged_in_to_judged_and_given_back(tmp_path: Path, password: str) -> None:
    program, *arguments = device_model(tmp_path, "{monitor}", "{vm}")
    guest = own("mine", password, {"kind": "acrn-dm", "program": program, "arguments": arguments})
    with walk(bench_file(tmp_path, guest), tmp_path, plans(2)) as bench:
        outcomes = [bench.final(f"p{number}") for number in (1, 2)]
    assert [outcome.verdict.verdict for outcome in outcomes if outcome.verdict] == [PASS, PASS]
    assert not bench.engine.errors
    about = json.loads((bench.folder / "run.json").read_text())["guests"]["mine-1"]
    assert "ntpd" in about["agent"]["time_daemons"], "who would set the RTC is held off"
    texts = "".join(file.read_text(errors="replace") for file in (bench.folder / "mine-1").iterdir())
    assert PASSWORD not in texts


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A guest that somebody else has started, with its console on a socket."""
    (tmp_path / "launch.py").write_text(SOCKET_CONSOLE)
    root = str(Path(__file__).parents[1])
    command = device_model(tmp_path, str(tmp_path / "monitor"), "theirs")
    filled = [word.format(harness=root, python=sys.executable) for word in command]
    process = subprocess.Popen([sys.executable, str(tmp_path / "launch.py"), str(tmp_path / "console"), *filled],
                               start_new_session=True)
    yield process
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(PATIENCE)


def test_a_guest_that_runs_already_is_judged_and_goes_on(
    tmp_path: Path, password: str, running: subprocess.Popen[bytes]
) -> None:
    until((tmp_path / "console").exists)
    guest = own(
        "running", password, {"kind": "running", "monitor": str(tmp_path / "monitor")},
        console={"kind": "socket", "path": str(tmp_path / "console")}, vm_name="theirs",
    )
    bench_spec = bench_file(tmp_path, guest, judged="acrn-dm")
    with walk(bench_spec, tmp_path, plans(1)) as bench:
        outcome = bench.final("p1")
    assert outcome.verdict is not None, outcome.error
    assert not bench.engine.errors
    assert running.poll() is None, "whoever started it ends it"
    assert "@rtc-ended:0@" in (bench.folder / "running-1" / "console.log").read_text(), "the agent is gone"
