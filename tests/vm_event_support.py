"""What the tests of the event service share: a client with a deadline, and a look at what is left open."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from hypothesis import HealthCheck, settings

from harness.vm_event import SettledRtcChange, Tunnel, VmEventService
from harness.vm_event.source import TunnelSource
from harness.vm_event.wire import Decoder, Garbage, encode

PATIENCE = 30.0
#: A settle window that is over at once: every raw event settles by itself.
INSTANT = 1e-6
#: Properties are not judged by how long a busy machine takes for them.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
SECOND = 1_000_000_000
NOON = 1718452800  # 2024-06-15 12:00:00 UTC


class Client:
    """A raw client of a monitor socket: sends any bytes, receives object by object, never waits for ever."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(path))  # waits for room in the backlog, as no non-blocking connect does
        self.socket.settimeout(PATIENCE)
        self._decoder = Decoder(1 << 20)
        self._received: list[Any] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> Any:
        """The next object; None at the end of the stream."""
        while not self._received:
            data = self.socket.recv(65536)
            if not data:
                return None
            self._received += self._decoder.feed(data)
        thing = self._received.pop(0)
        assert not isinstance(thing, Garbage), thing
        return thing

    def ask(self, name: str, **more: object) -> Any:
        self.send(encode({"command": name, **more}))
        return self.receive()

    def register(self) -> Any:
        return self.ask("register_vm_event_client")

    def status(self) -> Any:
        return self.ask("status")["status"]


class Heard:
    """A subscriber that can be waited for."""

    def __init__(self, service: VmEventService) -> None:
        self.events: queue.SimpleQueue[SettledRtcChange] = queue.SimpleQueue()
        service.subscribe(self.events.put)

    def next(self) -> SettledRtcChange:
        return self.events.get(timeout=PATIENCE)


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait for something that nothing announces."""
    until = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < until, f"waited {PATIENCE} s for {what}"
        pause.wait(0.002)


def open_descriptors() -> set[str]:
    """What this process has open, by number and target."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:
            pass  # the directory listing itself
    return found


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Fails when the block leaves a descriptor or a thread behind."""
    threads = set(threading.enumerate())
    before = open_descriptors()
    yield
    eventually(lambda: set(threading.enumerate()) <= threads, "threads to end")
    # What is gone meanwhile was somebody else's, and garbage.
    left = open_descriptors() - before
    assert not left, left


def dm_source(tunnel: Tunnel) -> TunnelSource:
    return TunnelSource("dm", tunnel, vm="vm0", window=1.0, stamped=True, trusted=True)


def foreign_source(tunnel: Tunnel, *, stamped: bool = False) -> TunnelSource:
    return TunnelSource("hv", tunnel, vm="vm0", window=1.0, stamped=stamped, trusted=False)


def all_due(source: TunnelSource, now_ns: int) -> list[SettledRtcChange]:
    return list(iter(lambda: source.expire(now_ns), None))
