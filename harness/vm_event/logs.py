"""Where the service's log goes: stderr as text or JSON, or journald; whoever is slow to take it delays nothing else."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import struct
import sys
import time
from functools import partial
from types import TracebackType

from .callbacks import Worker
from .errors import ActionError
from .typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    StreamHandler = logging.StreamHandler[Any]
else:
    StreamHandler = logging.StreamHandler  # takes no parameter before Python 3.11

KINDS = ("text", "json", "journald")
#: Where journald takes entries in its native protocol, a datagram each.
JOURNAL_SOCKET = "/run/systemd/journal/socket"
#: How many records wait for a slow taker.
WAITING_LIMIT = 10_000

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class Log:
    """Takes the records of all loggers, from INFO on, until it is closed; a context manager.

    Records carry the moment they were made by both clocks, `wall_ns` and `monotonic_ns`, and `event`, the settled
    event they are about, where there is one. They are written on a thread of their own.
    """

    def __init__(self, kind: str, *, journal: str = JOURNAL_SOCKET) -> None:
        """`kind`: one of `KINDS`. Raises ActionError when it is journald and there is none."""
        self._target = _target(kind, journal)
        self._detached = _Detached(self._target)
        root = logging.getLogger()
        self._level = root.level
        root.addHandler(self._detached)
        root.setLevel(logging.INFO)

    def close(self) -> None:
        """Write what waits, but not for ever, and take no more."""
        root = logging.getLogger()
        root.removeHandler(self._detached)
        root.setLevel(self._level)
        self._detached.close()
        self._target.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _target(kind: str, journal: str) -> logging.Handler:
    if kind == "journald":
        return JournalHandler(journal)
    stderr = _Stderr(sys.stderr)
    stderr.setFormatter(_Json() if kind == "json" else _Text())
    return stderr


class _Detached(logging.Handler):
    """Stamps records where they are made, and has them written elsewhere: a full pipe must not stop the service."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._worker = Worker("vm_event-log", limit=WAITING_LIMIT)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        record.monotonic_ns = time.monotonic_ns()
        record.wall_ns = time.time_ns()
        # Worked out now: its arguments may have changed when it is written.
        record.message = record.getMessage()
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.lost_before = self._lost
        if self._worker.submit(partial(self._write, record)):
            self._lost = 0
        else:
            self._lost += 1

    def _write(self, record: logging.LogRecord) -> None:
        try:
            self._target.handle(record)
        except Exception:  # what cannot be written must not become another record, which cannot be written
            self._lost += 1

    def close(self) -> None:
        self._worker.close()
        super().close()


class _Stderr(StreamHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing: where stderr itself fails, there is nobody left to be told."""


class _Text(logging.Formatter):
    """A line for people: `warning: …`."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{record.levelname.lower()}: {record.message}"
        if lost := getattr(record, "lost_before", 0):
            text = f"warning: {lost} lines before this one are lost: they were written too fast\n{text}"
        return f"{text}\n{record.exc_text}" if record.exc_text else text


class _Json(logging.Formatter):
    """One object on one line, for programs."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_fields(record), separators=(",", ":"), default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    wall_ns: int = getattr(record, "wall_ns", int(record.created * 1e9))
    fields: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_ns // 10**9)) + f".{wall_ns // 1000 % 10**6:06d}Z",
        "wall_ns": wall_ns,
        "monotonic_ns": getattr(record, "monotonic_ns", None),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.message,
    }
    for name, value in (
        ("event", getattr(record, "event", None)),
        ("exception", record.exc_text),
        ("lost_before", getattr(record, "lost_before", 0)),
    ):
        if value:
            fields[name] = value
    return fields


class JournalHandler(logging.Handler):
    """Entries for journald, in its native protocol; what it does not take goes to stderr as text.

    Beside MESSAGE and PRIORITY an entry has LOGGER, MONOTONIC_NS and, of an event, VM_EVENT_SOURCE, VM_EVENT_NEW_TIME
    and so on: `journalctl VM_EVENT_VM=vm0`.
    """

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        """Raises ActionError when nobody listens at `path`."""
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._fallback = _Stderr(sys.stderr)
        self._fallback.setFormatter(_Text())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                probe.connect(path)
        except OSError as error:
            self._socket.close()
            raise ActionError(
                f"{path}: {error.strerror}: there is no journald here; --log text and --log json write to stderr"
            ) from error

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record. By name each time: journald may have been restarted."""
        data = b"".join(_journal_field(name, value) for name, value in _journal_fields(record).items())
        try:
            try:
                self._socket.sendto(data, self._path)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                self._send_sealed(data)
        except OSError:
            self._fallback.handle(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _send_sealed(self, data: bytes) -> None:
        """What is too long for a datagram goes as a file that nobody can change any more."""
        descriptor = os.memfd_create("vm_event-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))
            self._socket.sendmsg([b""], [rights], 0, self._path)
        finally:
            os.close(descriptor)


def _journal_fields(record: logging.LogRecord) -> dict[str, str]:
    message = f"{record.message}\n{record.exc_text}" if record.exc_text else record.message
    fields = {
        "MESSAGE": message,
        "PRIORITY": str(next((priority for level, priority in _PRIORITIES if record.levelno >= level), 7)),
        "SYSLOG_IDENTIFIER": "vm_event",
        "LOGGER": record.name,
        "MONOTONIC_NS": str(getattr(record, "monotonic_ns", "")),
    }
    event = getattr(record, "event", None) or {}
    for name, value in event.items():
        key = name.upper() if name == "vm_event" else f"VM_EVENT_{name.upper()}"
        fields[key] = value if isinstance(value, str) else json.dumps(value)
    return fields


def _journal_field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", errors="surrogateescape")
    if b"\n" in data:
        return name.encode("ascii") + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode("ascii") + b"=" + data + b"\n"
