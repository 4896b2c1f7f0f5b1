"""Consoles of guests, wherever they are."""

from __future__ import annotations

import os
import re
import socket
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bench import PtyConsoleSpec, SerialConsoleSpec, SocketConsoleSpec, StdioConsoleSpec
from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.guests.console import Console
from harness.hosts.base import Channel
from harness.hosts.consoles import open_console
from harness.hosts.local import LocalHost
from harness.hosts.ssh import SshHost
from tests.ssh_support import PATIENCE, host, needs_sshd, sshd

__all__ = ["host", "sshd"]
pytestmark = needs_sshd


@pytest.fixture
def line() -> Iterator[tuple[int, Path]]:
    """A serial line: the guest's end, and the device of this machine at the other one."""
    theirs, ours = os.openpty()
    tty.setraw(ours)
    yield theirs, Path(os.ttyname(ours))
    os.close(ours)
    os.close(theirs)


def talk(channel: Channel, theirs: int, folder: Path) -> None:
    """A guest at the other end echoes what it gets."""

    def guest() -> None:
        os.write(theirs, b"you said " + os.read(theirs, 100))

    threading.Thread(target=guest, daemon=True).start()
    console = Console(channel, folder / "console.log")
    deadline = Deadline(PATIENCE)
    console.send(b"\x03hello\r", "the guest to take it", deadline)
    console.wait_for(re.compile(rb"you said \x03hello\r"), "the echo", deadline)
    console.close()


def test_a_serial_line(line: tuple[int, Path], host: SshHost, tmp_path: Path) -> None:
    theirs, device = line
    talk(open_console(SerialConsoleSpec(kind="serial", device=device), host, None, "vm", Deadline(1)), theirs, tmp_path)


def test_a_serial_line_that_is_not_there_or_in_use_is_told_of(line: tuple[int, Path], host: SshHost) -> None:
    _, device = line
    spec = SerialConsoleSpec.model_construct(kind="serial", device=device, baud=115200)
    first = open_console(spec, host, None, "vm", Deadline(1))
    with pytest.raises(ConfigurationError, match="cannot be used") as caught:
        open_console(spec, host, None, "vm", Deadline(1))
    assert "another program has it" in caught.value.hint
    first.close()
    for path, why in (("/dev/ttyNONE", "there is no serial device"), ("/etc/passwd", "is no serial device")):
        spec = SerialConsoleSpec.model_construct(kind="serial", device=Path(path), baud=115200)
        with pytest.raises(ConfigurationError, match=why):
            open_console(spec, host, None, "vm", Deadline(1))


@pytest.mark.parametrize("where", ["ssh", "local"])
def test_a_terminal_on_the_host(line: tuple[int, Path], host: SshHost, tmp_path: Path, where: str) -> None:
    theirs, device = line
    (tmp_path / "tty-bare").symlink_to(device)
    spec = PtyConsoleSpec(kind="pty", path=f"{tmp_path}/tty-{{vm}}")
    with LocalHost() as local:
        chosen = host if where == "ssh" else local
        talk(open_console(spec, chosen, None, "bare", Deadline(PATIENCE)), theirs, tmp_path)


@pytest.mark.parametrize("kind", ["path", "address"])
def test_a_socket_as_the_host_sees_it(kind: str, host: SshHost, tmp_path: Path) -> None:
    if kind == "path":
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(tmp_path / "bare.sock"))
        server.listen()
        spec = SocketConsoleSpec(kind="socket", path=f"{tmp_path}/{{vm}}.sock")
    else:
        server = socket.create_server(("127.0.0.1", 0))
        spec = SocketConsoleSpec(kind="socket", address=f"127.0.0.1:{server.getsockname()[1]}")
    with server:
        channel = open_console(spec, host, None, "bare", Deadline(PATIENCE))
        with server.accept()[0] as theirs:
            talk(channel, theirs.fileno(), tmp_path)


def test_a_socket_that_does_not_come_is_told_of(host: SshHost) -> None:
    with pytest.raises(InfrastructureError, match="nobody accepts") as caught:
        open_console(SocketConsoleSpec(kind="socket", path="/nowhere/x"), host, None, "vm", Deadline(0.1))
    assert "launch script" in caught.value.hint and "/nowhere/x" in str(caught.value)


@pytest.mark.parametrize("where", ["ssh", "local"])
def test_the_device_models_own(host: SshHost, tmp_path: Path, where: str) -> None:
    with LocalHost() as local:
        chosen = host if where == "ssh" else local
        process = chosen.start(["sh", "-c", "test -t 0 && test -t 1 && exec cat"], log=tmp_path / "log", terminal=True)
        channel = open_console(StdioConsoleSpec(), chosen, process, "vm", Deadline(1))
        console = Console(channel, tmp_path / "console.log")
        console.send(b"hello", "the program to take it", Deadline(PATIENCE))
        console.wait_for(re.compile(rb"hello"), "the echo", Deadline(PATIENCE))
        process.close(Deadline(PATIENCE))
        console.close()


def test_a_running_guest_has_none_of_the_device_models(host: SshHost) -> None:
    with pytest.raises(ConfigurationError, match="started by somebody else"):
        open_console(StdioConsoleSpec(), host, None, "vm", Deadline(1))
