"""The run's hypervisor process: ready before it is needed, missed at once, gone at the end."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.engine.hypervisor import Hypervisor, HypervisorDied
from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.local import LocalHost, LocalProcess

PATIENCE = 30.0


class Machine(LocalHost):
    """This machine; `instead` is started in place of what was asked for. Remembers the process."""

    def __init__(self, *instead: str) -> None:
        self._instead = instead
        self.process: LocalProcess

    def start(self, command: Sequence[str], *, log: Path, terminal: bool = False) -> LocalProcess:
        self.process = super().start(self._instead or command, log=log)
        return self.process


@contextmanager
def hypervisor_on(host: Machine, folder: Path) -> Iterator[tuple[Hypervisor, list[HypervisorDied]]]:
    """One that is closed at the end, and what was told of its death."""
    deaths: list[HypervisorDied] = []
    with Hypervisor(host, folder, deaths.append) as hypervisor:
        yield hypervisor, deaths


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, a short one, with nothing in it."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_it_listens_when_it_is_ready_and_leaves_nothing(tmp_path: Path) -> None:
    host = Machine()
    with hypervisor_on(host, tmp_path) as (hypervisor, deaths):
        hypervisor.await_ready(Deadline(PATIENCE))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(str(hypervisor.socket))
        hypervisor.close(Deadline(PATIENCE))
    assert not alive(host.process.pid)
    assert hypervisor.failure is None and not deaths, "an orderly end is no death"
    assert [path.name for path in tmp_path.iterdir()] == ["hypervisor.log"]


def test_where_the_run_directorys_path_is_too_long_the_socket_is_elsewhere(tmp_path: Path, temporary: Path) -> None:
    run = tmp_path / ("x" * 120)
    run.mkdir()
    with hypervisor_on(Machine(), run) as (hypervisor, _):
        hypervisor.await_ready(Deadline(PATIENCE))
        assert temporary in hypervisor.socket.parents
        assert hypervisor.socket.parent.stat().st_mode & 0o777 == 0o700
    assert not list(temporary.iterdir())
    assert [path.name for path in run.iterdir()] == ["hypervisor.log"]


def test_its_death_is_told_at_once_by_name_and_to_all_who_ask(tmp_path: Path) -> None:
    host, told = Machine(), threading.Event()
    with hypervisor_on(host, tmp_path) as (hypervisor, deaths):
        hypervisor.await_ready(Deadline(PATIENCE))
        assert hypervisor.failure_within(0) is None
        hypervisor.on_death(told.set)
        os.kill(host.process.pid, signal.SIGKILL)
        assert told.wait(PATIENCE)
        assert deaths == [hypervisor.failure] == [hypervisor.failure_within(0)]
        assert "ended with status -9" in str(deaths[0]) and "hypervisor.log" in str(deaths[0])
        late: list[str] = []
        hypervisor.on_death(lambda: late.append("told"))
        assert late == ["told"]
    assert [path.name for path in tmp_path.iterdir()] == ["hypervisor.log"], "a killed process leaves its socket"
    assert len(deaths) == 1


def test_one_that_ends_before_it_listens_is_told_with_its_last_words(tmp_path: Path) -> None:
    host = Machine(sys.executable, "-c", "import sys; sys.exit('no such thing')")
    with hypervisor_on(host, tmp_path) as (hypervisor, _), pytest.raises(HypervisorDied, match="no such thing"):
        hypervisor.await_ready(Deadline(PATIENCE))


def test_one_that_never_listens_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    host = Machine(sys.executable, "-c", "import sys; sys.stdin.read()")
    with hypervisor_on(host, tmp_path) as (hypervisor, _), pytest.raises(InfrastructureError, match="awaited: "):
        hypervisor.await_ready(Deadline(0.05))
    assert not alive(host.process.pid)


def test_one_that_cannot_be_started_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    run = tmp_path / ("x" * 120)
    run.mkdir()
    with pytest.raises(ConfigurationError):
        Hypervisor(Machine("/nowhere"), run, lambda error: None)
    assert not list(temporary.iterdir()) and not list(run.iterdir())
