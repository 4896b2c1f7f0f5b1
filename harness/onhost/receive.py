"""Takes a file from the harness into the session's folder, whole or not at all.

    receive --folder FOLDER --mark MARK NAME BYTES SHA256 MODE

Its bytes are this process's standard input.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import select
from collections.abc import Sequence

from harness.onhost.lease import LEASE_NS, Lease
from harness.onhost.words import complain, say

_MOST = 1 << 18


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0 once the file is there."""
    parser = argparse.ArgumentParser(prog="receive")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--mark", default="")
    parser.add_argument("name")
    parser.add_argument("size", type=int)
    parser.add_argument("sha256")
    parser.add_argument("mode", type=lambda text: int(text, 8))
    options = parser.parse_args(arguments)
    target = f"{options.folder}/{options.name}"
    unfinished = f"{options.folder}/.{options.name}.{os.getpid()}"
    try:
        Lease(options.folder)
        _receive(unfinished, options.size, options.sha256, options.mode)
        os.replace(unfinished, target)
    except (OSError, ValueError) as error:
        try:
            os.unlink(unfinished)
        except OSError:
            pass  # there is none
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return complain(options.mark, f"{target} cannot be written: {why}")
    say(options.mark, path=target)
    return 0


def _receive(path: str, size: int, sha256: str, mode: int) -> None:
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        while size:
            if not select.select([0], [], [], LEASE_NS / 1e9)[0]:
                raise ValueError("nothing came for 10 s")
            data = os.read(0, min(size, _MOST))
            if not data:
                raise ValueError(f"{size} bytes of it did not come")
            digest.update(data)
            file.write(data)
            size -= len(data)
        os.fchmod(descriptor, mode)
    if digest.hexdigest() != sha256:
        raise ValueError("it is not what was sent")
