"""The hypervisor process: one epoll thread with a connection for each VM, none of which it trusts."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

from harness.hypervisor import wire
from harness.hypervisor.connection import Connection, Gone, Message, close_all
from harness.hypervisor.slots import Slots
from harness.vm_event.loop import Loop
from harness.vm_event.sockets import ListeningSocket

_FAIR_SHARE = 4
"""Messages of one VM that are carried out before the others have their turn."""

log = logging.getLogger(__name__)


class Hypervisor:
    """Serves at a socket until `end`. A device model that misbehaves loses its VM; the others notice nothing.

    Raises MonitorError when the socket cannot be made: somebody listens there, or the file is no socket.
    """

    def __init__(self, path: Path) -> None:
        self._slots = Slots()
        self._connections: set[Connection] = set()
        self._accepting = False
        self._ending = False
        with ExitStack() as undo:
            self._listener = ListeningSocket(path, kind=socket.SOCK_SEQPACKET)
            undo.callback(self._listener.close)
            self._loop = Loop()
            undo.callback(self._loop.close)
            self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, self._end)
            self._loop.add(self._end, select.EPOLLIN, self._on_end)
            self._watch_listener()
            self._opened = undo.pop_all()

    def __enter__(self) -> Hypervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every VM and remove the socket."""
        for connection in list(self._connections):
            self._close(connection)
        self._opened.close()

    def serve(self) -> None:
        """Serve until `end`."""
        while not self._ending:
            self._loop.dispatch(self._loop.wait(None))

    def end(self) -> None:
        """Have `serve` return. For signal handlers and other threads too: it takes no lock."""
        os.eventfd_write(self._end, 1)

    def end_with(self, descriptor: int) -> None:
        """Have `serve` return when this descriptor ends, as standard input does when its other end goes.

        Raises OSError for one that cannot be waited for: closed, a regular file, /dev/null.
        """

        def on_input(_events: int) -> None:
            try:
                if os.read(descriptor, 4096):
                    return
            except BlockingIOError:
                return
            except OSError:
                pass  # as good as its end
            self._loop.remove(descriptor)
            self.end()

        self._loop.add(descriptor, select.EPOLLIN, on_input)

    def _on_end(self, _events: int) -> None:
        self._ending = True

    # -- connections -------------------------------------------------------------------------------------

    def _watch_listener(self) -> None:
        if not self._accepting:
            self._accepting = True
            self._loop.add(self._listener.fileno(), select.EPOLLIN, self._on_connection)

    def _on_connection(self, _events: int) -> None:
        try:
            accepted, _ = self._listener.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                log.error("there are no more descriptors: no other VM until one has ended")
                self._loop.remove(self._listener.fileno())
                self._accepting = False
            return
        connection = Connection(accepted)
        self._connections.add(connection)
        self._loop.add(connection.fileno(), select.EPOLLIN, partial(self._on_messages, connection))

    def _on_messages(self, connection: Connection, _events: int) -> None:
        self._take(connection, _FAIR_SHARE)

    def _close(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._loop.remove(connection.fileno())
        self._slots.end(connection)
        connection.close()
        self._watch_listener()

    # -- messages ----------------------------------------------------------------------------------------

    def _take(self, connection: Connection, most: float) -> None:
        """Carry out what has come, at most so many messages; close the connection when it is over."""
        try:
            while most > 0:
                message = connection.receive()
                try:
                    self._carry_out(connection, message)
                finally:  # whatever came of it, they were ours from the moment they arrived
                    close_all(message.descriptors)
                most -= 1
        except BlockingIOError:
            pass
        except Gone:
            self._close(connection)
        except Exception as error:  # whatever a device model's message led to may cost its own VM, and no other
            log.warning("%s: %s: %s", connection.name, type(error).__name__, error)
            try:
                connection.send(wire.refusal(str(error) or type(error).__name__))
            except Gone:
                pass  # it does not even listen
            self._close(connection)

    def _carry_out(self, connection: Connection, message: Message) -> None:
        if message.kind == wire.CREATE:
            new = wire.read_create(message.body)
            holder = self._slots.holder(new.name)
            if holder is not None and holder is not connection and holder.hung_up:
                self._take(holder, float("inf"))  # its last accesses count; nothing comes after them
            connection.send(wire.created_message(self._slots.create(connection, new, message.descriptors)))
        elif connection.vm is None:
            raise wire.WireError("a VM is to be created before anything else")
        elif message.kind == wire.ACCESSES:
            connection.vm.access(message.body)
        elif message.kind == wire.SYNC:
            connection.send(wire.SYNC + message.body)
        else:
            raise wire.WireError(f"there is no message {message.kind + message.body[:16]!r}")
