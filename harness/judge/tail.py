"""Reads what is new in a growing file of lines, and never half a line."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

_CHUNK = 1 << 18


class LineTail:
    """The complete lines of a file that other processes append to.

    The file need not exist yet. A last line without its newline is kept back until the newline comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._rest = b""

    def read(self) -> list[str]:
        """The lines completed since the last call, without their newlines, undecodable bytes replaced.

        Raises OSError where the file is there and cannot be read.
        """
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return []
        lines: list[str] = []
        while chunk := os.read(self._descriptor, _CHUNK):
            head, newline, rest = chunk.rpartition(b"\n")
            if not newline:
                self._rest += chunk
                continue
            lines += (self._rest + head).decode("utf-8", "replace").split("\n")
            self._rest = rest
        return lines

    @property
    def unfinished(self) -> str:
        """What stands after the last newline: empty, or a line that was being written."""
        return self._rest.decode("utf-8", "replace")

    def close(self) -> None:
        """Gives the descriptor back; nothing can be read after this."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> LineTail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
