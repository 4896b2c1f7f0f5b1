"""The record of a console: every line with its times, and the raw bytes beside it."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from harness.secrets import MASKER

_LINE_ENDS = re.compile(rb"[\r\n]+")
_LONGEST_LINE = 65536
_SHOWN_WIDTH = 200
_MASK = b"********"


def _overlap(data: bytes, secret: bytes) -> int:
    """How many bytes at the end of `data` are the beginning of `secret`."""
    longest = min(len(data), len(secret) - 1)
    return next((size for size in range(longest, 0, -1) if data.endswith(secret[:size])), 0)


class ConsoleLog:
    """Writes `console.log` (`MONOTONIC_NS WALL_CLOCK_UTC TEXT`, a line each) and `console.raw` (as received).

    A line's times are those of reading its first byte. Nothing is buffered, so nothing is lost with the
    harness. Raises OSError from the constructor and from `add` (disk full, no permission).
    """

    def __init__(self, path: Path, *, keep: int = 20) -> None:
        self.path = path
        self._lines = path.open("ab", buffering=0)
        try:
            self._raw = path.with_suffix(".raw").open("ab", buffering=0)
        except OSError:
            self._lines.close()
            raise
        self._partial = b""
        self._partial_since = b""
        self._last: deque[bytes] = deque(maxlen=keep)
        self._secrets: list[bytes] = []
        self._held = b""

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines, each cut to 200 characters, the incomplete one included."""
        lines = [*self._last, *([self._partial] if self._partial else [])]
        return tuple(line[:_SHOWN_WIDTH].decode("utf-8", "replace") for line in lines)

    @staticmethod
    def _stamp() -> bytes:
        wall = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        return f"{time.monotonic_ns()} {wall}".encode()

    def mask(self, secret: bytes) -> None:
        """From here on `secret` is recorded as `********`, should the guest ever echo it."""
        if secret:
            self._secrets.append(secret)

    def _without_secrets(self, data: bytes, secrets: Sequence[bytes]) -> bytes:
        """What can be recorded now: an end that could be a secret's beginning is held back for the next time."""
        data = self._held + data
        for secret in secrets:
            data = data.replace(secret, _MASK)
        held = max((_overlap(data, secret) for secret in secrets), default=0)
        data, self._held = data[: len(data) - held], data[len(data) - held :]
        return data

    def add(self, data: bytes) -> None:
        """Records bytes as they were received, secrets left out."""
        if secrets := (*self._secrets, *MASKER.secrets):
            data = self._without_secrets(data, secrets)
        now = self._stamp()
        since = self._partial_since if self._partial else now
        *complete, self._partial = _LINE_ENDS.split(self._partial + data)
        if len(self._partial) > _LONGEST_LINE:
            complete.append(self._partial)
            self._partial = b""
        record = []
        for line in complete:
            if line:
                record.append(b"%s %s\n" % (since, line))
                self._last.append(line)
            since = now
        self._partial_since = since
        self._raw.write(data)
        if record:
            self._lines.write(b"".join(record))

    def close(self) -> None:
        """Writes the incomplete line and closes both files. Idempotent. Raises OSError; closed all the same."""
        try:
            held, self._held, self._secrets = self._held, b"", []
            if held:
                self.add(held)
            if self._partial:
                self._lines.write(b"%s %s\n" % (self._partial_since, self._partial))
        finally:
            self._partial = b""
            self._lines.close()
            self._raw.close()
