"""Runs other people's code away from the service's thread: a slow callback delays nobody but itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

_log = logging.getLogger(__name__)


class Worker:
    """Makes calls one after another, in order, on a thread of its own that is started by the first of them.

    After `close` the worker can be used again. At most `limit` calls wait; more are refused and counted.
    """

    def __init__(self, name: str, *, limit: int = 10_000) -> None:
        self._name = name
        self._limit = limit
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.refused = 0

    def submit(self, call: Callable[[], object]) -> bool:
        """Queue a call; False when too many wait already. What it raises is logged."""
        with self._lock:
            if self._queue.qsize() >= self._limit:
                self.refused += 1
                return False
            if self._thread is None:
                self._queue = SimpleQueue()
                self._thread = threading.Thread(target=self._run, args=(self._queue,), name=self._name, daemon=True)
                self._thread.start()
            self._queue.put(call)
            return True

    def close(self, patience: float = 2.0) -> bool:
        """Let the queued calls be made and end the thread; False if it is still busy after `patience`
        seconds.

        From within one of its own calls it returns at once, and the thread ends after that call and those
        queued.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return True
            self._queue.put(None)
        if thread is threading.current_thread():
            return True
        thread.join(patience)
        if thread.is_alive():
            _log.warning("%s: a callback is still running after %.1f s; its thread is left to it", self._name, patience)
            return False
        return True

    @staticmethod
    def _run(queue: SimpleQueue[Callable[[], object] | None]) -> None:
        while (call := queue.get()) is not None:
            try:
                call()
            except Exception:  # the next call is someone else's
                _log.exception("a callback failed")
