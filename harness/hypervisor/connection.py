"""A device model's connection as the hypervisor holds it: one message in or out at a time, never waiting."""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import NamedTuple

from harness.hypervisor import wire
from harness.hypervisor.vm import Vm


class Gone(Exception):
    """The device model has closed its end, or takes nothing any more."""


class Message(NamedTuple):
    """A message's kind and body, and the descriptors that came with it: whoever has the message closes them."""

    kind: bytes
    body: bytes
    descriptors: list[int]


class Connection:
    """Owns the socket, and the VM once it is created."""

    def __init__(self, accepted: socket.socket) -> None:
        self._socket = accepted
        self._socket.setblocking(False)
        self.vm: Vm | None = None

    def fileno(self) -> int:
        """The socket."""
        return self._socket.fileno()

    @property
    def name(self) -> str:
        """What to call it in the log."""
        if self.vm is not None:
            return self.vm.name
        pid, *_ = struct.unpack("3i", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"process {pid}"

    def receive(self) -> Message:
        """The next message. Raises BlockingIOError when there is none, Gone at the end, WireError for a bad one."""
        try:
            data, descriptors, flags, _ = socket.recv_fds(
                self._socket, wire.LONGEST + 1, wire.DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            raise
        except OSError as error:
            raise Gone(str(error)) from error
        message = Message(data[:1], data[1:], list(descriptors))
        try:
            if flags & socket.MSG_TRUNC or len(data) > wire.LONGEST:
                raise wire.WireError(f"a message of more than {wire.LONGEST} bytes")
            if flags & socket.MSG_CTRUNC:  # the kernel has closed those that we made no room for
                raise wire.WireError(f"more than {wire.DESCRIPTORS} descriptors, or none left for them")
            if not data:
                raise Gone("it has closed its end")
        except BaseException:  # whatever it was, what arrived is ours to close
            close_all(message.descriptors)
            raise
        return message

    def send(self, message: bytes) -> None:
        """Answer. Raises Gone when it is not taken at once: whoever waits for an answer has room for it."""
        try:
            self._socket.send(message, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise Gone(str(error)) from error

    @property
    def hung_up(self) -> bool:
        """Whether the device model has closed its end; messages of its may still wait."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def close(self) -> None:
        """End the VM, if there is one, and the connection."""
        if self.vm is not None:
            self.vm.close()
        self._socket.close()


def close_all(descriptors: list[int]) -> None:
    """Close what came with a message."""
    for descriptor in descriptors:
        os.close(descriptor)
