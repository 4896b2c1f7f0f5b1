"""An agent in a guest by the guest's own SSH: a real sshd on the loopback is the guest, this machine its host."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest

pytest.importorskip("paramiko")

from harness.bench import GuestSshSpec
from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests import ACRN, SystemGuest, Write
from harness.guests.agent_guest import AgentGuest
from harness.guests.console import GuestDied
from harness.guests.login import Login
from harness.guests.ssh_console import open_guest_shell
from harness.guests.variants import Agents
from harness.hosts.base import Host
from harness.rehearsal.loopback import LoopbackSshd
from tests.agent_variants import Pretence, agent_command
from tests.guests_support import console_pair

PATIENCE = 60.0
pytestmark = [
    pytest.mark.skipif(shutil.which("sshd", path="/usr/sbin:/sbin") is None, reason="there is no sshd on this machine"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the user of this machine is not root, as a guest's has to be"),
]


class ThisMachine:
    """The host as far as a guest's SSH needs it: it sees the guest's address, at the second look."""

    failure = None

    def __init__(self) -> None:
        self.looks = 0
        self.streams: list[socket.socket] = []

    def connect(self, address: str, deadline: Deadline) -> socket.socket:
        name, _, port = address.rpartition(":")
        self.looks += 1
        if self.looks == 1:
            port = "1"
        try:
            self.streams.append(socket.create_connection((name, int(port)), timeout=10))
        except OSError as error:
            raise InfrastructureError(f"nobody there: {error}") from error
        return self.streams[-1]


@contextmanager
def guest_by_ssh(folder: Path) -> Iterator[tuple[SystemGuest, ThisMachine, Path]]:
    ports = folder / "ports"
    ports.write_bytes(bytes(0x80))
    _, script = agent_command("dash", Pretence(ports=str(ports), root=True), folder)
    host = ThisMachine()
    with LoopbackSshd(folder / "sshd") as sshd, console_pair(folder) as (console, _):
        spec = GuestSshSpec(
            address="127.0.0.1",
            port=sshd.port,
            identity=sshd.keys.identity,
            host_key=" ".join(sshd.keys.host_key.with_name("host_key.pub").read_text().split()[:2]),
        )
        guest = SystemGuest(
            console,
            nonce="0123456789abcdef",
            hypervisor=[ACRN],
            agent=Agents({"shell": Path(script).read_bytes()}),
            login=Login(),
            by_ssh=partial(open_guest_shell, spec, cast(Host, host)),
        )
        try:
            yield guest, host, ports
        finally:
            guest.close()


def test_the_agent_works_over_the_guests_own_ssh_and_the_link_is_closed_with_it(tmp_path: Path) -> None:
    with guest_by_ssh(tmp_path) as (guest, host, ports):
        guest.boot(Deadline(PATIENCE))
        assert host.looks == 2, "a guest that boots is asked again"
        assert guest.facts["variant"] == "shell"
        assert guest.run("item", [Write(9, 0x24)], Deadline(PATIENCE)).ok
        assert ports.read_bytes()[0x70:0x72] == bytes((9, 0x24))
        guest.check()
        guest.leave(Deadline(PATIENCE))
    assert (tmp_path / "agent-console.log").exists()
    for stream in host.streams:
        assert stream.fileno() == -1 or not stream.recv(1)


def test_a_link_that_is_cut_ends_what_is_awaited_of_the_guest(tmp_path: Path) -> None:
    with guest_by_ssh(tmp_path) as (guest, host, _):
        guest.boot(Deadline(PATIENCE))
        host.streams[-1].shutdown(socket.SHUT_RDWR)
        with pytest.raises(GuestDied):
            AgentGuest.command(guest, "info", Deadline(PATIENCE))
