"""What can break on a bench: each told by its name and within seconds, and none costs more updates than it must."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.engine.bench_causes import ConsoleLost, DeviceModelDied
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.guests.console import GuestDied
from harness.hosts.base import LinkLost
from harness.judge.verdict import PASS, PRODUCT_FAULT
from tests.bench_on_this_machine import (
    PATIENCE,
    Walk,
    bench_file,
    our_device_model,
    plans,
    short_linger,
    walk,
)

__all__ = ["short_linger"]

pytestmark = pytest.mark.usefixtures("short_linger")

TOLD_WITHIN = 5.0
"""Seconds from a fault to its being known; on a busy machine some more."""


def until(condition: Callable[[], object]) -> None:
    deadline = Deadline(PATIENCE)
    while not condition():
        assert not deadline.expired
        select.select([], [], [], 0.005)


def at_work(bench: Walk, vm: str = "bare-1") -> None:
    """Until the guest has written something: an update is under way then."""
    witness = bench.folder / vm / "witness.jsonl"
    until(lambda: witness.exists() and b'"write"' in witness.read_bytes())


def told(bench: Walk, since: float) -> BenchError:
    """The first error, in time."""
    until(lambda: bench.engine.errors)
    assert time.monotonic() - since < TOLD_WITHIN
    return bench.engine.errors[0]


def all_pass(bench: Walk, count: int) -> list[str | None]:
    """Every update has been judged well in the end; on which guests."""
    outcomes = [bench.final(f"p{number}") for number in range(1, count + 1)]
    assert [outcome.verdict.verdict for outcome in outcomes if outcome.verdict] == [PASS] * count
    return [outcome.vm for outcome in outcomes]


def test_a_device_model_that_is_killed_costs_no_update(tmp_path: Path) -> None:
    with walk(bench_file(tmp_path), tmp_path, plans(2)) as bench:
        at_work(bench)
        since = time.monotonic()
        os.kill(bench.hosts.pid_of("harness.devicemodel.acrn_dm", "--cmd_monitor"), signal.SIGKILL)
        error = told(bench, since)
        assert isinstance(error, DeviceModelDied)
        assert re.search("bare-1 ended with status (-9|137) ", error.problem)
        assert "device-model.log" in str(error)
        assert "bare-2" in all_pass(bench, 2)
    # then the bench was begun with again at its root, once
    assert bench.hosts.anew == [False, True] and len(bench.engine.errors) == 1
    # and what was lost is on record
    run = json.loads((bench.folder / "run.json").read_text())
    assert [(error["class"], error["vm"]) for error in run["errors"]] == [("infrastructure", "bare-1")]
    *_, end = map(json.loads, (bench.folder / "bare-1" / "witness.jsonl").read_text().splitlines())
    assert (end["event"], end["reason"]) == ("end", "device-model-died")
    assert set(run["guests"]) == {"bare-1", "bare-2"}


@pytest.mark.soak
def test_a_qemu_that_is_killed_is_what_the_device_model_says(tmp_path: Path) -> None:
    with walk(bench_file(tmp_path), tmp_path, plans(2)) as bench:
        at_work(bench)
        os.kill(bench.hosts.pid_of("qemu-system-x86_64", "rtc.nonce"), signal.SIGKILL)
        until(lambda: bench.engine.errors)
        assert "QEMU was ended by signal 9" in bench.engine.errors[0].problem
        all_pass(bench, 2)


@pytest.mark.soak
def test_a_lost_link_is_told_and_everything_taken_anew(tmp_path: Path) -> None:
    with walk(bench_file(tmp_path, parallel=2), tmp_path, plans(4)) as bench:
        at_work(bench)
        since = time.monotonic()
        bench.hosts.hosts[0].cut_link()
        assert isinstance(told(bench, since), LinkLost)
        all_pass(bench, 4)
    # then one loss has been told by both guests, and has cost one restart
    assert bench.hosts.anew == [False, True]
    assert [type(error) for error in bench.engine.errors] == [LinkLost, LinkLost]


@pytest.mark.soak
def test_an_observer_that_is_killed_is_no_silence_of_the_service(tmp_path: Path) -> None:
    with walk(bench_file(tmp_path), tmp_path, plans(2)) as bench:
        at_work(bench)
        os.kill(bench.hosts.pid_of("tools.pyz", "observe"), signal.SIGKILL)
        until(lambda: bench.engine.errors)
        assert "the observer on this-machine has ended" in str(bench.engine.errors[0])
        all_pass(bench, 2)
    assert PRODUCT_FAULT not in {verdict.verdict for verdict in bench.verdicts}


def test_a_judged_service_that_dies_is_a_product_fault(tmp_path: Path) -> None:
    with walk(bench_file(tmp_path, judged="behind-acrn-dm"), tmp_path, plans(1)) as bench:
        at_work(bench)
        os.kill(bench.hosts.pid_of("vm_event.pyz", "serve"), signal.SIGKILL)
        outcome = bench.final("p1")
        assert outcome.verdict is not None and outcome.verdict.verdict == PRODUCT_FAULT


def test_a_launch_script_that_fails_breaks_the_bench_by_its_first_words(tmp_path: Path) -> None:
    # given a script that prints garbage, each time another one, and ends
    script = tmp_path / "launch.sh"
    script.write_text(
        "#!/bin/sh\nn=$(($(cat $0.n 2>/dev/null || echo 0) + 1)); echo $n >$0.n\n"
        "head -c 3000 /dev/urandom\necho \"no EPT here ($n)\" >&2\nexit 3\n"
    )
    script.chmod(0o755)
    model = {"kind": "script", "program": str(script), "arguments": ["{monitor}", "{kernel}"]}
    since = time.monotonic()
    with walk(bench_file(tmp_path, {"device_model": model}), tmp_path, plans(3)) as bench:
        outcomes = [bench.final(f"p{number}") for number in (1, 2, 3)]
    assert time.monotonic() - since < 3 * TOLD_WITHIN
    # then it has been tried three times, and whoever waited is told of the first
    assert len(bench.hosts.hosts) == 3
    causes = {str(outcome.error) for outcome in outcomes}
    assert len(causes) == 1 and "no EPT here (1)" in causes.pop()
    assert "ended with status 3" in bench.engine.errors[0].problem


def test_a_login_that_is_refused_is_the_configurations_and_not_tried_again(tmp_path: Path) -> None:
    script = tmp_path / "launch.sh"
    script.write_text(
        "#!/bin/sh\nexec env PYTHONPATH=$1 $2 -c 'import socket, sys, threading\n"
        "from harness.vm_event import VmEventService\n"
        "service = VmEventService(sys.argv[2]); service.start(sys.argv[1])\n"
        "while True:\n"
        "    sys.stdout.write(\"vm login: \"); sys.stdout.flush()\n"
        "    if not sys.stdin.readline(): break\n"
        "    sys.stdout.write(\"Login incorrect\\r\\n\")\n' \"$3\" \"$4\"\n"
    )
    script.chmod(0o755)
    model = {
        "kind": "script", "program": str(script), "arguments": ["{harness}", "{python}", "{monitor}", "{vm}"]
    }
    own = {"name": "own", "system": "linux", "device_model": model, "login": {"user": "nobody"}}
    with walk(bench_file(tmp_path, own), tmp_path, plans(2)) as bench:
        outcomes = [bench.final(f"p{number}") for number in (1, 2)]
    assert all(isinstance(outcome.error, ConfigurationError) for outcome in outcomes)
    assert "refused the login of nobody" in str(outcomes[0].error)
    assert len(bench.hosts.hosts) == 1


SOCKET_CONSOLE = """
import os, select, signal, socket, subprocess, sys
path, *command = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
ours, theirs = socket.socketpair()
model = subprocess.Popen(command, stdin=theirs, stdout=theirs)
theirs.close()
peer = None
def cut(number, frame):
    peer.shutdown(socket.SHUT_RDWR)
signal.signal(signal.SIGUSR1, cut)
while True:
    watched = [ours, peer] if peer is not None else [ours, listener]
    for found in select.select(watched, [], [])[0]:
        if found is listener:
            peer, _ = listener.accept()
            continue
        data = found.recv(65536)
        if not data and found is peer:
            peer.close()
            peer = None
            break
        if not data:
            model.kill()
            sys.exit(model.wait())
        other = peer if found is ours else ours
        if other is not None:
            other.sendall(data)
"""


def test_a_console_that_is_lost_is_told_apart_from_a_guest_that_died(tmp_path: Path) -> None:
    (tmp_path / "launch.py").write_text(SOCKET_CONSOLE)
    ours = our_device_model("--full-events", "--window", "0.4")
    socket = f"{tmp_path}/{{vm}}.console"
    words = [str(tmp_path / "launch.py"), socket, "env", *ours["arguments"]]
    model = {"kind": "script", "program": sys.executable, "arguments": words}
    guest = {"device_model": model, "console": {"kind": "socket", "path": socket}}
    with walk(bench_file(tmp_path, guest), tmp_path, plans(2)) as bench:
        at_work(bench)
        os.kill(bench.hosts.pid_of("launch.py"), signal.SIGUSR1)
        until(lambda: bench.engine.errors)
        assert isinstance(bench.engine.errors[0], ConsoleLost)
        all_pass(bench, 2)


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with walk(bench_file(tmp_path), tmp_path, plans(9)) as bench:
        at_work(bench)
        since = time.monotonic()
        bench.engine.close(abort=True)
        assert time.monotonic() - since < TOLD_WITHIN
    assert not bench.engine.errors
    assert not Path(bench.hosts.folders[0]).exists()


@pytest.mark.soak
def test_a_guest_that_panics_has_died_of_it(tmp_path: Path) -> None:
    arguments: list[Any] = list(our_device_model("--full-events", "--window", "0.4")["arguments"])
    arguments[arguments.index("-B") : 0] = ["-r", "{initrd}"]
    model = {"kind": "acrn-dm", "program": "env", "arguments": arguments}
    with walk(bench_file(tmp_path, {"system": "linux", "device_model": model}), tmp_path, plans(1)) as bench:
        guest = bench.engine.climb()
        try:
            from harness.engine.strategy import State

            guest.reach(State.GUEST_READY)
            with pytest.raises(InfrastructureError) as caught:
                guest.guest.command("panic", Deadline(PATIENCE))
                guest.guest.boot(Deadline(PATIENCE))
            assert isinstance(caught.value, GuestDied)
        finally:
            guest.close()
