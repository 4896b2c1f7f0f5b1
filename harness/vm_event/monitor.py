"""The monitor socket: takes commands from many clients, sends events to one, and waits for none of them."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from .loop import Loop
from .sockets import ListeningSocket
from .typed import Any, Protocol
from .wire import Decoder, Garbage, encode

#: Beyond this many unsent bytes a client is taken for stalled and disconnected.
OUTPUT_LIMIT = 64 * 1024
#: Connections at once; for a new one beyond that the longest idle one is closed.
CLIENT_LIMIT = 128
#: Connections accepted in one round, so that a flood of them holds up nothing else.
ACCEPT_LIMIT = 16
#: Bytes read from a client and requests of it answered in one round: whoever has more to say waits for its next turn.
READ_LIMIT = 1024
ANSWER_LIMIT = 8

#: While no connection can be accepted: each one that waits wakes the loop once, not for ever.
_ONCE_EACH = select.EPOLLIN | select.EPOLLET

REGISTER = "register_vm_event_client"

_log = logging.getLogger(__name__)


class Commands(Protocol):
    """What the monitor asks of the service; called on the loop's thread."""

    def status(self) -> dict[str, Any]:
        """The answer to `status`."""

    def execute(self, name: str, argument: str | None, done: Callable[[bool], None]) -> None:
        """Carry out a command and call `done` with its success, now or later, on the loop's thread."""


class Monitor:
    """ACRN's protocol on a listening socket. Everything runs on the loop's thread."""

    def __init__(self, loop: Loop, listener: ListeningSocket, commands: Commands) -> None:
        """Take over `listener` and begin to accept."""
        self._loop = loop
        self._listener = listener
        self._commands = commands
        self._clients: dict[int, _Client] = {}
        self._event_client: _Client | None = None
        self._counts = dict.fromkeys(
            (
                "connections",
                "registrations_refused",
                "bad_input",
                "events_sent",
                "events_unheard",
                "stalled_clients",
                "evicted_clients",
            ),
            0,
        )
        # Given up for a moment when descriptors run out, so that a connection can be accepted and closed.
        self._reserve = _spare_descriptor()
        self._mask = select.EPOLLIN
        loop.add(listener.fileno(), self._mask, self._on_connection)

    def publish(self, event: Mapping[str, Any]) -> bool:
        """Send an event to the event client; False when there is none, or it has stalled."""
        client = self._event_client
        if client is not None:
            self._send(client, encode(event))
        heard = client is not None and client is self._event_client
        self._counts["events_sent" if heard else "events_unheard"] += 1
        return heard

    def status(self) -> dict[str, Any]:
        """Connections and counts, from any thread."""
        return {"clients": len(self._clients), "event_client": self._event_client is not None, **self._counts}

    def close(self) -> None:
        """Close every connection and the socket, and remove its file."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._loop.remove(self._listener.fileno())
        self._listener.close()
        if self._reserve is not None:
            os.close(self._reserve)

    def _on_connection(self, _events: int) -> None:
        for _ in range(ACCEPT_LIMIT):
            try:
                connection, _address = self._listener.socket.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_one_away()
                else:
                    _log.warning("cannot accept a connection: %s", error)
                    self._listen(_ONCE_EACH)
                return
            self._welcome(connection)
        if self._reserve is None:
            self._reserve = _spare_descriptor()
        self._listen(select.EPOLLIN)

    def _listen(self, mask: int) -> None:
        if mask != self._mask:
            self._mask = mask
            self._loop.modify(self._listener.fileno(), mask)

    def _welcome(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if len(self._clients) >= CLIENT_LIMIT:
            self._evict_idle()
        self._counts["connections"] += 1
        client = _Client(connection)
        try:
            self._loop.add(connection.fileno(), client.mask, partial(self._on_client, client))
        except OSError as error:  # the kernel watches no more descriptors for this user
            _log.warning("cannot watch a connection: %s", error)
            connection.close()
            return
        self._clients[connection.fileno()] = client

    def _turn_one_away(self) -> None:
        """Out of descriptors: left alone, the waiting connection would wake the loop for ever."""
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        try:
            connection, _ = self._listener.socket.accept()
            connection.close()
        except OSError as error:
            _log.debug("a connection could not even be turned away: %s", error)
        self._reserve = _spare_descriptor()
        if self._reserve is None:
            self._listen(_ONCE_EACH)  # another thread was faster

    def _evict_idle(self) -> None:
        idle = (client for client in self._clients.values() if client is not self._event_client and not client.busy)
        client = next(idle, None) or next(c for c in self._clients.values() if c is not self._event_client)
        self._counts["evicted_clients"] += 1
        self._drop(client)

    def _on_client(self, client: _Client, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                client.flush()
            if client.reading and events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._read(client)
            elif events & (select.EPOLLHUP | select.EPOLLERR):
                self._drop(client)
                return
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        self._serve(client)

    def _read(self, client: _Client) -> None:
        """Read once. A plain recv: descriptors that a client attaches are discarded by the kernel."""
        data = client.socket.recv(READ_LIMIT)
        if not data:
            client.input_ended = True
            return
        # All of it, at once: the decoder keeps at most one unfinished object.
        client.requests.extend(client.decoder.feed(data))

    def _serve(self, client: _Client) -> None:
        """Answer requests in order until one has to wait: for its command, for the client to read its answers,
        or for its next turn.
        """
        for _ in range(ANSWER_LIMIT):
            if not client.answerable:
                break
            self._answer(client, client.requests.popleft())
        if not client.connected:
            return
        if client.answerable and not client.in_turn:
            client.in_turn = True
            self._loop.post(partial(self._serve_on, client))
        if client.input_ended and not client.busy and client is not self._event_client:
            self._drop(client)
            return
        if (mask := client.wanted_mask()) != client.mask:
            client.mask = mask
            self._loop.modify(client.socket.fileno(), mask)

    def _serve_on(self, client: _Client) -> None:
        client.in_turn = False
        self._serve(client)

    def _answer(self, client: _Client, request: dict[str, Any] | Garbage) -> None:
        name, argument = _command_of(request)
        if name is None:
            self._counts["bad_input"] += 1
            self._acknowledge(client, False)
        elif name == REGISTER:
            self._acknowledge(client, self._register(client))
        elif name == "status":
            self._send(client, encode({"ack": 0, "status": self._commands.status()}))
        else:
            client.executing = True
            self._commands.execute(name, argument, partial(self._executed, client))

    def _executed(self, client: _Client, success: bool) -> None:
        if client.connected:
            client.executing = False
            self._acknowledge(client, success)
            self._serve(client)

    def _register(self, client: _Client) -> bool:
        holder = self._event_client
        if holder is not None and holder is not client and holder.gone():
            # Its hang-up is in the same round as this registration and would have been told next.
            self._drop(holder)
        if self._event_client is not None:
            self._counts["registrations_refused"] += 1
            return False
        self._event_client = client
        return True

    def _acknowledge(self, client: _Client, success: bool) -> None:
        self._send(client, encode({"ack": 0 if success else -1}))

    def _send(self, client: _Client, data: bytes) -> None:
        client.output += data
        try:
            client.flush()
        except BlockingIOError:
            if len(client.output) > OUTPUT_LIMIT:
                self._counts["stalled_clients"] += 1
                _log.warning("a client does not read: it was disconnected with %d bytes unsent", len(client.output))
                self._drop(client)
                return
        except OSError:
            self._drop(client)
            return
        if (mask := client.wanted_mask()) != client.mask:
            client.mask = mask
            self._loop.modify(client.socket.fileno(), mask)

    def _drop(self, client: _Client) -> None:
        if not client.connected:
            return
        client.connected = False
        if self._event_client is client:
            self._event_client = None
        descriptor = client.socket.fileno()
        del self._clients[descriptor]
        self._loop.remove(descriptor)
        client.socket.close()
        self._listen(select.EPOLLIN)


class _Client:
    """One connection: what it sent that is not answered, and what it was sent that it has not read."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.decoder = Decoder()
        self.requests: deque[dict[str, Any] | Garbage] = deque()
        self.output = bytearray()
        self.executing = False
        self.in_turn = False
        self.input_ended = False
        self.connected = True
        self.mask = select.EPOLLIN

    @property
    def busy(self) -> bool:
        """Whether answers are owed to it."""
        return bool(self.requests or self.output or self.executing)

    @property
    def answerable(self) -> bool:
        """Whether its next request can be answered now."""
        return bool(self.requests) and self.connected and not (self.executing or self.output)

    @property
    def reading(self) -> bool:
        """Whether more may be read: no request is left over, so what a client can make us keep is bounded."""
        return not (self.input_ended or self.requests or self.executing)

    def wanted_mask(self) -> int:
        """What epoll should tell about it now."""
        return (select.EPOLLIN if self.reading else 0) | (select.EPOLLOUT if self.output else 0)

    def flush(self) -> None:
        """Send what the kernel takes. Raises BlockingIOError when some is left, OSError when the client is
        gone.
        """
        while self.output:
            # Without SIGPIPE: a program that uses the service may have its default action restored.
            del self.output[: self.socket.send(self.output, socket.MSG_NOSIGNAL)]

    def gone(self) -> bool:
        """Whether the other end has hung up, as of now."""
        poll = select.poll()
        poll.register(self.socket, 0)
        return bool(poll.poll(0))


def _spare_descriptor() -> int | None:
    """One to give up for a moment when a connection is to be turned away; None when there is none left."""
    try:
        return os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None


def _command_of(request: dict[str, Any] | Garbage) -> tuple[str | None, str | None]:
    """Name and argument of a well-formed command; no name for anything else."""
    if isinstance(request, Garbage):
        return None, None
    name, argument = request.get("command"), request.get("arguments")
    if not isinstance(name, str) or not (argument is None or isinstance(argument, str)):
        return None, None
    return name, argument
