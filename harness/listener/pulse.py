"""Notices when a processor of this machine stood still: what is late then is nobody's fault."""

from __future__ import annotations

import collections
import os
import threading
import time
from dataclasses import dataclass

PERIOD = 0.02
LATE_NS = 25_000_000
"""A beat later than this is worth a note: several such can make an event late."""

_MOST = 16


@dataclass(frozen=True)
class Stall:
    """A processor on which nothing ran on time in between; monotonic nanoseconds."""

    cpu: int
    from_ns: int
    to_ns: int


class Pulses:
    """A thread on each processor that only wakes every 20 ms and sees how late it is.

    A virtual machine's processor can be taken away for hundreds of milliseconds, and with it the thread that
    happens to be on it, while all others go on: no heartbeat but one on that processor can tell.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._noticed: collections.deque[Stall] = collections.deque()
        cpus = sorted(os.sched_getaffinity(0))[:_MOST]
        self._threads = [
            threading.Thread(target=self._beat, args=(cpu,), name=f"pulse-{cpu}", daemon=True) for cpu in cpus
        ]

    def start(self) -> None:
        """Begin to beat."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident:
                thread.join()

    def noticed(self) -> list[Stall]:
        """The stalls since the last call."""
        found = []
        while self._noticed:
            found.append(self._noticed.popleft())
        return found

    def _beat(self, cpu: int) -> None:
        try:
            os.sched_setaffinity(threading.get_native_id(), {cpu})
        except OSError:
            return  # the processor was taken out meanwhile
        last = time.monotonic_ns()
        while not self._stop.wait(PERIOD):
            now = time.monotonic_ns()
            if now - last > PERIOD * 1e9 + LATE_NS:
                self._noticed.append(Stall(cpu, last, now))
            last = now
