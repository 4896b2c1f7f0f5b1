"""The run's one hypervisor process: started before its guests, watched all the while, proven gone at the end."""

from __future__ import annotations

import contextlib
import logging
import select
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import harness
from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.hosts.base import Host, HostProcess

log = logging.getLogger(__name__)

CLOSE_TIMEOUT = 10.0
READY_TIMEOUT = 30.0

_LONGEST_PATH = 100
"""A unix socket's path has 108 bytes at most, and whoever connects may put something before it."""

_LOOK = 0.005
"""Seconds between two looks at a socket: that another process listens there can only be tried."""

_ROOT = Path(harness.__file__).parents[1]


class HypervisorDied(InfrastructureError):
    """The hypervisor process died in mid-run: no guest with its vRTC can go on."""


class Hypervisor:
    """One process with the hypervisor's vRTC of every guest of a run; a context manager.

    log_file: where its standard error goes. folder: the run's; its socket is there, or in a folder of its own where
    that path is too long for one. on_death: called with the error, from a thread, as soon as the process is dead
    without having been asked to.
    Raises ConfigurationError where the process cannot be started.
    """

    def __init__(self, host: Host, folder: Path, on_death: Callable[[HypervisorDied], object]) -> None:
        self.log_file = folder / "hypervisor.log"
        self.failure: HypervisorDied | None = None
        """Why it is dead; None while it is not, and after an orderly end."""

        self._on_death = on_death
        self._waiting: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._dead = threading.Event()
        self._closing = False
        self._made: Path | None = None
        self.socket = folder / "hypervisor.sock"
        if len(bytes(self.socket)) > _LONGEST_PATH:
            self._made = Path(tempfile.mkdtemp(prefix="rtc-hypervisor-"))
            self.socket = self._made / "hypervisor.sock"
        try:
            self._process: HostProcess = host.start(self._command(), log=self.log_file)
        except BaseException:  # whatever it was, the folder is ours to remove
            self._remove_socket()
            raise
        self._process.on_exit(self._exited)

    def _command(self) -> list[str]:
        return [
            *("/usr/bin/env", f"PYTHONPATH={_ROOT}", sys.executable, "-m", "harness.hypervisor"),
            *("--socket", str(self.socket)),
        ]

    def __enter__(self) -> Hypervisor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close(Deadline(CLOSE_TIMEOUT))

    def await_ready(self, deadline: Deadline) -> None:
        """Wait until it listens.

        Raises HypervisorDied where it ends instead, InfrastructureError where it is not there at the deadline.
        """
        awaited = f"the hypervisor process at {self.socket}"
        while not self._listens():
            if self._dead.is_set():
                raise self.failure or HypervisorDied("the hypervisor process is closed", log=self.log_file)
            if deadline.expired:
                raise InfrastructureError(
                    "the hypervisor process does not listen",
                    awaited=awaited,
                    waited=deadline.elapsed,
                    last_lines=self._process.last_lines,
                    log=self.log_file,
                )
            select.select([], [], [], _LOOK)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def on_death(self, callback: Callable[[], object]) -> None:
        """Have `callback` called from a thread once the process is dead (at once if it is already)."""
        with self._lock:
            if not self._dead.is_set():
                self._waiting.append(callback)
                return
        callback()

    def failure_within(self, seconds: float) -> HypervisorDied | None:
        """Why it is dead, if it is by then."""
        self._dead.wait(seconds)
        return self.failure

    def close(self, deadline: Deadline) -> None:
        """End it in order, then by force; idempotent. Raises InfrastructureError naming what survived."""
        with self._lock:
            first, self._closing = not self._closing, True
        if not first:
            return
        try:
            self._process.close(deadline)
        finally:
            self._remove_socket()

    def _exited(self) -> None:
        with self._lock:
            if not self._closing:
                self.failure = HypervisorDied(
                    f"the hypervisor process of this run ended with status {self._process.exit_status()} in mid-run:"
                    " no guest with vrtc hv can go on",
                    last_lines=self._process.last_lines[-8:],
                    log=self.log_file,
                )
        if self.failure is not None:
            self._on_death(self.failure)  # first: whoever is woken next may end the run
        with self._lock:
            self._dead.set()
            waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    def _remove_socket(self) -> None:
        """A process that was killed leaves its socket."""
        with contextlib.suppress(OSError):
            self.socket.unlink(missing_ok=True)
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)
