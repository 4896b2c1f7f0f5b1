"""The record of a console: every line with its times, and the raw bytes beside it."""

from __future__ import annotations

import re
import time
from collections import deque
from datetime import datetime, timezone
from pathlib import Path

_LINE_ENDS = re.compile(rb"[\r\n]+")
_LONGEST_LINE = 65536


class ConsoleLog:
    """Writes `console.log` (`MONOTONIC_NS WALL_CLOCK_UTC TEXT`, a line each) and `console.raw` (as received).

    Stamps are the time of reading the line's first byte. Raises OSError from the constructor and `add` (disk
    full, no permission).
    """

    def __init__(self, path: Path, *, keep: int = 20) -> None:
        self.path = path
        self._lines = path.open("a", encoding="utf-8")
        try:
            self._raw = path.with_suffix(".raw").open("ab")
        except OSError:
            self._lines.close()
            raise
        self._partial = b""
        self._partial_since = ""
        self._last: deque[str] = deque(maxlen=keep)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines, the incomplete one included."""
        partial = (self._text(self._partial),) if self._partial else ()
        return (*self._last, *partial)

    @staticmethod
    def _text(line: bytes) -> str:
        return line.decode("utf-8", "replace")

    @staticmethod
    def _stamp() -> str:
        wall = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        return f"{time.monotonic_ns()} {wall}"

    def add(self, data: bytes) -> None:
        """Records bytes as they were received."""
        self._raw.write(data)
        self._raw.flush()
        now = self._stamp()
        if not self._partial:
            self._partial_since = now
        *complete, self._partial = _LINE_ENDS.split(self._partial + data)
        for line in complete:
            self._write(line)
            self._partial_since = now
        if len(self._partial) > _LONGEST_LINE:
            self._write(self._partial)
            self._partial = b""
        if complete:
            self._lines.flush()

    def _write(self, line: bytes) -> None:
        if line:
            self._last.append(self._text(line))
            self._lines.write(f"{self._partial_since} {self._last[-1]}\n")

    def close(self) -> None:
        """Writes the incomplete line and closes both files. Idempotent."""
        if not self._lines.closed:
            self._write(self._partial)
            self._partial = b""
            self._lines.close()
            self._raw.close()
