"""The device model as a process: how it ends, what it says then, and that nothing of it is left."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.devicemodel.exit_record import ExitRecord, parse_exit_record
from harness.hosts.local import LocalHost, LocalProcess

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0
PAGE = 4096

pytestmark = pytest.mark.qemu


@contextmanager
def device_model(folder: Path, *options: str) -> Iterator[LocalProcess]:
    """A device model whose guest runs firmware and nothing else."""
    command = [
        *("/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "harness.devicemodel"),
        *("--cmd_monitor", str(folder / "monitor.sock"), "--memory", "32"),
        *("--trace-log", str(folder / "trace.log"), "--exit-record", str(folder / "exit.json")),
        *options,
        "vm0",
    ]
    with LocalHost() as host:
        process = host.start(command, log=folder / "device-model.log")
        try:
            yield process
        finally:
            process.close(Deadline(PATIENCE))


def until(condition: object, awaited: str) -> None:
    """Look at something that can only be looked at, until it is so."""
    deadline = Deadline(PATIENCE)
    assert callable(condition)
    while not condition():
        assert not deadline.expired, f"still no {awaited}"
        select.select([], [], [], 0.01)


def qemu_of(process: LocalProcess) -> int:
    """The process id of the QEMU below a device model."""
    found: list[int] = []

    def look() -> bool:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for child in children.read_text(encoding="ascii").split():
            name = Path(f"/proc/{child}/comm").read_text(encoding="ascii")
            if name.startswith("qemu-system"):
                found.append(int(child))
        return bool(found)

    until(look, "QEMU process")
    return found[0]


def traced(folder: Path) -> bool:
    log = folder / "trace.log"
    return log.exists() and b"name 'rtc'" in log.read_bytes()


def record_of(process: LocalProcess, folder: Path) -> ExitRecord:
    """The exit record, the same on stderr and in its file."""
    until(lambda: process.exit_status() is not None, "end of the device model")
    on_disk = parse_exit_record((folder / "exit.json").read_text(encoding="utf-8"))
    until(lambda: parse_exit_record(process.last_lines[-1] if process.last_lines else ""), "exit record")
    assert on_disk is not None and on_disk == parse_exit_record(process.last_lines[-1])
    assert process.exit_status() == on_disk.status
    return on_disk


def ask(folder: Path, command: str) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(folder / "monitor.sock"))
        connection.sendall(json.dumps({"command": command}).encode())
        answer = connection.recv(65536)
    found = json.loads(answer)
    assert isinstance(found, dict)
    return found


def test_destroy_is_acknowledged_and_ends_everything(tmp_path: Path) -> None:
    with device_model(tmp_path) as process:
        until(lambda: traced(tmp_path), "trace of the firmware")
        qemu = qemu_of(process)
        assert ask(tmp_path, "destroy") == {"ack": 0}
        record = record_of(process, tmp_path)
    assert (record.fault, record.reason) == (None, "destroyed")
    assert not Path(f"/proc/{qemu}").exists()
    assert not (tmp_path / "monitor.sock").exists()


def test_the_trace_log_begins_with_the_clock_and_keeps_raw_lines_with_stamps(tmp_path: Path) -> None:
    with device_model(tmp_path, "--rtc", "2024-06-15T12:00:00Z") as process:
        until(lambda: traced(tmp_path), "trace of the firmware")
        ask(tmp_path, "destroy")
        record_of(process, tmp_path)
    lines = (tmp_path / "trace.log").read_text(encoding="utf-8").splitlines()
    start, end = json.loads(lines[0][2:]), json.loads(lines[-1][2:])
    assert (start["event"], start["rtc_time"], start["vm"]) == ("start", 1718452800, "vm0")
    assert end["event"] == "end"
    last = start["stamp_ns"]
    for line in lines[1:-1]:
        arrival, stamp, raw = line.split(" ", 2)
        assert last <= int(stamp) <= int(arrival)
        assert "@" in raw
        last = int(stamp)


def test_its_status_says_where_its_trace_log_and_its_exit_record_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with device_model(tmp_path, "--exit-record", "relative.json"):
        until((tmp_path / "monitor.sock").exists, "monitor socket")
        status = ask(tmp_path, "status")["status"]
    assert isinstance(status, dict)
    assert status["about"] == {
        "trace_log": str(tmp_path / "trace.log"),
        "exit_record": str(tmp_path / "relative.json"),
    }


def test_qemu_killed_is_told_with_its_signal(tmp_path: Path) -> None:
    with device_model(tmp_path) as process:
        os.kill(qemu_of(process), signal.SIGKILL)
        record = record_of(process, tmp_path)
    assert (record.fault, record.reason) == ("infrastructure", "qemu-died")
    assert "SIGKILL" in record.problem


def test_refused_arguments_are_a_configuration_error_with_qemus_words(tmp_path: Path) -> None:
    with device_model(tmp_path, "--cpu", "nonsense") as process:
        record = record_of(process, tmp_path)
    assert (record.fault, record.reason) == ("configuration", "qemu-refused")
    assert "nonsense" in record.problem


def test_a_missing_binary_is_a_configuration_error_that_says_how_to_get_it(tmp_path: Path) -> None:
    with device_model(tmp_path, "--qemu", "qemu-system-nowhere") as process:
        record = record_of(process, tmp_path)
    assert record.fault == "configuration"
    assert "qemu-system-nowhere" in record.problem and "apt-get install" in record.problem


def test_the_guest_goes_when_its_console_is_closed(tmp_path: Path) -> None:
    with device_model(tmp_path) as process:
        qemu = qemu_of(process)
        process.console.shutdown(socket.SHUT_RDWR)
        record = record_of(process, tmp_path)
    assert record.reason == "console-closed"
    assert not Path(f"/proc/{qemu}").exists()


def test_sigterm_ends_it_in_order(tmp_path: Path) -> None:
    with device_model(tmp_path) as process:
        until(lambda: traced(tmp_path), "trace of the firmware")
        os.kill(process.pid, signal.SIGTERM)
        assert record_of(process, tmp_path).reason == "terminated"
    assert not (tmp_path / "monitor.sock").exists()


def test_qemu_dies_with_a_device_model_that_is_killed(tmp_path: Path) -> None:
    with device_model(tmp_path) as process:
        qemu = qemu_of(process)
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{qemu}").exists(), "end of QEMU")


def test_a_full_disk_is_told_although_no_record_can_be_written(tmp_path: Path) -> None:
    with device_model(tmp_path, "--trace-log", "/dev/full", "--exit-record", "/dev/full") as process:
        until(lambda: process.exit_status() is not None, "end of the device model")
        until(lambda: any(parse_exit_record(line) for line in process.last_lines), "last words")
        record = next(found for line in process.last_lines if (found := parse_exit_record(line)) is not None)
    assert (record.fault, "No space left" in record.problem) == ("infrastructure", True)


def test_a_second_service_on_the_same_socket_is_refused_by_name(tmp_path: Path) -> None:
    with device_model(tmp_path) as first:
        until((tmp_path / "monitor.sock").exists, "monitor socket")
        other = tmp_path / "other"
        other.mkdir()
        with device_model(other, "--cmd_monitor", str(tmp_path / "monitor.sock")) as second:
            record = record_of(second, other)
        assert record.fault is not None and str(tmp_path / "monitor.sock") in record.problem
        assert first.exit_status() is None


def test_a_log_that_hangs_is_told_by_name(tmp_path: Path) -> None:
    # given a trace log that nobody takes anything from, with room for little more than the start
    log = tmp_path / "hanging"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PAGE)
    os.write(reader, bytes(PAGE - 600))
    try:
        with device_model(tmp_path, "--trace-log", str(log)) as process:
            record = record_of(process, tmp_path)
    finally:
        os.close(reader)
    assert (record.fault, record.reason) == ("infrastructure", "trace-blocked")
