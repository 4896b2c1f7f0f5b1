"""A program on an SSH host, held as a program here is: a console, its last lines, its proven end."""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import paramiko

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.hosts.results import shown
from harness.hosts.ssh_command import RemoteCommand
from harness.secrets import MASKER

LOST_STATUS = 255
_LOOK = 0.1
_KEPT_LINES = 60
_MOST = 1 << 16


class _HostOfIt(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def failure(self) -> InfrastructureError | None: ...

    def await_failure(self) -> InfrastructureError | None: ...


class ConsolePump:
    """Between a command's channel and a socket that polls as a console must: paramiko's own descriptor does not."""

    def __init__(self, name: str) -> None:
        self.console, self._ours = socket.socketpair()
        self._command: RemoteCommand | None = None
        self._name = name
        self._closed = False
        self._lock = threading.Lock()

    def output(self, data: bytes) -> None:
        """What the program says; b"" at its end."""
        with contextlib.suppress(OSError):
            if data:
                self._ours.sendall(data)
            else:
                self._ours.shutdown(socket.SHUT_RDWR)

    def feed(self, command: RemoteCommand) -> None:
        """From now on what is written to the console goes to the command; its end ends it."""
        self._command = command
        threading.Thread(target=self._run, name=f"ssh-in-{self._name}", daemon=True).start()

    def _run(self) -> None:
        assert self._command is not None
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while data := self._ours.recv(_MOST):
                self._command.send(data)
        self._command.end_input()

    def release(self) -> None:
        """Our end alone: the other one has its own owner, who may still have something to read there."""
        self._ours.close()

    def close(self) -> None:
        """Both ends. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        self.console.close()
        self._ours.close()


class SshProcess:
    """A program below a keeper on the host."""

    def __init__(self, host: _HostOfIt, command: Sequence[str], log: Path) -> None:
        self._host = host
        self.command = list(command)
        self._log = log
        self._lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._pump = ConsolePump(self.command[0].rpartition("/")[2][:20])
        self.output = self._pump.output
        self._remote: RemoteCommand | None = None
        self._lost = False
        self._closing = False
        self._told = threading.Event()
        self._callbacks: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    @property
    def console(self) -> socket.socket:
        """Its standard input and output."""
        return self._pump.console

    @property
    def last_lines(self) -> list[str]:
        """The last lines of its standard error."""
        return list(self._lines)

    @property
    def pid(self) -> int:
        """Its process id on the host."""
        assert self._remote is not None and self._remote.started is not None
        return int(self._remote.started["pid"])

    def line(self, line: bytes) -> None:
        """A line of its standard error has come."""
        self._lines.append(line.decode("utf-8", "replace").rstrip())
        with contextlib.suppress(OSError), self._log.open("ab") as file:
            # a full disk is told of by whoever needs the disk; the lines are kept here
            file.write(MASKER.mask(line))

    def begun(self, remote: RemoteCommand) -> None:
        """It runs."""
        self._remote = remote
        self._pump.feed(remote)
        remote.on_done(self._ended)

    def _ended(self) -> None:
        remote = self._remote
        assert remote is not None
        if remote.ended is None:
            self._lost = True
            failure = None if self._closing else self._host.await_failure()
            if failure is not None:
                self._lines.append(f"(the link to {self._host.name} was lost)")
        with self._lock:
            self._told.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def exit_status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs; 255 when the link to it was lost."""
        if not self._told.is_set():
            return None
        assert self._remote is not None
        return LOST_STATUS if self._remote.ended is None else int(self._remote.ended["status"])

    def on_exit(self, callback: Callable[[], object]) -> None:
        """Have `callback` called from a thread once the process, or the link to it, and its last words are in."""
        with self._lock:
            if not self._told.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def close(self, deadline: Deadline) -> None:
        """Close its console; the keeper on the host ends it in order, then by force, and says who survived.

        Nothing is raised after a lost link: the host has that failure, and what ran there ends by itself.
        Raises InfrastructureError naming survivors, and when the end is not proven until the deadline.
        """
        self._closing = True
        with contextlib.suppress(OSError):
            self.console.shutdown(socket.SHUT_RDWR)
        if self._remote is None:
            self._pump.close()
            return
        while not self._told.wait(min(_LOOK, deadline.remaining)) and not deadline.expired:
            if self._host.failure is not None:
                break  # a link that stands still tells nothing more, however long it is waited for
        self._pump.close()
        ended = self._remote.ended
        if ended is not None and not ended["survivors"]:
            return
        if ended is None and self._host.failure is not None:
            return
        problem = "its end is not proven" if ended is None else f"still there: {', '.join(ended['survivors'])}"
        raise InfrastructureError(
            f"on {self._host.name}: {shown(self.command)} was closed; {problem}",
            awaited=f"the end of {shown(self.command)}",
            waited=deadline.elapsed,
            last_lines=self.last_lines,
        )
