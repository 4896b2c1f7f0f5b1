"""An exclusive lock on a file that is waited for until a deadline, and dies with its holder."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import InfrastructureError


@contextmanager
def locked(path: Path, busy: str, deadline: Deadline) -> Iterator[None]:
    """Holds it; the file is made where it is not there.

    Raises InfrastructureError saying `busy` when another process holds it until the deadline, and OSError.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _wait(file.fileno(), path, busy, deadline)
        yield


def _wait(descriptor: int, path: Path, busy: str, deadline: Deadline) -> None:
    """flock(2) knows no time-out; util-linux's flock takes the lock for the open file it shares with us."""
    waiter = subprocess.run(
        ["flock", "--exclusive", "--timeout", f"{deadline.remaining:.3f}", str(descriptor)],
        pass_fds=[descriptor],
        check=False,
    )
    if waiter.returncode != 0:
        raise InfrastructureError(busy, awaited=f"the lock {path}", waited=deadline.elapsed)
