"""One monotonic deadline, made where a wait begins and handed down to every wait inside it."""

from __future__ import annotations

import threading
import time


class Deadline:
    """A moment on the monotonic clock; waits ask it how long they may still take.

    The object is immutable: a nested step with less patience takes `deadline.within(seconds)`.
    """

    __slots__ = ("_started", "_until")

    def __init__(self, seconds: float) -> None:
        self._started = time.monotonic()
        self._until = self._started + seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._until - time.monotonic())

    @property
    def elapsed(self) -> float:
        """Seconds since the deadline was made."""
        return time.monotonic() - self._started

    @property
    def expired(self) -> bool:
        """Whether nothing is left."""
        return time.monotonic() >= self._until

    def within(self, seconds: float) -> Deadline:
        """A deadline that ends after `seconds` or with this one, whichever comes first."""
        return Deadline(min(seconds, self.remaining))


class Stoppable(Deadline):
    """A deadline that comes at once when something is stopped; so do those made from it."""

    __slots__ = ("_stop",)

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        super().__init__(seconds)
        self._stop = stop

    @property
    def remaining(self) -> float:
        """Seconds left, never below 0; none once it is stopped."""
        return 0.0 if self._stop.is_set() else super().remaining

    @property
    def expired(self) -> bool:
        """Whether nothing is left."""
        return self._stop.is_set() or super().expired

    def within(self, seconds: float) -> Stoppable:
        """A deadline that ends after `seconds` or with this one, whichever comes first."""
        return Stoppable(min(seconds, self.remaining), self._stop)
