"""Measures when this process itself stood still, so that no verdict is passed on what it could not see."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PERIOD = 0.02
STALL_NS = 60_000_000
"""A beat later than this is a stall: less cannot turn an event in time into a late one (150 ms)."""


class Heartbeat:
    """A thread that wakes every 20 ms and tells of each stall: `on_stall(from_ns, to_ns)`."""

    def __init__(self, on_stall: Callable[[int, int], object]) -> None:
        self._on_stall = on_stall
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        last = time.monotonic_ns()
        while not self._stop.wait(PERIOD):
            now = time.monotonic_ns()
            if now - last > PERIOD * 1e9 + STALL_NS:
                self._on_stall(last, now)
            last = now
