"""A guest's own SSH, by way of its host, as a console: for an agent that is not to share one with a kernel."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

from harness.deadline import Deadline
from harness.errors import InfrastructureError

if TYPE_CHECKING:
    import paramiko

    from harness.bench import GuestSshSpec
    from harness.hosts.base import Channel, Host
    from harness.hosts.ssh_link import Link

_AGAIN = 1.0
"""Seconds between attempts: a guest that boots is not there yet."""

_MOST = 1 << 16


def open_guest_shell(spec: GuestSshSpec, host: Host, deadline: Deadline) -> socket.socket:
    """A terminal of the guest's with a shell in it, as soon as the guest answers; closing it ends the connection.

    The guest is reached from the host, and checked and logged in at as a host is. Raises ConfigurationError for what
    the user has to mend, InfrastructureError when nobody answers until the deadline, LinkLost.
    """
    from harness.hosts.ssh_config import resolve
    from harness.hosts.ssh_link import NotReached, open_link

    def through(address: str, port: int, until: Deadline) -> Channel:
        try:
            return host.connect(f"{address}:{port}", until)
        except InfrastructureError as error:
            if host.failure is not None:
                raise
            raise OSError(error.problem) from error

    target = resolve(spec)
    while True:
        try:
            link = open_link(target, deadline, through=through)
            break
        except NotReached:
            if deadline.remaining < _AGAIN or host.failure is not None:
                raise
            time.sleep(_AGAIN)
    try:
        channel = link.transport.open_session(timeout=max(0.1, deadline.remaining))
        channel.get_pty(term="dumb", width=500, height=50)
        channel.exec_command("exec sh")
    except Exception as error:  # paramiko's own, and the socket's: the connection is of no use then
        link.close()
        raise InfrastructureError(f"{target.shown} lets us in and gives no shell: {error}") from error
    ours, theirs = socket.socketpair()
    for pump, name in ((_from_guest, "out"), (_to_guest, "in")):
        threading.Thread(target=pump, args=(channel, theirs, link), name=f"guest-ssh-{name}", daemon=True).start()
    return ours


def _from_guest(channel: paramiko.Channel, end: socket.socket, link: Link) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := channel.recv(_MOST):
            end.sendall(data)
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_WR)
    link.close()


def _to_guest(channel: paramiko.Channel, end: socket.socket, link: Link) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := end.recv(_MOST):
            channel.sendall(data)
    link.close()
    end.close()
