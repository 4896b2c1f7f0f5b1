"""Lines for a process that may be slow to read them, or not read at all: whoever writes them never waits."""

from __future__ import annotations

import collections
import contextlib
import os
import selectors

_AT_ONCE = 1 << 16


class Output:
    """Keeps lines until they fit; watched by `selector` only while some wait. What follows a broken pipe is dropped."""

    def __init__(self, descriptor: int, selector: selectors.BaseSelector) -> None:
        self._descriptor = descriptor
        self._selector = selector
        self._lines: collections.deque[bytes] = collections.deque()
        self._begun = b""
        self._waiting = 0
        self._watched = self._broken = False
        os.set_blocking(descriptor, False)

    @property
    def waiting(self) -> int:
        """How many bytes wait."""
        return self._waiting

    def add(self, line: bytes, *, urgent: bool = False) -> None:
        """Add a line, with its newline; an urgent one goes before all others of which nothing is sent yet."""
        if self._broken:
            return
        if urgent:
            self._lines.appendleft(line)
        else:
            self._lines.append(line)
        self._waiting += len(line)

    def flush(self) -> None:
        """Write as much as fits."""
        try:
            while self._begun or self._lines:
                if not self._begun:
                    self._begun = self._next()
                written = os.write(self._descriptor, self._begun)
                self._begun = self._begun[written:]
                self._waiting -= written
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more: the input tells so, too
            self._broken = True
            self._lines.clear()
            self._begun, self._waiting = b"", 0
        self._watch(bool(self._waiting))

    def _next(self) -> bytes:
        chunk = [self._lines.popleft()]
        size = len(chunk[0])
        while self._lines and size + len(self._lines[0]) <= _AT_ONCE:
            chunk.append(self._lines.popleft())
            size += len(chunk[-1])
        return b"".join(chunk)

    def _watch(self, wanted: bool) -> None:
        if wanted == self._watched:
            return
        self._watched = wanted
        with contextlib.suppress(KeyError, PermissionError):  # a file always takes everything, and cannot be watched
            if wanted:
                self._selector.register(self._descriptor, selectors.EVENT_WRITE)
            else:
                self._selector.unregister(self._descriptor)
