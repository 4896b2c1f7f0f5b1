"""One life of the service, from start to stop: its thread, and everything that thread owns."""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial

from .commands import Relay
from .events import Event
from .loop import Loop, sharpen_timers
from .monitor import Monitor
from .sockets import ListeningSocket
from .source import Source
from .typed import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """What a session asks of the service it serves; called on the session's thread."""

    def status(self, session: Session) -> dict[str, Any]:
        """The answer to the monitor's `status`. `session` asks: the service may not have it yet, or any more."""

    def deliver(self, event: Event) -> None:
        """Pass an event to the subscribers, without waiting for them."""

    def execute(self, name: str, argument: str | None, relays: Iterable[Relay], done: Callable[[bool], None]) -> None:
        """Carry out a monitor command elsewhere, or by `relays`, and call `done`, on any thread."""

    def ended(self, failure: str | None) -> None:
        """The thread has ended and everything is closed; `failure`: why, if nobody stopped it."""


class Session:
    """The epoll thread with its sources and monitor. Its thread alone closes what it uses, when it ends."""

    def __init__(self, vm: str, sources: Sequence[Source], monitor: Path | str | None, owner: Owner) -> None:
        """Open everything and start serving: on return the thread is in its loop.

        Takes over `sources`: they are closed with the session, also when this fails.
        Raises MonitorError when the monitor socket cannot be made, OSError when descriptors run out.
        """
        self.vm = vm
        self.sources = {source.name: source for source in sources}
        #: Sources that this thread has given up, and why: one that fails takes nothing from the others.
        self.broken: dict[str, str] = {}
        self._descriptors: dict[str, int] = {}
        self.monitor: Monitor | None = None
        self.failure: str | None = None
        self.last_event: dict[str, Any] | None = None
        self._owner = owner
        self._started_ns = time.monotonic_ns()
        self._stopping = False
        self._serving = threading.Event()
        with ExitStack() as opened:
            for source in sources:
                opened.callback(self._close, source)
            self._loop = Loop()
            opened.callback(self._loop.close)
            for source in sources:
                descriptor = self._descriptors[source.name] = source.fileno()
                self._loop.add(descriptor, select.EPOLLIN, partial(self._on_source, source))
            if monitor is not None:
                listener = ListeningSocket(monitor)
                try:
                    self.monitor = Monitor(self._loop, listener, self)
                except BaseException:  # whatever it was, the socket is ours to close
                    listener.close()
                    raise
                opened.callback(self.monitor.close)
            self._thread = threading.Thread(target=self._run, name=f"vm_event-{vm}", daemon=True)
            self._opened = opened.pop_all()
            try:
                self._thread.start()
            except BaseException:  # no thread, so nobody else closes it
                self._opened.close()
                raise
        try:
            self._serving.wait()
        except BaseException:  # Ctrl-C while waiting must leave no thread
            self.stop()
            raise

    @property
    def uptime(self) -> float:
        """Seconds since the session began."""
        return (time.monotonic_ns() - self._started_ns) / 1e9

    def stop(self) -> None:
        """End the thread and wait for it: it never waits for anyone else. From any thread, any number of
        times.
        """
        self._stopping = True
        self._loop.wake()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def wait(self, timeout: float | None) -> bool:
        """Whether the thread ended within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def status(self) -> dict[str, Any]:
        """See `Owner.status`."""
        return self._owner.status(self)

    def execute(self, name: str, argument: str | None, done: Callable[[bool], None]) -> None:
        """Have the service carry out a command; the result comes back to this thread."""
        relays = [relay for source in self._working() if (relay := getattr(source, "relay", None)) is not None]
        self._owner.execute(name, argument, relays, lambda success: self._loop.post(partial(done, success)))

    def _run(self) -> None:
        try:
            with self._opened:
                sharpen_timers()
                self._serving.set()
                try:
                    while not self._stopping:
                        self._turn()
                except Exception as error:  # told by status and log; the thread ends in order
                    self.failure = f"{type(error).__name__}: {error}"
                    _log.exception("%s: the event service failed", self.vm)
        finally:
            self._owner.ended(self.failure)

    def _turn(self) -> None:
        """One wait, and everything that is to be done after it."""
        self._loop.dispatch(self._loop.wait(self._deadline()))
        now_ns = time.monotonic_ns()
        for source in self._working():
            try:
                self._expire(source, now_ns)
            except Exception as error:  # a mistake in one source must not take the service from the others
                self._give_up(source, error)

    def _deadline(self) -> int | None:
        """The earliest of all."""
        deadlines = []
        for source in self._working():
            try:
                if (due := source.deadline_ns()) is not None:
                    deadlines.append(due)
            except Exception as error:  # a mistake in one source must not take the service from the others
                self._give_up(source, error)
        return min(deadlines, default=None)

    def _working(self) -> list[Source]:
        return [source for source in self.sources.values() if source.name not in self.broken]

    def _expire(self, source: Source, now_ns: int) -> None:
        due = source.deadline_ns()
        if due is not None and now_ns >= due:
            # What was sent before `now_ns` is in the ring by now, told or not: it may extend the window.
            self._collect(source, now_ns)
            while (settled := source.expire(now_ns)) is not None:
                self._emit(settled)

    def _on_source(self, source: Source, _events: int) -> None:
        try:
            self._collect(source, time.monotonic_ns())
        except Exception as error:  # a mistake in one source must not take the service from the others
            self._give_up(source, error)

    def _collect(self, source: Source, now_ns: int) -> None:
        was_disabled = source.error is not None
        for event in source.collect(now_ns):
            self._emit(event)
        if not was_disabled and source.error is not None:
            self._loop.remove(self._descriptors[source.name])

    def _close(self, source: Source) -> None:
        try:
            source.close()
        except Exception:  # the others are to be closed as well
            _log.exception("%s: source %s could not be closed", self.vm, source.name)

    def _give_up(self, source: Source, error: Exception) -> None:
        self.broken[source.name] = f"{type(error).__name__}: {error}"
        _log.error("%s: source %s failed and is given up", self.vm, source.name, exc_info=error)
        self._loop.remove(self._descriptors[source.name])

    def _emit(self, event: Event) -> None:
        self.last_event = event.as_json()
        if self.monitor is not None:
            self.monitor.publish(self.last_event)
        self._owner.deliver(event)
