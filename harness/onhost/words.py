"""The first word of every tool: after it, and only after it, what comes on its output is the tool's own.

A login shell may print what it likes before the tool runs (a banner, an `echo` in its start-up file).
"""

from __future__ import annotations

import json
import os


def say(mark: str, **facts: object) -> None:
    """Print the mark and some facts in a line; nothing where no mark was given (nobody waits for it then)."""
    if mark:
        data = f"{mark} {json.dumps(facts)}\n".encode()
        while data:
            data = data[os.write(1, data) :]


def complain(mark: str, why: str) -> int:
    """Say that it failed, where it is waited for or else as an error; returns the exit status for it."""
    if mark:
        say(mark, failed=why)
    else:
        os.write(2, f"{why}\n".encode())
    return 1
