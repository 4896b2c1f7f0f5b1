"""A private sshd on the loopback, hosts on it, and a proxy that cuts or stalls what goes through it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.bench import SshHostSpec
from harness.deadline import Deadline
from harness.hosts.ssh import SshHost
from harness.rehearsal.loopback import LoopbackSshd, find_sshd

PATIENCE = 60.0
needs_sshd = pytest.mark.skipif(
    find_sshd() is None, reason="needs an sshd: apt-get install openssh-server (which may start one for everybody)"
)
GARBAGE = 'ForceCommand echo "Welcome to $HOME"; echo "{\\"failed\\": 1}"; echo noise >&2; eval "$SSH_ORIGINAL_COMMAND"'
"""A start-up file of a login shell that prints what it likes before anything else."""


def spec_of(sshd: LoopbackSshd, **keys: object) -> SshHostSpec:
    return SshHostSpec.model_validate(
        {"kind": "ssh", "address": "rehearsal", "ssh_config": sshd.keys.ssh_config, "connect_timeout": 20, **keys}
    )


@contextlib.contextmanager
def ssh_host(sshd: LoopbackSshd, through: Proxy | None = None, **keys: object) -> Iterator[SshHost]:
    override = None if through is None else ("127.0.0.1", through.port)
    with SshHost(spec_of(sshd, **keys), address_override=override) as host:
        yield host


def await_truth(truth: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for what nobody tells of."""
    deadline = Deadline(seconds)
    while not truth():
        assert not deadline.expired, "it did not come true"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def read_until(channel: socket.socket, word: bytes, seconds: float = PATIENCE) -> bytes:
    channel.settimeout(seconds)
    seen = b""
    while word not in seen:
        data = channel.recv(4096)
        assert data, f"it ended after {seen!r}"
        seen += data
    return seen


class Proxy:
    """Between harness and sshd: passes bytes on until it is told to stall or to cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._stalled = threading.Event()
        self._closed = threading.Event()
        self._pairs: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._server.accept()
            except OSError:
                return
            theirs = socket.create_connection(("127.0.0.1", self._to))
            self._pairs += [ours, theirs]
            for source, sink in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._stalled.is_set():
                    self._closed.wait()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def stall(self) -> None:
        """Pass nothing on any more, without a word."""
        self._stalled.set()

    def cut(self) -> None:
        """Close all connections."""
        for end in self._pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed.set()
        self._server.close()
        self.cut()
        for end in self._pairs:
            end.close()


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSshd]:
    """One for all tests that leave it as it is."""
    with LoopbackSshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(scope="module")
def host(sshd: LoopbackSshd) -> Iterator[SshHost]:
    with ssh_host(sshd) as host:
        yield host


@pytest.fixture
def proxy(sshd: LoopbackSshd) -> Iterator[Proxy]:
    proxy = Proxy(sshd.port)
    yield proxy
    proxy.close()
