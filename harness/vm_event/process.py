"""Runs one command to its end: with input, a time-out and its last words, and leaves nothing of it behind.

`subprocess` would do, but cannot give a command the signal mask it expects, and takes a MB of every running service.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack

from .typed import NamedTuple

#: How long a command has to end by itself once it was asked to (SIGTERM), in seconds.
GRACE = 1.0
#: How long the kernel has to end one that was killed, in seconds.
KILL_PATIENCE = 3.0
#: What is kept of the end of its stderr.
LAST_BYTES = 4096
LAST_LINES = 10


class Outcome(NamedTuple):
    """How a command ended.

    end: "exited", "timed out", "interrupted", "not started", or "stuck" (killed, but the kernel does not let go of
    it). status: its exit status, -N for signal N; None where there is none. words: the last lines of its stderr, or
    why it did not start. seconds: how long it took.
    """

    end: str
    status: int | None
    words: str
    seconds: float


def problem_with(name: str) -> str | None:
    """Why there is no command of that name; None where there is one."""
    if os.path.dirname(name):
        if not os.path.exists(name):
            return f"{name}: no such file"
        return None if _is_executable(name) else f"{name}: not an executable file"
    if any(_is_executable(os.path.join(folder, name)) for folder in os.get_exec_path()):
        return None
    return f"{name}: no such command in PATH"


def run(command: Sequence[str], given: bytes, *, timeout: float, interrupt: int) -> Outcome:
    """Run `command`, without a shell, in a session of its own, with `given` on its stdin. Returns when it has ended.

    Its stdout is this process's. When `timeout` seconds have passed, or the descriptor `interrupt` is readable, its
    process group is ended: by SIGTERM, `GRACE` later by SIGKILL. What it leaves running in its process group is killed
    when it has ended; what has a session or group of its own by then lives on. Raises OSError when descriptors run
    out.
    """
    began = time.monotonic()
    with ExitStack() as opened:
        stdin = _above_stdio(_file_of(given))
        opened.callback(os.close, stdin)
        heard, told = map(_above_stdio, os.pipe())
        opened.callback(os.close, heard)
        try:
            pid = os.posix_spawnp(
                command[0],
                list(command),
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, told, 2)],
                setsid=True,
                # Ours are blocked or ignored for our own purposes; a command expects them as a shell would have them.
                setsigmask=(),
                setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ),
            )
        except OSError as error:
            return Outcome("not started", None, error.strerror or str(error), time.monotonic() - began)
        finally:
            os.close(told)
        child = _Child(pid, heard)
        opened.callback(child.close)
        end = child.wait(began + timeout, interrupt)
        status = child.finish(end)
        if status is None:
            end = "stuck"
        return Outcome(end, status, child.last_words(), time.monotonic() - began)


class _Child:
    """A running command: the leader of its process group."""

    def __init__(self, pid: int, heard: int) -> None:
        self._pid = pid
        self._heard = heard
        self._words = b""
        os.set_blocking(heard, False)
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            self._signal(signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def close(self) -> None:
        os.close(self._pidfd)

    def wait(self, deadline: float, interrupt: int | None) -> str:
        """"exited" when it has; else "timed out" at `deadline`, or "interrupted". Not reaped yet in any case."""
        poll = select.poll()
        for descriptor in (self._pidfd, self._heard, interrupt):
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
        while True:
            remaining = min(deadline - time.monotonic(), 3600.0)  # the kernel counts milliseconds in 32 bits
            # Rounded up, or the last millisecond would be spent spinning.
            ready = {descriptor for descriptor, _ in poll.poll(max(0, int(remaining * 1000) + 1))}
            if self._heard in ready and not self._listen():
                poll.unregister(self._heard)
            if self._pidfd in ready:
                return "exited"
            if interrupt in ready:
                return "interrupted"
            if remaining <= 0:
                return "timed out"

    def finish(self, end: str) -> int | None:
        """End it if it has not, and all that is left of its group; its exit status, None if it cannot be ended."""
        if end != "exited":
            self._signal(signal.SIGTERM)
            self.wait(time.monotonic() + GRACE, None)
        # Before the leader is reaped: until then nobody else can have the group's number.
        self._signal(signal.SIGKILL)
        if self.wait(time.monotonic() + KILL_PATIENCE, None) != "exited":
            return None
        try:
            _, status = os.waitpid(self._pid, 0)
        except ChildProcessError:
            return 0  # this process has its children reaped by somebody else: it ended, and nobody knows how
        self._listen()
        return os.waitstatus_to_exitcode(status)

    def last_words(self) -> str:
        lines = self._words.decode("utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])

    def _listen(self) -> bool:
        """Keep the end of what it says; False when its stderr is closed. Reads once: it may never stop to talk."""
        try:
            data = os.read(self._heard, 65536)
        except BlockingIOError:
            return True
        self._words = (self._words + data)[-LAST_BYTES:]
        return bool(data)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # nobody left; or another user's, who became so by its own permission


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _file_of(data: bytes) -> int:
    """A file in memory to be read from its beginning: unlike a pipe, it never waits for a reader."""
    descriptor = os.memfd_create("vm_event", os.MFD_CLOEXEC)
    try:
        os.pwrite(descriptor, data, 0)
        return descriptor
    except BaseException:  # whatever it was, the descriptor is ours to close
        os.close(descriptor)
        raise


def _above_stdio(descriptor: int) -> int:
    """The same file by a number above 2, which no redirection of stdin and stderr replaces."""
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)
