"""Finds a process's descendants, wherever they hid, and ends them: in order, then by force, until none is left."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

SESSION_VARIABLE = "RTC_BENCH_SESSION"
"""In the environment of all that was started in a session: the session's folder."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK = 0.02
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """From now on this process inherits every descendant whose parent dies, so that none is out of its sight."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def die_with_parent(parent: int) -> None:
    """Be killed when the parent is; to be called in a child, before it becomes another program."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(127)


class Process(NamedTuple):
    """What the kernel says of a process. born: in ticks since boot: a pid alone may be another process by now."""

    name: str
    state: str
    parent: int
    session: int
    born: str

    @property
    def lives(self) -> bool:
        """Whether it still does anything: a zombie does not."""
        return self.state not in "ZX"


def look(pid: int) -> Process | None:
    """A process; None where there is none with that id."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return Process(name, fields[0], int(fields[1]), int(fields[3]), fields[19])


def table() -> dict[int, Process]:
    """Every process, by its id."""
    looked = ((int(entry), look(int(entry))) for entry in os.listdir("/proc") if entry.isdigit())
    return {pid: process for pid, process in looked if process is not None}


def descendants(ancestor: int) -> dict[int, str]:
    """The living descendants of a process, pid to name; zombies are none."""
    processes = table()
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    found: dict[int, str] = {}
    ahead = list(children.get(ancestor, ()))
    while ahead:
        pid = ahead.pop()
        ahead.extend(children.get(pid, ()))
        if processes[pid].lives:
            found[pid] = processes[pid].name
    return found


def of_session(folder: str) -> dict[int, str]:
    """The living processes that have the session's mark in their environment, pid to name."""
    mark = f"{SESSION_VARIABLE}={folder}".encode()
    found = {}
    for pid, process in table().items():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                marked = mark in file.read().split(b"\0")
        except OSError:
            continue  # it is another user's, or gone
        if marked and process.lives:
            found[pid] = process.name
    return found


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """A signal to each; those that are gone or another user's are left out."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # who can not be killed is named as a survivor


def end_all(living: Callable[[], dict[int, str]], patience: float, *, reap: Callable[[], object]) -> list[str]:
    """SIGTERM to all, SIGKILL after `patience` seconds, until none is left. Returns who survived even that, by name.

    reap: takes in the dead children; called again and again.
    """
    asked: set[int] = set()
    kill_at = time.monotonic() + patience
    give_up_at = kill_at + 2
    while True:
        reap()
        found = living()
        now = time.monotonic()
        if not found:
            return []
        if now >= give_up_at:
            return [f"{name} ({pid})" for pid, name in sorted(found.items())]
        if now >= kill_at:
            send(found, signal.SIGKILL)
        else:
            send(set(found) - asked, signal.SIGTERM)
            asked.update(found)
        time.sleep(_LOOK)  # of a grandchild's end nobody is told
