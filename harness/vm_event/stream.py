"""Settled events to iterate over: a bounded queue between the service and whoever takes its time with them."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType

from .errors import ServiceError
from .events import SettledRtcChange


class EventStream:
    """An iterator over the settled RTC changes since it was made by `VmEventService.events`.

    It waits for the next event and ends when the service stops, once the events that settled before have been
    taken. It keeps at most `limit` events for a consumer that is behind: the oldest go, and `missed` counts
    them before the next event is handed out. Threads may share one: each event goes to one of them.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a stream keeps at least one event, not {limit}")
        self._limit = limit
        self._events: deque[SettledRtcChange] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._failure: str | None = None
        #: How many events this consumer was too slow for.
        self.missed = 0

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> SettledRtcChange:
        """The next event. Raises ServiceError at the end if the service did not stop but fail."""
        event = self.take()
        if event is None:
            raise StopIteration
        return event

    def take(self, timeout: float | None = None) -> SettledRtcChange | None:
        """The next event; None at the end of the stream.

        Raises TimeoutError when none came within `timeout` seconds, ServiceError at the end if the service
        did not stop but fail.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._events:
                if self._failure is not None:
                    raise ServiceError(f"the event service failed: {self._failure}")
                if self._ended:
                    return None
                remaining = None if until is None else until - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise TimeoutError(f"no settled event within {timeout} s")
                self._changed.wait(remaining)
            return self._events.popleft()

    def close(self) -> None:
        """Take no more: what waits is forgotten, and whoever waits for the next event finds the end."""
        with self._changed:
            self._ended = True
            self._events.clear()
            self._changed.notify_all()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def ended(self) -> bool:
        """Whether no more events will be added."""
        return self._ended

    def offer(self, event: SettledRtcChange) -> bool:
        """Add an event, without waiting; False when one was missed by it. Called by the service."""
        with self._changed:
            if self._ended:
                return True
            missed = len(self._events) >= self._limit
            if missed:
                self._events.popleft()
                self.missed += 1
            self._events.append(event)
            self._changed.notify()
            return not missed

    def end(self, failure: str | None = None) -> None:
        """No more events will come. Called by the service."""
        with self._changed:
            if not self._ended:
                self._ended = True
                self._failure = failure
                self._changed.notify_all()
