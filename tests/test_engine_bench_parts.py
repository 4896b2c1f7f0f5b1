"""The parts of a guest's way on a bench, each by itself: quiet, witness, service, causes, states for tests."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fixtures.session import ROOT
from harness.bench import QuietSpec, load_bench
from harness.deadline import Deadline, Stoppable
from harness.engine import Engine, EngineSettings
from harness.engine.bench_causes import ConsoleLost, true_cause
from harness.engine.bench_host import BenchHosts
from harness.engine.judged_service import JudgedService
from harness.engine.quiet import Quiet
from harness.engine.strategy import Root, State
from harness.engine.witness import BenchWitness, WitnessAbout
from harness.errors import InfrastructureError
from harness.guests.console import ConsoleEnded, GuestDied
from harness.guests.rtc_reading import RtcReading
from harness.guests.steps import AgentReport
from harness.hosts.local import LocalHost
from harness.vm_event import VmEventService
from tests.bench_on_this_machine import PATIENCE, bench_file, our_device_model, plans

SECOND = 1_000_000_000
NOT_THERE = """\
version: 1
name: not-there
host: {{kind: ssh, address: 127.0.0.1, port: {port}}}
guests:
  - name: vm
    device_model: {{kind: acrn-dm, arguments: ["{{monitor}}"]}}
"""


# -- quiet ---------------------------------------------------------------------------------------------------


def journal(path: Path, *ages: float) -> None:
    """Events that came so many seconds ago."""
    now = time.monotonic_ns()
    lines = [{"t_ns": now - round(age * SECOND), "kind": "object", "event": {"vm_event": 0}} for age in ages]
    others = [{"t_ns": now, "kind": kind} for kind in ("connected", "alive")]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*others, *lines]))


def wait(quiet: Quiet, since: float, stirred: threading.Event | None = None) -> None:
    since_ns = time.monotonic_ns() - round(since * SECOND)
    quiet.wait(since_ns, stirred or threading.Event(), lambda: None, Deadline(PATIENCE))


def test_silence_that_was_long_enough_is_not_waited_for_again(tmp_path: Path) -> None:
    journal(tmp_path / "events.jsonl", 70.0, 65.0)
    quiet = Quiet("vm", tmp_path / "events.jsonl", QuietSpec(seconds=60.0))
    wait(quiet, since=80.0)
    assert (quiet.events, quiet.seconds < 5) == (2, True)


def test_an_event_begins_the_silence_anew(tmp_path: Path) -> None:
    path, stirred = tmp_path / "events.jsonl", threading.Event()
    journal(path)
    quiet = Quiet("vm", path, QuietSpec(seconds=0.5))

    def disturb() -> None:
        with path.open("a") as file:
            file.write(json.dumps({"t_ns": time.monotonic_ns(), "kind": "object", "event": {}}) + "\n")
        stirred.set()

    timer = threading.Timer(0.25, disturb)
    timer.start()
    began = time.monotonic()
    wait(quiet, since=0.0, stirred=stirred)
    timer.join()
    assert quiet.events == 1 and time.monotonic() - began >= 0.7


def test_a_guest_that_is_never_quiet_is_told_with_its_last_events(tmp_path: Path) -> None:
    journal(tmp_path / "events.jsonl", 0.1)
    quiet = Quiet("vm", tmp_path / "events.jsonl", QuietSpec(seconds=600.0, timeout=1.0))
    with pytest.raises(InfrastructureError, match="1 events came that nobody here asked for") as caught:
        wait(quiet, since=0.0)
    assert "vm_event" in str(caught.value) and "600 s without an event" in str(caught.value)


# -- witness -------------------------------------------------------------------------------------------------


ABOUT = WitnessAbout("vm0", "dm", "project", SECOND)


def test_accesses_stand_in_their_order_on_our_clock(tmp_path: Path) -> None:
    # given a guest whose clock is 5 s behind ours
    behind = 5 * SECOND
    witness = BenchWitness(tmp_path, ABOUT)
    witness.start(RtcReading(100 * SECOND, 100 * SECOND - behind, 100 * SECOND + 2000, 1_700_000_000, 0x26, 2))
    at = 101 * SECOND - behind
    report = AgentReport(
        "p1", True, None, 101 * SECOND - 1000, 101 * SECOND + 9000,
        writes=((0, 1, at), (2, 3, at + 4000)), reads=((4, 5, at),), kinds="wrw",
    )  # fmt: skip
    witness.reported(report)
    witness.end("console-closed")
    witness.end("again")
    start, *accesses, end = map(json.loads, (tmp_path / "witness.jsonl").read_text().splitlines())
    assert (start["rtc_time"], start["register_a"], start["tolerance_s"]) == (1_700_000_000, 0x26, 1)
    # then a clock too coarse to tell a write from the read after it puts them in no other order
    assert [(each["event"], each["register"]) for each in accesses] == [("write", 0), ("read", 4), ("write", 2)]
    for each in accesses:
        true = each["guest_ns"] + behind
        assert abs(each["stamp_ns"] - true) <= each["uncertainty_ns"] < 20_000_000
    assert [each["stamp_ns"] for each in accesses] == sorted(each["stamp_ns"] for each in accesses)
    assert end["reason"] == "console-closed"
    assert {json.loads(line)["kind"] for line in (tmp_path / "clock.jsonl").read_text().splitlines()} == {
        "start", "sample"
    }


def test_a_guest_whose_clock_says_what_cannot_be_is_no_witness(tmp_path: Path) -> None:
    witness = BenchWitness(tmp_path, ABOUT)
    witness.start(RtcReading(100 * SECOND, 0, 100 * SECOND + 2000, 1_700_000_000, 0x26, 2))
    slow = AgentReport("p1", True, None, 101 * SECOND, 101 * SECOND + 5000, writes=((0, 1, 1000),), kinds="w")
    with pytest.raises(InfrastructureError, match="the guest's clock runs wrong"):
        witness.reported(slow)
    # and of one that runs too fast nothing is known but that it was before we heard of it
    fast = AgentReport("p1", True, None, 101 * SECOND, 101 * SECOND + 5000, writes=((0, 1, 9 * SECOND),), kinds="w")
    witness.reported(fast)
    write = json.loads((tmp_path / "witness.jsonl").read_text().splitlines()[-1])
    assert write["stamp_ns"] - write["uncertainty_ns"] <= 101 * SECOND <= write["stamp_ns"] + write["uncertainty_ns"]


def test_a_write_is_as_uncertain_as_the_guest_says(tmp_path: Path) -> None:
    witness = BenchWitness(tmp_path, ABOUT)
    witness.start(RtcReading(0, 0, 2000, 1_700_000_000, 0x26, 2))
    grain = 10_000_000
    witness.reported(AgentReport("p", True, None, 0, SECOND, writes=((0, 1, 1000),), kinds="w", grain_ns=grain))
    write = json.loads((tmp_path / "witness.jsonl").read_text().splitlines()[-1])
    assert write["uncertainty_ns"] >= grain // 2 and write["stamp_ns"] >= grain // 2


def test_an_rtc_that_is_read_by_a_coarse_clock_is_known_as_well_as_it_can_be(tmp_path: Path) -> None:
    # given a guest's clock that shows whole hundredths, and else is ours
    grain, shown = 10_000_000, [100 * SECOND + 9_000_000, 101 * SECOND + 9_000_000, 102 * SECOND + 1_000_000]

    def read(true_ns: int) -> RtcReading:
        return RtcReading(true_ns - 100_000, true_ns // grain * grain, true_ns + 100_000, 1_700_000_000, 0x26, 2, grain)

    witness = BenchWitness(tmp_path, ABOUT)
    witness.start(read(shown[0]))
    witness.anchor(read(shown[1]))
    begin, end = shown[2] - 100_000, shown[2] + 100_000
    write = (0, 1, shown[2] // grain * grain)
    witness.reported(AgentReport("p", True, None, begin, end, writes=(write,), kinds="w", grain_ns=grain))
    records = [json.loads(line) for line in (tmp_path / "witness.jsonl").read_text().splitlines()]
    assert [record["event"] for record in records] == ["start", "anchor", "write"]
    for record, true_ns in zip(records, shown, strict=True):
        assert abs(record["stamp_ns"] - true_ns) <= record["uncertainty_ns"] < 2 * grain


# -- who is judged -------------------------------------------------------------------------------------------


RT = {"vrtc": "hv", "device_model": our_device_model(real_time=True)}


def test_the_device_model_is_found_by_who_listens_on_its_socket(tmp_path: Path) -> None:
    with LocalHost() as host, VmEventService("vm0") as service:
        monitor = str(tmp_path / "vm0.monitor")
        service.start(monitor)
        judged = JudgedService(bench_file(tmp_path, RT, judged="hsm"), host, monitor, "vm0", tmp_path)
        assert judged._owner(Deadline(PATIENCE)) == str(os.getpid())


def test_a_service_that_cannot_be_judged_says_why(tmp_path: Path) -> None:
    with LocalHost() as host, VmEventService("vm0") as service, contextlib.ExitStack() as stack:
        monitor = str(tmp_path / "vm0.monitor")
        service.start(monitor)
        judged = JudgedService(bench_file(tmp_path, RT, judged="hsm"), host, monitor, "vm0", tmp_path)
        died = threading.Event()
        judged.start(stack, died.set, Deadline(PATIENCE))
        assert died.wait(PATIENCE)
        assert judged.failure is not None and "acrn_hsm" in str(judged.failure)


# -- causes --------------------------------------------------------------------------------------------------


class Use:
    failure = None

    class host:
        @staticmethod
        def on_lost(callback: Any) -> None: ...


class Process:
    last_lines: list[str] = []

    def exit_status(self) -> int | None:
        return None

    def on_exit(self, callback: Any) -> None: ...


def test_a_console_that_ends_while_all_below_it_lives_is_a_lost_console(tmp_path: Path) -> None:
    use: Any = Use()
    process: Any = Process()
    ended = ConsoleEnded("vm died: its console ended", awaited="an answer", waited=1.0)
    cause = true_cause(ended, use, process, "vm", tmp_path)
    assert isinstance(cause, ConsoleLost) and cause.awaited == "an answer"
    # and a guest that said how it died is believed
    died = GuestDied("vm died: Kernel panic - not syncing: Attempted to kill init!")
    assert true_cause(died, use, process, "vm", tmp_path) is died


# -- the way up ----------------------------------------------------------------------------------------------


def test_a_run_that_is_broken_off_does_not_wait_for_a_host_to_boot(tmp_path: Path) -> None:
    booting = threading.Event()

    def take(stack: contextlib.ExitStack, anew: bool, deadline: Deadline) -> Any:
        booting.set()
        while not deadline.expired:
            threading.Event().wait(min(0.01, deadline.remaining))
        raise InfrastructureError("the host did not come up")

    with Engine(bench_file(tmp_path), Root(take), EngineSettings(tmp_path / "run", 1, 1)) as engine:
        engine.start(plans(2))
        assert booting.wait(PATIENCE)
        began = time.monotonic()
        engine.close(abort=True)
        assert time.monotonic() - began < PATIENCE / 2
    assert not engine.errors


def test_a_host_that_nobody_switches_and_that_was_never_there_is_not_waited_for_as_if_it_booted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    (tmp_path / "bench.yaml").write_text(NOT_THERE.format(port=port))
    began = time.monotonic()
    with BenchHosts(load_bench(tmp_path / "bench.yaml"), tmp_path) as hosts:
        for _ in range(2):
            with pytest.raises(InfrastructureError, match="is not reached") as error, contextlib.ExitStack() as stack:
                hosts.root.hold(stack, Deadline(PATIENCE))
            hosts.root.fail(error.value, None)
    assert time.monotonic() - began < PATIENCE


def test_a_stopped_deadline_is_over_and_so_is_what_came_of_it() -> None:
    stop = threading.Event()
    deadline = Stoppable(60.0, stop)
    inner = deadline.within(30.0)
    assert 29 < inner.remaining <= 30 and not inner.expired
    stop.set()
    assert (deadline.remaining, inner.remaining, inner.expired) == (0.0, 0.0, True)
    assert deadline.within(5.0).expired


STATES = """
from harness.deadline import Deadline
from harness.engine.strategy import State


def test_from_the_top(quiet_rtc):
    assert quiet_rtc.read_rtc(Deadline(20)).time > 0


def test_down(host_up, climb):
    assert climb.state is State.HOST_UP


def test_up_again(guest_ready, climb):
    assert climb.state is State.GUEST_READY
    assert guest_ready.facts["kernel"] == "bare"


def test_booted(guest_booted):
    assert guest_booted.guest.name == "bare-2"
"""


def test_tests_of_a_users_take_a_guest_to_a_state_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "test_states.py").write_text(STATES)
    (tmp_path / "bench.yaml").write_text(
        "version: 1\nname: one-bare\nhost: {kind: local}\nguests:\n  - {name: bare, system: bare}\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "fixtures.options"),
            *("-p", "conftest", "-p", "no:cacheprovider", "--bench", str(tmp_path / "bench.yaml"), "-q"),
            *("--run-dir", str(tmp_path / "run"), str(tmp_path / "test_states.py")),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout + done.stderr
    assert State.QUIET.label == "quiet"
