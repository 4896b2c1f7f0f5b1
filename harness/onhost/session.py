"""A harness's session on a host: renews the lease at each of its beats, and leaves nothing behind at its end.

    session --folder FOLDER --mark MARK

Each line of the input is a beat, answered by that line and this host's monotonic nanoseconds. The session ends when
the input does, after 10 s without a beat, or by SIGTERM: the lease is void then, so that every tool ends what it runs;
whoever is left of the session all the same is killed, and the folder removed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import select
import signal
import sys
import time
from collections.abc import Sequence

from harness.onhost import processes
from harness.onhost.lease import LEASE_NS, LeaseOwner, is_stale
from harness.onhost.words import complain, say

KEEPERS_END = 8.0
"""Seconds for the tools to end what they run (keeper.py: 1 + 3 s, and what is killed after that)."""

_MOST = 4096
_PREFIX = "rtc-bench-"


class _Terminated(Exception):
    """By a signal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, 1 when something survived."""
    parser = argparse.ArgumentParser(prog="session")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--mark", default="")
    options = parser.parse_args(arguments)
    try:
        owner = LeaseOwner(options.folder)
    except OSError as error:
        return complain(options.mark, f"no session can be had in {options.folder}: {error}")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _terminate)
    try:
        say(
            options.mark,
            session="up",
            folder=options.folder,
            python=sys.version.split()[0],
            executable=sys.executable,
            user=os.geteuid(),
            host=platform.node(),
            pid=os.getpid(),
        )
        _sweep(os.path.dirname(options.folder))
        _serve(owner)
    except (_Terminated, OSError):
        pass  # it ends in the same way however it was told to
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        survivors = _end(owner, options.folder)
    try:
        os.write(1, json.dumps({"session": "ended", "survivors": survivors}).encode() + b"\n")
    except OSError:
        pass  # nobody is there any more who could be told
    return 1 if survivors else 0


def _terminate(*_: object) -> None:
    raise _Terminated


def _serve(owner: LeaseOwner) -> None:
    unfinished = b""
    while select.select([0], [], [], LEASE_NS / 1e9)[0]:
        data = os.read(0, _MOST)
        now = time.monotonic_ns()
        if not data:
            return
        owner.renew()
        *beats, unfinished = (unfinished + data).split(b"\n")
        for beat in beats:
            os.write(1, b"%s %d\n" % (beat, now))


def _end(owner: LeaseOwner, folder: str) -> list[str]:
    """Void the lease, wait for the tools, kill who is left, remove the folder; returns what is still there."""
    import shutil  # only now: it is slow to import

    owner.end()
    released = owner.await_release(KEEPERS_END)
    survivors = processes.end_all(lambda: processes.of_session(folder), 0.0, reap=_no_children)
    if not released:
        survivors.append("a tool of the session")
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.exists(folder):
        survivors.append(folder)
    return survivors


def _sweep(base: str) -> None:
    """Remove the folders of this user's former sessions below `base` that nobody else could: they were all killed."""
    import shutil

    for name in os.listdir(base):
        folder = f"{base}/{name}"
        try:
            if name.startswith(_PREFIX) and os.lstat(folder).st_uid == os.geteuid() and is_stale(folder):
                processes.end_all(functools.partial(processes.of_session, folder), 0.0, reap=_no_children)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # it goes as we look at it


def _no_children() -> None:
    """What a session ends are others' children."""
