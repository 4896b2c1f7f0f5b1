"""Runs other people's code away from the service's thread: a slow callback delays nobody but itself."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

Call = Callable[[], object]

_log = logging.getLogger(__name__)


class Worker:
    """Makes calls one after another, in order, on a thread of its own that is started by the first of them.

    After `end` the worker can be used again: the next thread begins when the one before has ended. After `close`
    it cannot. At most `limit` calls wait. One more is refused; with `keep_newest` it is taken, and the oldest is
    forgotten.
    """

    def __init__(self, name: str, *, limit: int = 1000, keep_newest: bool = False) -> None:
        self._name = name
        self._limit = limit
        self._keep_newest = keep_newest
        self._lock = threading.Lock()
        self._shift: _Shift | None = None
        self._last: _Shift | None = None
        #: Set for good by `close`; whoever submits at that moment starts no thread that nobody would end.
        self.closed = False

    def submit(self, call: Call) -> bool:
        """Queue a call; False when one is lost by it, this one or the oldest. What it raises is logged."""
        with self._lock:
            if self.closed:
                return False
            if self._shift is None:
                shift = _Shift(self._name, self._last)
                shift.thread.start()
                self._shift = self._last = shift
            return self._shift.add(call, self._limit, self._keep_newest)

    def end(self) -> None:
        """No more calls in this life: the thread ends after those queued. Never waits."""
        with self._lock:
            shift, self._shift = self._shift, None
            if shift is not None:
                shift.end()

    def abandon(self) -> int:
        """Forget the calls that wait, and say how many; one that is being made goes on."""
        with self._lock:
            return 0 if self._last is None else self._last.abandon()

    def join(self, deadline: float) -> bool:
        """Wait for the thread to end; False when it is still busy at `deadline` (monotonic seconds).

        From within one of its own calls it returns at once: the thread ends after that call and those queued.
        """
        with self._lock:
            last = self._last
        if last is None or last.thread is threading.current_thread():
            return True
        last.thread.join(max(0.0, deadline - time.monotonic()))
        return not last.thread.is_alive()

    def close(self, patience: float = 2.0) -> bool:
        """Let the queued calls be made, and take no more; False if it is still busy after `patience` seconds."""
        with self._lock:
            self.closed = True
        self.end()
        if self.join(time.monotonic() + patience):
            return True
        _log.warning("%s: a callback is still running after %.1f s; its thread is left to it", self._name, patience)
        return False


class _Shift:
    """One thread of a worker, from its first call to its end, and the calls that wait for it."""

    def __init__(self, name: str, before: _Shift | None) -> None:
        self.thread = threading.Thread(target=self._run, args=(before,), name=name, daemon=True)
        self._calls: deque[Call] = deque()
        self._changed = threading.Condition()
        self._ended = False

    def add(self, call: Call, limit: int, keep_newest: bool) -> bool:
        with self._changed:
            full = len(self._calls) >= limit
            if full and keep_newest:
                self._calls.popleft()
            if not full or keep_newest:
                self._calls.append(call)
                self._changed.notify()
            return not full

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def abandon(self) -> int:
        with self._changed:
            abandoned = len(self._calls)
            self._calls.clear()
            return abandoned

    def _run(self, before: _Shift | None) -> None:
        if before is not None:
            before.thread.join()  # its calls come first, even where `join` lost patience with it
            before = None
        while (call := self._next()) is not None:
            try:
                call()
            except Exception:  # the next call is someone else's
                _log.exception("a callback failed")

    def _next(self) -> Call | None:
        with self._changed:
            while not self._calls:
                if self._ended:
                    return None
                self._changed.wait()
            return self._calls.popleft()
