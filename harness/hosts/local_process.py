"""A child process of the harness that cannot outlive it: how it is held, ended, and its end proven."""

from __future__ import annotations

import collections
import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.onhost.processes import table

_KEPT_LINES = 60
_SETTLE = 0.5


class LocalProcess:
    """A child in a session of its own: a Ctrl-C at the terminal reaches the harness alone, which then ends
    the child in order. If the harness dies without a word, the child's console ends, and it goes by itself.
    """

    def __init__(self, command: Sequence[str], *, log: Path) -> None:
        self._command = list(command)
        self._lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._callbacks: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._gone = False
        self._process: subprocess.Popen[bytes]
        self.console, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            self.console.close()
            raise ConfigurationError(f"{command[0]} cannot be started: {error}") from error
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._reader = threading.Thread(target=self._read_errors, args=(log,), name=f"stderr-{self.pid}", daemon=True)
        self._reader.start()

    @property
    def last_lines(self) -> list[str]:
        """The last lines of its standard error."""
        return list(self._lines)

    def exit_status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        with self._lock:
            return self._process.poll()

    def on_exit(self, callback: Callable[[], object]) -> None:
        """Have `callback` called from a thread once the process and its last words are in."""
        with self._lock:
            if not self._gone:
                self._callbacks.append(callback)
                return
        callback()

    def close(self, deadline: Deadline) -> None:
        """Close its console, which ends it; then SIGTERM, then SIGKILL; then look for survivors.

        Raises InfrastructureError naming processes of its session that are still there.
        """
        try:
            self.console.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        for step in (None, signal.SIGTERM, signal.SIGKILL):
            if step is not None:
                self._signal(step)
            if self._wait(deadline.within(max(_SETTLE, deadline.remaining / 2))):
                break
        self._reader.join(deadline.remaining)
        survivors = self._survivors(deadline.within(_SETTLE + 1))
        self.console.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if survivors:
            raise InfrastructureError(
                f"still there after it was closed: {', '.join(survivors)}",
                awaited=f"the end of {self._command[0]}",
                waited=deadline.elapsed,
                last_lines=self.last_lines,
            )

    def _signal(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass  # it has ended meanwhile

    def _wait(self, deadline: Deadline) -> bool:
        if self.exit_status() is not None:
            return True
        select.select([self._pidfd], [], [], deadline.remaining)
        return self.exit_status() is not None

    def _survivors(self, deadline: Deadline) -> list[str]:
        """Processes still in the child's session at the deadline, then killed; the dying are waited for."""
        while found := _session_members(self.pid):
            if deadline.expired:
                for pid, _ in found:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                return [f"{name} ({pid})" for pid, name in found]
            for pid, _ in found:
                try:
                    descriptor = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
                try:
                    select.select([descriptor], [], [], deadline.remaining)
                finally:
                    os.close(descriptor)
        return []

    def _read_errors(self, log: Path) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self._lines.append(line.decode("utf-8", "replace").rstrip())
                try:
                    with log.open("ab") as file:
                        file.write(line)
                except OSError:
                    pass  # a full disk is told of by whoever needs the disk; the lines are kept here
        self._process.wait()
        with self._lock:
            self._gone = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


def _session_members(session: int) -> list[tuple[int, str]]:
    found = table().items()
    return [(pid, process.name) for pid, process in found if process.session == session and process.lives]
