"""This machine as a host: how a device model is ended, and that nothing of its session is overlooked."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.local import LocalHost, LocalProcess

PATIENCE = 60.0
DEAF = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: {term})
print("ready", flush=True)
while True:
    signal.pause()
"""


@contextmanager
def started(folder: Path, *command: str) -> Iterator[LocalProcess]:
    """A process that is killed if the test does not end it."""
    with LocalHost() as host:
        process = host.start(command, log=folder / "device-model.log")
        try:
            yield process
        finally:
            if process.exit_status() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.close(Deadline(PATIENCE))


def python_that(folder: Path, on_sigterm: str) -> tuple[str, ...]:
    """A program that pays no heed to its console and does this at a SIGTERM."""
    program = folder / "program.py"
    program.write_text(DEAF.format(term=on_sigterm), encoding="ascii")
    return sys.executable, str(program)


def await_word(process: LocalProcess, word: bytes) -> None:
    process.console.settimeout(PATIENCE)
    seen = b""
    while word not in seen:
        data = process.console.recv(4096)
        assert data, f"the console ended after {seen!r}"
        seen += data


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_console_is_the_processs_standard_input_and_output(tmp_path: Path) -> None:
    with started(tmp_path, "cat") as process:
        process.console.sendall(b"hello\n")
        await_word(process, b"hello\n")
        assert process.exit_status() is None


def test_a_process_is_in_a_session_of_its_own_where_no_ctrl_c_reaches_it(tmp_path: Path) -> None:
    with started(tmp_path, "cat") as process:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_a_process_that_minds_its_console_ends_by_itself(tmp_path: Path) -> None:
    with started(tmp_path, "cat") as process:
        process.close(Deadline(PATIENCE))
        assert process.exit_status() == 0


def test_a_process_that_does_not_mind_its_console_is_asked_by_sigterm(tmp_path: Path) -> None:
    with started(tmp_path, *python_that(tmp_path, "sys.exit(7)")) as process:
        await_word(process, b"ready\n")
        process.close(Deadline(4))
        assert process.exit_status() == 7


def test_a_process_that_does_not_mind_sigterm_either_is_killed(tmp_path: Path) -> None:
    with started(tmp_path, *python_that(tmp_path, "None")) as process:
        await_word(process, b"ready\n")
        process.close(Deadline(3))
        assert process.exit_status() == -signal.SIGKILL, process.last_lines
        assert not Path(f"/proc/{process.pid}").exists()


def test_what_a_process_leaves_in_its_session_is_named(tmp_path: Path) -> None:
    # given a device model that leaves a process behind
    with started(tmp_path, "sh", "-c", "sleep 600 2>/dev/null >&2 & echo $!; exec cat >/dev/null") as process:
        process.console.settimeout(PATIENCE)
        survivor = int(process.console.recv(64))
        try:
            # when it is closed, then the close names what is left
            with pytest.raises(InfrastructureError, match=rf"sleep \({survivor}\)"):
                process.close(Deadline(2))
        finally:
            os.kill(survivor, signal.SIGKILL)


def test_what_is_only_just_dying_is_waited_for_and_not_named(tmp_path: Path) -> None:
    # given a process whose child goes when it does, a moment later
    child = "import sys; sys.stdin.read()"
    with started(tmp_path, sys.executable, "-c", _PARENT, child) as process:
        await_word(process, b"ready\n")
        process.close(Deadline(PATIENCE))
        assert process.exit_status() == 0


_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
print("ready", flush=True)
sys.stdin.read()
"""


def test_each_callback_is_called_once_when_the_process_is_dead_and_its_last_words_are_in(tmp_path: Path) -> None:
    called: list[str] = []
    all_called = threading.Event()
    with started(tmp_path, "sh", "-c", "cat >/dev/null; echo last words >&2") as process:
        process.on_exit(lambda: called.append(f"first {process.exit_status()} {process.last_lines}"))
        process.on_exit(lambda: called.append("second"))
        process.on_exit(all_called.set)
        assert called == []
        process.console.shutdown(socket.SHUT_RDWR)
        assert all_called.wait(PATIENCE)
        process.on_exit(lambda: called.append("at once"))
        process.close(Deadline(PATIENCE))
    assert called == ["first 0 ['last words']", "second", "at once"]


def test_closing_twice_is_no_harm_and_leaves_no_descriptor(tmp_path: Path) -> None:
    before = descriptors()
    with started(tmp_path, "cat") as process:
        process.close(Deadline(PATIENCE))
        process.close(Deadline(PATIENCE))
        assert process.exit_status() == 0
    assert descriptors() == before


def test_a_process_that_ended_by_itself_is_closed_without_ado(tmp_path: Path) -> None:
    with started(tmp_path, "sh", "-c", "exit 3") as process:
        ended = threading.Event()
        process.on_exit(ended.set)
        assert ended.wait(PATIENCE)
        process.close(Deadline(PATIENCE))
        assert process.exit_status() == 3


def test_standard_error_is_kept_in_the_log_whole_and_in_memory_at_its_end(tmp_path: Path) -> None:
    script = r"i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo l$i; done; printf '\377'"
    with started(tmp_path, "sh", "-c", f"({script}) >&2") as process:
        ended = threading.Event()
        process.on_exit(ended.set)
        assert ended.wait(PATIENCE)
        assert process.last_lines[-2:] == ["l200", "�"]
        assert len(process.last_lines) < 100
    log = (tmp_path / "device-model.log").read_bytes()
    assert log == b"".join(b"l%d\n" % n for n in range(1, 201)) + b"\xff"


def test_a_log_that_cannot_be_written_costs_neither_the_process_nor_its_last_lines(tmp_path: Path) -> None:
    process = LocalProcess(["sh", "-c", "echo words >&2; cat >/dev/null"], log=tmp_path / "nowhere" / "log")
    try:
        deadline = Deadline(PATIENCE)
        while process.last_lines != ["words"]:
            assert not deadline.expired
            select.select([], [], [], 0.01)
        assert process.exit_status() is None
    finally:
        process.close(Deadline(PATIENCE))


@pytest.mark.parametrize("command", ["/no/such/program", "/etc/passwd", "/tmp"])
def test_a_command_that_cannot_be_started_is_the_users_to_mend(command: str, tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(ConfigurationError, match=command):
        LocalHost().start([command], log=tmp_path / "log")
    assert descriptors() == before


# -- what every host offers ------------------------------------------------------------------------------------------


def test_a_command_runs_to_its_end_or_is_ended_at_the_deadline() -> None:
    with LocalHost() as host:
        result = host.run(["sh", "-c", "cat; echo words >&2; exit 7"], Deadline(PATIENCE), data=b"in", check=False)
        assert (result.status, result.output, result.errors) == (7, b"in", "words\n")
        with pytest.raises(InfrastructureError, match="ended with status 7"):
            host.run(["sh", "-c", "exit 7"], Deadline(PATIENCE))
        with pytest.raises(InfrastructureError, match="sleep 600 did not end in time"):
            host.run(["sleep", "600"], Deadline(0.1))
        with pytest.raises(ConfigurationError, match="no-such-program"):
            host.run(["no-such-program"], Deadline(PATIENCE))


def test_files_come_to_a_folder_of_the_hosts_own_that_goes_with_it() -> None:
    with LocalHost() as host:
        path = Path(host.put(b"#!/bin/sh\necho ran\n", "program", Deadline(PATIENCE), executable=True))
        assert host.run([str(path)], Deadline(PATIENCE)).output == b"ran\n"
        assert path.parent == Path(host.folder) and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        born = path.stat().st_ino
        host.put(b"#!/bin/sh\necho ran\n", "program", Deadline(PATIENCE), executable=True)
        assert path.stat().st_ino == born, "the same is not brought twice"
        usage = host.run([host.python, "-I", host.tools(Deadline(1))], Deadline(PATIENCE), check=False)
        assert "usage: tools.pyz" in usage.errors
    assert not path.parent.exists()


def test_a_process_may_have_a_terminal_of_its_own(tmp_path: Path) -> None:
    with LocalHost() as host:
        process = host.start(["sh", "-c", "tty; exec cat"], log=tmp_path / "log", terminal=True)
        await_word(process, b"/dev/pts/")
        process.console.sendall(b"\x03hello")
        await_word(process, b"\x03hello")
        process.close(Deadline(PATIENCE))
        with pytest.raises(ConfigurationError, match="no-such-program"):
            host.start(["no-such-program"], log=tmp_path / "log", terminal=True)
