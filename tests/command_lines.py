"""Which processes there are, by what stands on their command lines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def command_lines() -> Iterator[tuple[int, str]]:
    """All processes and their command lines."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")


def naming(word: object) -> dict[int, str]:
    """Those that have it on their command line, the test's own process aside."""
    return {pid: line for pid, line in command_lines() if str(word) in line and pid != os.getpid()}
