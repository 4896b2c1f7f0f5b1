"""Where a stream's records go: to a file of this machine, or by the output to whoever keeps the file elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Protocol

from harness.listener.output import Output

MOST_WAITING = 32 << 20
"""Bytes that may wait for a harness that does not read; what would come on top cannot be kept any more."""

_GARBAGE_KEPT = 1024
"""Bytes of a piece of garbage that are sent: that there was some is what counts."""

_SLOW = 1 << 20
"""With so many bytes waiting, pieces of garbage that follow each other become one."""


class Journal(Protocol):
    """The records of one stream."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a record. Raises OSError when it cannot be kept."""

    def close(self) -> None:
        """No more will come."""


class FileJournal:
    """A file with a record a line. Raises OSError when it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def add(self, record: Mapping[str, Any]) -> None:
        """Write it."""
        line = encoded(record)
        while line:
            line = line[os.write(self._descriptor, line) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class SentJournal:
    """Records as lines of the output: {"id": N, "record": {...}}.

    A service may send garbage faster than the link takes it: of that only the beginning is sent, and while much waits,
    only how much more there was. Events are never left out: when there is no more room for one, that is an error.
    """

    def __init__(self, number: int, output: Output) -> None:
        self._number = number
        self._output = output
        self._untold: dict[str, Any] | None = None

    def add(self, record: Mapping[str, Any]) -> None:
        """Have it sent, in its turn."""
        if record["kind"] == "garbage":
            self._add_garbage(record)
            return
        self.close()
        self._send(record)

    def close(self) -> None:
        """Send what was left untold."""
        if self._untold is not None:
            untold, self._untold = self._untold, None
            self._send(untold)

    def _add_garbage(self, record: Mapping[str, Any]) -> None:
        size = len(record["hex"]) // 2
        if self._untold is not None:
            self._untold["bytes"] += size
            return
        kept = {**record, "hex": record["hex"][: 2 * _GARBAGE_KEPT]}
        if self._output.waiting > _SLOW:
            self._untold = {**kept, "bytes": size}
        else:
            self._send({**kept, "bytes": size} if size > _GARBAGE_KEPT else kept)

    def _send(self, record: Mapping[str, Any]) -> None:
        if self._output.waiting > MOST_WAITING:
            raise OSError(f"{self._output.waiting} bytes wait for the harness, which does not read them")
        self._output.add(encoded({"id": self._number, "record": record}))


def encoded(record: Mapping[str, Any]) -> bytes:
    """A line of JSON."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
