"""The connection to an `acrn-dm`'s monitor socket: made again whenever it ends, one command under way at a time."""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from .errors import MonitorError
from .monitor import REGISTER
from .sockets import socket_address
from .typed import TYPE_CHECKING, Any
from .wire import MESSAGE_LIMIT, Decoder, Garbage, encode

if TYPE_CHECKING:
    from pathlib import Path

#: Nanoseconds between attempts to connect: after a good connection, and the longest of those that follow.
FIRST_RETRY_NS = 50_000_000
LONGEST_RETRY_NS = 2_000_000_000
#: An argument of a command is cut from here on, its closing NUL included.
ARGUMENT_LIMIT = 320
#: Commands that may wait for the one that is under way.
WAITING_LIMIT = 64
#: What is read in one turn, so that a flood holds up nothing else.
READS_A_TURN = 32

Done = Callable[[bool], None]
Received = dict[str, Any] | Garbage

_log = logging.getLogger(__name__)


class AcrnDmLink:
    """A client of `acrn-dm`, registered for its events. Everything but `command` is for one thread.

    connected: there is a connection, which may still wait in the backlog; registered: `acrn-dm` has accepted us as its
    event client; connections: how many were made; answered: commands that were answered; last_error: what went wrong
    last, which may be over.
    """

    def __init__(self, path: Path | str, vm: str, patience_ns: int) -> None:
        """`patience_ns`: how long an answer may take. Raises OSError when descriptors run out."""
        self.path = path
        self.registered = False
        self.connections = 0
        self.answered = 0
        self.last_error: str | None = None
        self._vm = vm
        self._patience_ns = patience_ns
        self._socket: socket.socket | None = None
        self._decoder = Decoder()
        self._told: str | None = None
        #: The next attempt, and how long after it the one that follows is.
        self._retry_ns = 0
        self._delay_ns = FIRST_RETRY_NS
        #: The registration's answer is overdue from here on; None once it is there, or has been called overdue.
        self._registration_due_ns: int | None = None
        self._under_way: _Command | None = None
        self._waiting: deque[_Command] = deque()
        #: Guards what `command` and `close` share.
        self._lock = threading.Lock()
        self._closed = False
        self._epoll = select.epoll()
        try:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:  # whatever it was, what is open is ours to close
            self._epoll.close()
            raise
        self._epoll.register(self._wake, select.EPOLLIN)

    @property
    def connected(self) -> bool:
        """See the class."""
        return self._socket is not None

    def fileno(self) -> int:
        """Readable when there is something for `turn` to do: over the connection and the wake-up by `command`."""
        return self._epoll.fileno()

    def command(self, name: str, argument: str | None, done: Done) -> None:
        """Have a command carried out. From any thread; waits for nothing.

        `done` is called exactly once, with whether it was acknowledged: in `turn` or `close`, or before this returns
        when the command cannot be taken. It must not raise.
        """
        command = _Command(name, argument, done, time.monotonic_ns() + self._patience_ns)
        with self._lock:
            taken = not self._closed and len(self._waiting) < WAITING_LIMIT and command.fits()
            if taken:
                self._waiting.append(command)
                os.eventfd_write(self._wake, 1)
        if not taken:
            done(False)

    def turn(self, now_ns: int) -> list[Received]:
        """Do what there is to do, without waiting: connect, read, send. Returns what came and is no answer."""
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass
        received: list[Received] = []
        if self._socket is None and now_ns >= self._retry_ns:
            self._connect(now_ns)
        if self._socket is not None:
            self._receive(self._socket, received)
        self._be_impatient(now_ns)
        self._send_next()
        return received

    def deadline_ns(self) -> int | None:
        """When `turn` is to be called although nothing is readable; None while there is nothing to do but wait."""
        if self._socket is None:
            return self._retry_ns
        waiting = list(self._waiting)[:1]
        dues = [command.due_ns for command in (self._under_way, *waiting) if command is not None]
        if self._registration_due_ns is not None:
            dues.append(self._registration_due_ns)
        return min(dues, default=None)

    def close(self) -> None:
        """Hang up; commands without an answer have failed. Closing again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._hang_up()
        self._epoll.close()
        os.close(self._wake)

    def _connect(self, now_ns: int) -> None:
        """Connect and ask to be registered. A connection to a unix socket is made at once or not at all."""
        self._retry_ns = now_ns + self._delay_ns
        self._delay_ns = min(2 * self._delay_ns, LONGEST_RETRY_NS)
        with ExitStack() as undo:
            try:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                undo.callback(connection.close)
                with socket_address(self.path) as address:
                    connection.connect(address)
                self._epoll.register(connection, select.EPOLLIN)
            except BlockingIOError:
                self._tell("its backlog is full: it serves another client, and more are waiting")
                return
            except (OSError, MonitorError) as error:  # of this process, too: descriptors may have run out for a while
                self._tell(_text(error))
                return
            undo.pop_all()
        self.connections += 1
        self._socket = connection
        self._decoder = Decoder()
        self._registration_due_ns = now_ns + self._patience_ns
        self._send(encode({"command": REGISTER}))

    def _send(self, data: bytes) -> None:
        """Send a command. One at a time is less than any socket's buffer, so one not taken whole is an error."""
        assert self._socket is not None
        try:
            if self._socket.send(data) == len(data):
                return
            reason = "took a part of a command only"
        except OSError as error:
            reason = _text(error)
        self._lose(reason)

    def _receive(self, connection: socket.socket, received: list[Received]) -> None:
        """Read some of what there is. Plain recv, not recvmsg: attached descriptors are discarded by the kernel."""
        for _ in range(READS_A_TURN):
            try:
                data = connection.recv(MESSAGE_LIMIT)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(_text(error))
                return
            if not data:
                if self._decoder.partial:
                    received.append(Garbage(b"", "the connection ended within an object"))
                self._lose("the connection was closed")
                return
            for thing in self._objects(data):
                if not (isinstance(thing, dict) and "ack" in thing and self._take_answer(thing["ack"])):
                    received.append(thing)
            if self._socket is not connection:
                return  # it was given up for what was in there

    def _objects(self, data: bytes) -> Iterator[Received]:
        """What `data` completes. An object that was begun and never ends must not swallow all that follow it."""
        if self._decoder.partial and (message := _whole_message(data)) is not None:
            self._decoder = Decoder()
            yield Garbage(b"", "an object that did not end")
            yield message
            return
        yield from self._decoder.feed(data)

    def _take_answer(self, ack: object) -> bool:
        """Whether this was the answer to something."""
        success = type(ack) is int and ack == 0
        if self._under_way is not None:
            command, self._under_way = self._under_way, None
            self.answered += 1
            command.done(success)
            self._send_next()
            return True
        if self.registered or self._socket is None:
            return False
        if not success:
            self._lose("registration refused: it has another event client")
            return True
        self.registered = True
        self._registration_due_ns = None
        self._delay_ns = FIRST_RETRY_NS
        self._told = None
        _log.info("%s: monitor socket %s: registered as its event client", self._vm, self.path)
        self._send_next()
        return True

    def _send_next(self) -> None:
        """Have the next command under way, if none is; without a connection they fail."""
        if self._socket is None:
            self._fail_commands()
        elif self.registered and self._under_way is None and self._waiting:
            # Under way before it is sent: sending may fail, and with the connection what is under way fails.
            self._under_way = self._waiting.popleft()
            self._send(self._under_way.encoded())

    def _be_impatient(self, now_ns: int) -> None:
        if self._registration_due_ns is not None and now_ns >= self._registration_due_ns:
            self._registration_due_ns = None
            self._tell("connected, but not answered: it serves one client at a time, and has another one")
        while self._waiting and now_ns >= self._waiting[0].due_ns:
            self._waiting.popleft().done(False)
        if self._under_way is not None and now_ns >= self._under_way.due_ns:
            # Its answer, if it comes after all, would be taken for the next command's: on to a new connection.
            self._lose(f"no answer to {self._under_way.name!r} within {self._patience_ns / 1e9:g} s")

    def _lose(self, reason: str) -> None:
        self._hang_up()
        self._tell(reason)

    def _hang_up(self) -> None:
        connection, self._socket = self._socket, None
        self.registered = False
        self._registration_due_ns = None
        if connection is not None:
            self._epoll.unregister(connection)
            connection.close()
        self._fail_commands()

    def _fail_commands(self) -> None:
        command, self._under_way = self._under_way, None
        if command is not None:
            command.done(False)
        while self._waiting:
            self._waiting.popleft().done(False)

    def _tell(self, error: str) -> None:
        """Keep an error, and log it unless it is what the attempt before met."""
        self.last_error = error
        if error != self._told:
            self._told = error
            _log.warning("%s: monitor socket %s: %s; trying again", self._vm, self.path, error)


class _Command:
    """One that waits to be sent or answered, until `due_ns`."""

    __slots__ = ("argument", "done", "due_ns", "name")

    def __init__(self, name: str, argument: str | None, done: Done, due_ns: int) -> None:
        self.name = name
        self.argument = argument
        self.done = done
        self.due_ns = due_ns

    def encoded(self) -> bytes:
        """The command on one line: `acrn-dm` ends it at the newline."""
        message = {"command": self.name}
        if self.argument is not None:
            message["arguments"] = self.argument
        return encode(message)

    def fits(self) -> bool:
        """Whether `acrn-dm` would take it uncut."""
        argument = (self.argument or "").encode("utf-8", "surrogatepass")
        return len(argument) < ARGUMENT_LIMIT and len(self.encoded()) < MESSAGE_LIMIT


def _whole_message(data: bytes) -> dict[str, Any] | None:
    """The event or the answer that these bytes are from beginning to end; None for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and ("ack" in value or "vm_event" in value) else None


def _text(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)
