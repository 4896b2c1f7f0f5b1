"""A client of a monitor socket: registers for events and hands out what comes, however it is laid out."""

from __future__ import annotations

import time
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
        self._objects = self._received()

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
        """Send a command and return its answer, an object with `ack`. Raises MonitorError when none comes."""
        message: dict[str, Any] = {"command": name}
        if arguments is not None:
            message["arguments"] = arguments
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(encode(message))
            answer = next(self._objects, None)
        except TimeoutError:
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
        return self._objects

    def _received(self) -> Iterator[dict[str, Any] | Garbage]:
        decoder = Decoder(OBJECT_LIMIT)
        while data := self._receive():
            yield from decoder.feed(data)
        if decoder.partial:
            yield Garbage(b"", "the connection ended within an object")

    def _receive(self) -> bytes:
        """Plain recv, not recvmsg: the kernel discards the descriptor acrn-dm attaches to what it sends."""
        try:
            return self._socket.recv(4096)
        except ConnectionResetError:
            return b""  # closed with something of ours unread: an end all the same


def describe(event: Mapping[str, Any]) -> str:
    """An event in one line for people; what a foreign service says cannot do more to a terminal than be printed."""
    line = _words_for(event)
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
