"""The event service that a bench judges: who it is, where it is heard, and, where it is ours, how it gets there."""

from __future__ import annotations

import contextlib
import json
import select
from collections.abc import Callable
from pathlib import Path

from harness import pyz
from harness.bench import Bench
from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.hosts.base import Host, HostProcess

CLOSE_TIMEOUT = 10.0
_LOOK = 0.05

# acrn-dm's process may be a child of a launch script, or of somebody else: who listens on its socket is it.
_WHO_LISTENS = """
import socket, struct, sys, time
until = time.monotonic() + float(sys.argv[2])
while True:
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.connect(sys.argv[1])
        break
    except OSError as error:
        if time.monotonic() >= until:
            sys.exit(f"{sys.argv[1]}: {error.strerror}")
        peer.close()
        time.sleep(0.05)  # that somebody listens on a socket can only be tried
print(struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
"""


class JudgedService:
    """One guest's event service on a host. monitor: the monitor socket of its device model, on the host."""

    def __init__(self, bench: Bench, host: Host, monitor: str, vm: str, folder: Path) -> None:
        self._window = bench.service.window
        self.judged = bench.service.judged
        self._host = host
        self._monitor = monitor
        self._vm = vm
        self._folder = folder
        self._process: HostProcess | None = None
        self.socket = monitor
        """Where its events are heard."""

    def start(self, stack: contextlib.ExitStack, changed: Callable[[], object], deadline: Deadline) -> None:
        """Deploy and start it, where it is not the device model's own. Raises as the host's methods."""
        if self.judged in {"project", "acrn-dm"}:
            return
        program = self._host.put(pyz.archive(), "vm_event.pyz", deadline, executable=True)
        self.socket = f"{self._host.folder}/{self._vm}.events"
        behind = self.judged == "behind-acrn-dm"
        source = ["--acrn-dm", self._monitor] if behind else ["--hsm-of", self._owner(deadline)]
        process = self._host.start(
            [
                *(self._host.python, "-I", program, "serve", "--monitor", self.socket, "--vm", self._vm),
                *("--window", f"{self._window:g}", *source),
            ],
            log=self._folder / "service.log",
        )
        self._process = process
        stack.callback(lambda: process.close(Deadline(CLOSE_TIMEOUT)))
        process.on_exit(changed)

    def _owner(self, deadline: Deadline) -> str:
        """The process id of the device model."""
        patience = f"{deadline.remaining:.0f}"
        found = self._host.run([self._host.python, "-I", "-c", _WHO_LISTENS, self._monitor, patience], deadline)
        return found.output.decode("ascii", "replace").strip()

    @property
    def failure(self) -> InfrastructureError | None:
        """That it has ended by itself, where it has."""
        if self._process is None or self._process.exit_status() is None:
            return None
        return InfrastructureError(
            f"the event service that is judged ended with status {self._process.exit_status()}: {self._vm}",
            last_lines=self._process.last_lines[-8:],
            log=self._folder / "service.log",
        )

    def destroy(self, is_gone: Callable[[], bool], deadline: Deadline) -> None:
        """Have the guest destroyed, by way of whoever takes commands; returns once that is answered, or it is gone.

        Raises InfrastructureError where it is refused.
        """
        socket = self.socket if self.judged == "behind-acrn-dm" else self._monitor
        channel = self._host.connect(socket, deadline)
        try:
            channel.send(json.dumps({"command": "destroy"}).encode())
            answer = b""
            while b"}" not in answer and not is_gone():
                if select.select([channel.fileno()], [], [], min(_LOOK, deadline.remaining))[0]:
                    data = channel.recv(4096)
                    if not data:
                        return  # it ended at once; whether it has is looked at by whoever asked
                    answer += data
                elif deadline.expired:
                    raise InfrastructureError(f"no answer to destroy on {socket}", waited=deadline.elapsed)
        finally:
            channel.close()
        if b"-1" in answer:
            raise InfrastructureError(
                f"{socket} refused to destroy the guest: {answer.decode('utf-8', 'replace').strip()}",
                hint="a real-time VM is not destroyed: say `ending: inside` or `ending: signal` in the bench file",
            )
