"""Everyone in this process who is told of events: subscribers, streams and actions, each at its own pace."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial

from .callbacks import Worker
from .errors import ServiceError
from .events import Event, SettledRtcChange
from .stream import EventStream
from .throttle import Throttle
from .typed import Any, Protocol

#: How many events wait for one that is behind.
WAITING_LIMIT = 1000
#: How long a stop waits for callbacks, commands and actions, all together, in seconds.
PATIENCE = 2.0
#: How long it waits further for actions that were interrupted, in seconds.
INTERRUPTED_PATIENCE = 5.0

_log = logging.getLogger(__name__)


class Action(Protocol):
    """Something done for every settled RTC change, one after another, which counts what came of it.

    `begin` and `interrupt` come from the thread that starts or stops the service, `act` from the action's own.
    """

    def begin(self) -> None:
        """The service starts: counts begin at 0."""

    def act(self, event: SettledRtcChange) -> None:
        """Do it. May take its time; what it raises is logged."""

    def interrupt(self) -> None:
        """The service's stop has waited long enough: end what is being done, soon, and leave nothing running."""

    def status(self) -> dict[str, Any]:
        """What came of it so far: plain JSON values, from any thread."""


class Listeners:
    """Passes events on without waiting for anyone; what somebody was too slow for is counted and logged."""

    def __init__(self, vm: str) -> None:
        self._vm = vm
        self._subscribers: list[_Subscriber] = []
        # Weak: a stream that nobody iterates any more is not to be filled for ever.
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._missed = 0
        self._complaints = Throttle(1.0)

    def subscribe(self, callback: Callable[[Any], object], *, all_events: bool = False) -> Callable[[], None]:
        """Call `callback` for every settled RTC change, or every event; returns the way out."""
        subscriber = _Subscriber(self._vm, "subscriber", callback, all_events=all_events)
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)
                subscriber.worker.close()

        return unsubscribe

    def stream(self, limit: int) -> EventStream:
        """A new stream of what settles from now on."""
        stream = EventStream(limit)
        with self._lock:
            self._streams.add(stream)
        return stream

    def add_action(self, name: str, action: Action) -> None:
        """Do `action` for every settled RTC change. Raises ServiceError for a name that exists."""
        if any(subscriber.action is not None and subscriber.label == name for subscriber in self._subscribers):
            raise ServiceError(f"{self._vm}: there is an action {name!r} already")
        self._subscribers.append(_Subscriber(self._vm, name, action.act, action=action))

    def begin(self) -> None:
        """A new life: counts begin at 0."""
        self._missed = 0
        for subscriber in list(self._subscribers):
            subscriber.missed = subscriber.abandoned = 0
            if subscriber.action is not None:
                subscriber.action.begin()

    def deliver(self, event: Event) -> None:
        """Pass an event on, in order, from the service's thread; it never waits and never raises."""
        settled = isinstance(event, SettledRtcChange)
        missed = 0
        for subscriber in list(self._subscribers):
            if settled or subscriber.all_events:
                missed += not subscriber.offer(event)
        if isinstance(event, SettledRtcChange):
            for stream in self._open_streams():
                missed += not stream.offer(event)
        if missed:
            self._missed += missed
            if self._complaints.admit(0, time.monotonic()):
                _log.warning("%s: somebody is too slow: %d events were missed so far", self._vm, self._missed)

    def end(self, failure: str | None) -> None:
        """No more events will come in this life: the streams end. One that is made from now on is of the next."""
        with self._lock:
            streams = list(self._streams)
            self._streams.clear()
        for stream in streams:
            stream.end(failure)

    def close(self, until: float) -> None:
        """Let what was delivered be worked off, until then (monotonic seconds), and end the threads.

        An action that needs longer is interrupted, and what still waited for it is abandoned, and logged. A
        callback that needs longer is left its thread: nothing can end it.
        """
        subscribers = list(self._subscribers)
        for subscriber in subscribers:
            subscriber.worker.end()
        late = [subscriber for subscriber in subscribers if not subscriber.worker.join(until)]
        for subscriber in late:
            if subscriber.action is not None:
                subscriber.abandoned += subscriber.worker.abandon()
                subscriber.action.interrupt()
                count = subscriber.abandoned
                _log.warning("%s is interrupted by the stop; %d events are given up", subscriber.name, count)
        interrupted_until = time.monotonic() + INTERRUPTED_PATIENCE
        for subscriber in late:
            # For a callback there is nothing more to wait for.
            if not subscriber.worker.join(until if subscriber.action is None else interrupted_until):
                _log.warning("%s is busy even after the stop; its thread is left to it", subscriber.name)

    def status(self) -> dict[str, Any]:
        """Who listens and what was missed; plain JSON values."""
        actions = {}
        missed = [stream.missed for stream in self._open_streams()]
        for subscriber in list(self._subscribers):
            if subscriber.action is None:
                missed.append(subscriber.missed)
            else:
                counts = {"missed": subscriber.missed, "abandoned": subscriber.abandoned}
                actions[subscriber.label] = {**subscriber.action.status(), **counts}
        return {
            "subscribers": len(missed),
            "behind": sum(count > 0 for count in missed),
            "missed": self._missed,
            "actions": actions,
        }

    def _open_streams(self) -> list[EventStream]:
        with self._lock:
            return [stream for stream in self._streams if not stream.ended]


class _Subscriber:
    """A callback and the thread it is called on."""

    def __init__(
        self,
        vm: str,
        label: str,
        callback: Callable[[Any], object],
        *,
        all_events: bool = False,
        action: Action | None = None,
    ) -> None:
        self.label = label
        self.name = f"vm_event-{vm}-{label}"
        self.action = action
        self.all_events = all_events
        self.missed = 0
        self.abandoned = 0
        self.worker = Worker(self.name, limit=WAITING_LIMIT, keep_newest=True)
        self._callback = callback

    def offer(self, event: Event) -> bool:
        """Have the callback called, soon; False when an event was missed by it."""
        try:
            taken = self.worker.submit(partial(self._callback, event))
        except RuntimeError as error:
            _log.error("no thread for a callback: %s", error)
            taken = False
        if self.worker.closed:
            return True  # it unsubscribed at this moment: nobody misses anything
        self.missed += not taken
        return taken
