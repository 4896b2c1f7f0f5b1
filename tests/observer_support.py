"""What the tests of the observer share: a host whose link stands still or is cut, a service that says anything."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.hosts.base import CommandResult, LinkLost
from harness.hosts.local import LocalHost
from harness.hosts.local_process import LocalProcess


class Service:
    """A unix socket server for one client: what it answers and sends is the test's to say."""

    def __init__(self, path: Path, ack: bytes = b'{"ack":0}\n') -> None:
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen()
        self._ack = ack
        self.asked = b""
        self.client: socket.socket
        self.registered = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self.client, _ = self._server.accept()
        self.asked = self.client.recv(4096)
        with contextlib.suppress(OSError):  # a listener that cannot go on has gone
            self.client.sendall(self._ack)
        self.registered.set()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._thread.join()
        self.client.close()
        self._server.close()

    def send(self, data: bytes) -> None:
        self._thread.join()
        self.client.sendall(data)


class Relay:
    """Passes bytes both ways between two sockets, unless the link stands still."""

    def __init__(self, console: socket.socket) -> None:
        self.ours, self._near = socket.socketpair()
        self._far = console
        self._flows = threading.Event()
        self._flows.set()
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        other: dict[object, socket.socket] = {self._near: self._far, self._far: self._near}
        with selectors.DefaultSelector() as selector:
            for end in other.values():
                end.setblocking(True)
                selector.register(end, selectors.EVENT_READ)
            while not self._over:
                ready = selector.select(0.02)
                self._flows.wait()
                for key, _ in ready:
                    side = key.fileobj
                    assert isinstance(side, socket.socket)
                    try:
                        data = side.recv(65536)
                        other[side].sendall(data)
                    except OSError:
                        data = b""
                    if not data:
                        self._over = True
        self.end()

    def stop(self) -> None:
        self._flows.clear()

    def go_on(self) -> None:
        self._flows.set()

    def end(self) -> None:
        """The harness sees the end of the stream; the other side sees nothing."""
        self._over = True
        self._flows.set()
        with contextlib.suppress(OSError):
            self._near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """All of it is over."""
        self.end()
        self._thread.join()
        self._near.close()


class FarProcess:
    """A process of this machine behind a link."""

    def __init__(self, process: LocalProcess) -> None:
        self._process = process
        self.pid = process.pid
        self.relay = Relay(process.console)
        self.console = self.relay.ours
        self.cut = False

    @property
    def last_lines(self) -> list[str]:
        return self._process.last_lines

    def exit_status(self) -> int | None:
        return 255 if self.cut else self._process.exit_status()

    def on_exit(self, callback: Callable[[], object]) -> None:
        self._process.on_exit(callback)

    def close(self, deadline: Deadline) -> None:
        self.relay.end()
        self.console.close()
        self.relay.close()
        self._process.close(deadline)


class FarHost(LocalHost):
    """This machine as if behind a link. prefix: what its Python is started by."""

    name = "far-host"

    def __init__(self, python: str | None = None) -> None:
        super().__init__()
        self.process: FarProcess
        self.hangs = False
        self._lost: list[Callable[[InfrastructureError], object]] = []
        if python is not None:
            self.python = python

    def start(self, command: Sequence[str], *, log: Path, terminal: bool = False) -> Any:
        self.process = FarProcess(super().start(command, log=log, terminal=terminal))
        return self.process

    def run(
        self, command: Sequence[str], deadline: Deadline, *, data: bytes = b"", check: bool = True
    ) -> CommandResult:
        if self.hangs:
            raise InfrastructureError("no answer")
        return super().run(command, deadline, data=data, check=check)

    def on_lost(self, callback: Callable[[InfrastructureError], object]) -> None:
        self._lost.append(callback)

    def cut_link(self) -> None:
        self.process.cut = True
        self.process.relay.end()
        self.failure = LinkLost("connection reset")
        for callback in self._lost:
            callback(self.failure)


def journal(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def told_of(path: Path) -> list[dict[str, Any]]:
    """The journal without what the listener says of itself and its machine."""
    return [record for record in journal(path) if record["kind"] not in {"alive", "stall", "cpu-stall", "starved"}]
