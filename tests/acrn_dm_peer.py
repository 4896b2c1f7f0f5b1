"""What the tests of the acrn-dm source share: the other side, told step by step, and the source's own loop."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.vm_event.acrn_dm import AcrnDmSource
from harness.vm_event.events import Event
from tests.vm_event_support import PATIENCE, SECOND


def printed(**message: object) -> bytes:
    """An object as cJSON prints it: several lines, tabs, nothing behind it."""
    return json.dumps(message, indent="\t", separators=(",", ":\t")).encode()


def rtc_change(last_time: float, delta_time: float) -> bytes:
    return printed(vm_event=0, delta_time=delta_time, last_time=last_time)


ACK = printed(ack=0)
NACK = printed(ack=-1)


class Peer:
    """The listening side, which does what it is told and nothing else."""

    def __init__(self, path: Path, *, backlog: int = 1) -> None:
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(backlog)
        self._listener.settimeout(PATIENCE)
        self.connection: socket.socket | None = None

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()
        self._listener.close()
        self._path.unlink()

    def accept(self) -> bytes:
        """Serve the next connection; what it says first."""
        self.connection, _ = self._listener.accept()
        self.connection.settimeout(PATIENCE)
        return self.read()

    def read(self) -> bytes:
        assert self.connection is not None
        return self.connection.recv(4096)

    def silent(self) -> bool:
        """Whether nothing was sent that is not read."""
        assert self.connection is not None
        return not select.select([self.connection], [], [], 0)[0]

    def send(self, data: bytes) -> None:
        """Send with this side's own end of the connection attached, as acrn-dm does."""
        assert self.connection is not None
        socket.send_fds(self.connection, [data], [self.connection.fileno()])

    def hang_up(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Driven:
    """A source and the loop that the service's thread would be."""

    def __init__(self, source: AcrnDmSource) -> None:
        self.source = source
        self.events: list[Event] = []

    def turn(self, timeout: float | None = None) -> None:
        """Wait for the descriptor or the deadline, as the service does, but at most `timeout`; collect once."""
        due = self.source.deadline_ns()
        wait = PATIENCE if due is None else max(0.0, (due - time.monotonic_ns()) / SECOND)
        select.select([self.source], [], [], wait if timeout is None else min(wait, timeout))
        self.events += self.source.collect(time.monotonic_ns())

    def until(self, condition: Callable[[], object], what: str) -> None:
        limit = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < limit, f"waited {PATIENCE} s for {what}: {self.source.status()}"
            self.turn(0.05)

    def idle(self) -> bool:
        """Whether the service's thread would sleep now, for ever."""
        return self.source.deadline_ns() is None and not select.select([self.source], [], [], 0)[0]

    def registered_at(self, peer: Peer) -> None:
        """Go through a registration."""
        self.until(lambda: self.status["connected"], "a connection")
        assert json.loads(peer.accept()) == {"command": "register_vm_event_client"}
        peer.send(ACK)
        self.until(lambda: self.status["registered"], "the registration")

    @property
    def status(self) -> dict[str, Any]:
        return self.source.status()

    def take(self, count: int) -> list[Event]:
        """The first events, that many."""
        self.until(lambda: len(self.events) >= count, f"{count} events")
        taken, self.events = self.events[:count], self.events[count:]
        return taken
