"""A client of a monitor socket: registers for events and hands out what comes, however it is laid out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType

from .errors import MonitorError
from .monitor import REGISTER
from .sockets import connect
from .typed import TYPE_CHECKING, Any
from .wire import Decoder, Garbage, encode

if TYPE_CHECKING:
    from pathlib import Path

#: An object of the service is far shorter; a foreign one may carry more.
OBJECT_LIMIT = 64 * 1024


class MonitorClient:
    """A blocking connection to a monitor socket; understands ACRN's `acrn-dm` as well as this service."""

    def __init__(self, path: Path | str) -> None:
        """Connect. Raises MonitorError when nobody listens there."""
        self.path = path
        self._socket = connect(path)
        self._decoder = Decoder(OBJECT_LIMIT)
        self._received: deque[dict[str, Any] | Garbage] = deque()
        #: Events that came while an answer was awaited.
        self._early: deque[dict[str, Any]] = deque()
        self._unanswered: str | None = None
        self._ended = False

    def __enter__(self) -> MonitorClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def command(self, name: str, arguments: str | None = None, *, timeout: float = 10.0) -> dict[str, Any]:
        """Send a command and return its answer, an object with `ack`. Raises MonitorError when none comes.

        Events that come before it are kept for `events`. Once an answer did not come in time, no other command can be
        given on this connection: nobody could tell whose answer comes then.
        """
        if self._unanswered is not None:
            raise MonitorError(f"{self.path}: {self._unanswered!r} was not answered: connect anew to give another")
        message: dict[str, Any] = {"command": name}
        if arguments is not None:
            message["arguments"] = arguments
        until = time.monotonic() + timeout
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(encode(message))
            while isinstance(answer := self._next(), dict) and "vm_event" in answer:
                self._early.append(answer)
                self._socket.settimeout(max(until - time.monotonic(), 0.001))
        except TimeoutError:
            self._unanswered = name
            raise MonitorError(f"{self.path}: no answer to {name!r} within {timeout:.0f} s") from None
        except OSError as error:
            raise MonitorError(f"{self.path}: {error.strerror or error}") from error
        finally:
            self._socket.settimeout(None)
        if answer is None:
            raise MonitorError(f"{self.path}: closed before it answered {name!r}")
        if isinstance(answer, Garbage) or "ack" not in answer:
            raise MonitorError(f"{self.path}: {name!r} was answered by {answer!r}")
        return answer

    def register(self) -> None:
        """Become the event client. Raises MonitorError when refused: there is one per VM."""
        if self.command(REGISTER).get("ack") != 0:
            raise MonitorError(f"{self.path}: refused, another event client is registered")

    def events(self) -> Iterator[dict[str, Any] | Garbage]:
        """Everything that comes, until the service closes the connection."""
        while True:
            if self._early:
                yield self._early.popleft()
                continue
            thing = self._next()
            if thing is None:
                return
            if self._unanswered is not None and isinstance(thing, dict) and "vm_event" not in thing and "ack" in thing:
                continue  # an answer that nobody waits for any more
            yield thing

    def _next(self) -> dict[str, Any] | Garbage | None:
        """The next object; None at the end. Raises OSError, TimeoutError among them: what was received stays."""
        while not self._received and not self._ended:
            if data := self._receive():
                self._received.extend(self._decoder.feed(data))
                continue
            self._ended = True
            if self._decoder.partial:
                return Garbage(b"", "the connection ended within an object")
        return self._received.popleft() if self._received else None

    def _receive(self) -> bytes:
        """Plain recv, not recvmsg: the kernel discards the descriptor acrn-dm attaches to what it sends."""
        try:
            return self._socket.recv(4096)
        except ConnectionResetError:
            return b""  # closed with something of ours unread: an end all the same


def describe(event: Mapping[str, Any]) -> str:
    """An event in one line for people; what a foreign service says cannot do more to a terminal than be printed."""
    return printable(_words_for(event))


def printable(line: str) -> str:
    """A line that does nothing to a terminal but stand there, whatever a foreign service has put into it."""
    return line if line.isprintable() else ascii(line)[1:-1]


def _words_for(event: Mapping[str, Any]) -> str:
    origin = "/".join(str(event[key]) for key in ("vm", "source") if key in event)
    kind = event.get("vm_event")
    if kind == 0 and "new_time" in event:
        delta = event.get("delta_time")
        change = f"{delta:+d}" if isinstance(delta, int) else "?"
        raw = event.get("raw_events")
        notes = [name for name in ("estimated", "lost") if event.get(name)]
        if event.get("overrun"):
            notes.append(f"overrun {event['overrun']}")
        return (
            f"{origin}: RTC {_date(event.get('last_time'))} -> {_date(event['new_time'])}, "
            f"changed by {change} s, {'?' if raw is None else raw} raw" + (f" [{', '.join(notes)}]" if notes else "")
        )
    names = {1: "power-off", 2: "triple fault"}
    if isinstance(kind, int) and kind in names:
        return f"{origin}: {names[kind]}"
    return str(dict(event))


def _date(seconds: object) -> str:
    """UTC, or the bare number where no calendar reaches."""
    if not isinstance(seconds, int):
        return "unknown"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)
