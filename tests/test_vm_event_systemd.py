"""What a service manager is told: ready when the service serves, stopping when it ends, and nothing without one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.vm_event import systemd
from tests.vm_event_program import ROOT
from tests.vm_event_support import PATIENCE


@pytest.fixture(params=["a file", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The socket on which a manager listens, and what it puts into NOTIFY_SOCKET."""
    abstract = request.param == "an abstract name"
    name = f"@vm_event-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if abstract else name)
        listener.settimeout(PATIENCE)
        yield listener, name


def test_the_manager_is_told_when_the_service_serves_and_when_it_ends(
    manager: tuple[socket.socket, str], tmp_path: Path
) -> None:
    listener, name = manager
    path = tmp_path / "monitor"
    with subprocess.Popen(
        [sys.executable, "-m", "harness.vm_event", "serve", "--monitor", path, "--vm", "vm3", "--stdin"],
        cwd=ROOT,
        env=os.environ | {"NOTIFY_SOCKET": name},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            ready = listener.recv(4096)
            listening = path.is_socket()
            process.terminate()
            stopping = listener.recv(4096)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()

    assert ready == b"READY=1\nSTATUS=serving vm3 from dm"
    assert listening
    assert stopping == b"STOPPING=1"


@pytest.mark.parametrize("name", [None, "", "relative/path", "/nobody/listens/here", "@nobody-listens-here"])
def test_without_a_manager_it_is_no_error(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)

    assert systemd.notify("READY=1") is False
