"""Listens on a monitor socket: a decoder of its own, and a journal of everything received, stamped on arrival."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import queue
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from harness.deadline import Deadline
from harness.errors import InfrastructureError

REGISTER = b'{"command":"register_vm_event_client"}'
_LIMIT = 1 << 16
_RETRY = 0.02


class ObjectReader:
    """Cuts a byte stream into JSON objects; the stream has no delimiters (ACRN's monitor socket).

    What can be no part of a JSON object comes out as garbage, and reading goes on at the next `{`.
    """

    def __init__(self) -> None:
        self._buffer = ""
        self._decoder = json.JSONDecoder()
        self._text = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def feed(self, data: bytes) -> list[dict[str, object] | bytes]:
        """The complete objects, and pieces of garbage as bytes, that `data` completes; in their order."""
        self._buffer += self._text.decode(data)
        found: list[dict[str, object] | bytes] = []
        while text := self._buffer.lstrip(" \t\r\n\0"):
            self._buffer = text
            if not text.startswith("{"):
                found.append(self._garbage(text.find("{")))
                continue
            try:
                value, end = self._decoder.raw_decode(text)
            except json.JSONDecodeError as error:
                if len(text) > _LIMIT or not _truncated(text, error):
                    found.append(self._garbage(text.find("{", 1)))
                    continue
                break
            found.append(value)
            self._buffer = text[end:]
        else:
            self._buffer = ""
        return found

    def rest(self) -> bytes:
        """What is left undecided; non-empty at the end of a stream: a cut-off object."""
        self._buffer += self._text.decode(b"", final=True)
        return self._buffer.encode("utf-8", "surrogateescape").strip(b" \t\r\n\0")

    def _garbage(self, until: int) -> bytes:
        end = until if until > 0 else len(self._buffer)
        piece, self._buffer = self._buffer[:end], self._buffer[end:]
        return piece.encode("utf-8", "surrogateescape")


_CUT_VALUE = re.compile(r"-|[.eE][+-]?\d*|-?I[nfity]*|N[aN]*|t[rue]*|f[alse]*|n[ul]*")
_LONGEST_ESCAPE = len(r"\u0000")


def _truncated(text: str, error: json.JSONDecodeError) -> bool:
    """Whether the text is an object that is only cut short, so that more bytes can still complete it."""
    if error.msg.startswith("Unterminated string") or error.pos >= len(text):
        return True
    if error.msg.startswith("Invalid \\"):
        return len(text) - error.pos < _LONGEST_ESCAPE
    return _CUT_VALUE.fullmatch(text, error.pos) is not None


class EventListener:
    """The one event client of a guest's event service.

    path: the monitor socket, connected to until the deadline of `connect`. journal: `events.jsonl`.
    notify: called, in the listener's thread, after anything was journalled.

    Nothing is matched, filtered or judged here: whoever judges has the whole record.
    """

    def __init__(self, path: Path, journal: Path, notify: Callable[[], object] = lambda: None) -> None:
        self._path = path
        self._journal_path = journal
        self._notify = notify
        self._journal = journal.open("ab", buffering=0)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._acks: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"listener-{journal.parent.name}", daemon=True)
        self._closed = False
        self.ended: str | None = None
        """Why the stream has ended; None while it is open."""

    def connect(self, deadline: Deadline, given_up: Callable[[], bool] = lambda: False) -> None:
        """Connect, retrying until the deadline, and register as the event client.

        given_up: asked between tries; true ends them early (the device model has died).
        Raises InfrastructureError when there is no connection, no answer, or a refusal.
        """
        awaited = f"the event service's answer on {self._path}"
        last = "no such socket"
        while self._socket is None:
            try:
                self._socket = _connect(self._path)
            except OSError as error:
                last = str(error)
                if deadline.expired or given_up():
                    raise InfrastructureError(
                        f"no event service on {self._path}: {last}", awaited=awaited, waited=deadline.elapsed
                    ) from error
                select_nothing(min(_RETRY, deadline.remaining))
        self._write("connected")
        self._thread.start()
        self._socket.sendall(REGISTER)
        try:
            answer = self._acks.get(timeout=max(0.01, deadline.remaining))
        except queue.Empty:
            answer = None
        if answer != {"ack": 0}:
            said = "no answer" if answer is None else f"refused: {answer}"
            hint = "one event client is admitted per guest: is another one connected?"
            raise InfrastructureError(
                f"the event service on {self._path} did not register us ({said})",
                awaited=awaited,
                waited=deadline.elapsed,
                hint=hint,
            )

    def note_stall(self, from_ns: int, to_ns: int) -> None:
        """Journal that this process stood still for a while; the judge has to know."""
        self._write("stall", from_ns=from_ns, to_ns=to_ns)

    def close(self) -> None:
        """Stop listening; the journal is complete then."""
        if self._closed:
            return
        self._closed = True
        os.write(self._stop_write, b"\0")
        if self._thread.ident:
            self._thread.join()
        if self._socket is not None:
            self._socket.close()
        self._write("end")
        with self._lock:
            self._journal.close()
        os.close(self._stop_read)
        os.close(self._stop_write)

    def __enter__(self) -> EventListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, kind: str, t_ns: int | None = None, **details: object) -> None:
        record = {"t_ns": time.monotonic_ns() if t_ns is None else t_ns, "kind": kind, **details}
        with self._lock:
            if not self._journal.closed:
                self._journal.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def _run(self) -> None:
        assert self._socket is not None
        reader = ObjectReader()
        registered = False
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._stop_read, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                arrived = time.monotonic_ns()
                if self._stop_read in ready:
                    return
                try:
                    data = _receive(self._socket)
                    reason = "closed by the service"
                except OSError as error:
                    data, reason = b"", str(error)
                for item in reader.feed(data):
                    if isinstance(item, bytes):
                        self._write("garbage", arrived, hex=item.hex())
                    elif not registered and "ack" in item:
                        registered = True
                        self._write("ack", arrived, object=item)
                        self._acks.put(item)
                    else:
                        self._write("object", arrived, event=item)
                if not data:
                    if reader.rest():
                        self._write("garbage", arrived, hex=reader.rest().hex())
                    self._write("closed", arrived, reason=reason)
                    self.ended = reason
                    self._acks.put(None)
                    self._notify()
                    return
                self._notify()


def _connect(path: Path) -> socket.socket:
    """A connection to a unix socket whose path may be longer than an address can hold (107 bytes)."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.ExitStack() as stack:
            address = str(path)
            if len(os.fsencode(address)) > 107:
                folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
                stack.callback(os.close, folder)
                address = f"/proc/self/fd/{folder}/{path.name}"
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _receive(connection: socket.socket) -> bytes:
    """Bytes from the stream; descriptors that come along (acrn-dm attaches one to all it sends) are dropped."""
    data, descriptors, _, _ = socket.recv_fds(connection, 65536, 4)
    for descriptor in descriptors:
        os.close(descriptor)
    return data


def select_nothing(seconds: float) -> None:
    """Let a moment pass between two tries of something that cannot be awaited."""
    threading.Event().wait(seconds)
