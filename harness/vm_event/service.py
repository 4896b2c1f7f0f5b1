"""The event service of one VM: takes raw events from its sources and tells each update once, settled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType

from .abi import VmEventType
from .callbacks import Worker
from .errors import ServiceError
from .events import Event, RtcChange, SettledRtcChange
from .session import Session
from .source import COUNTS, Source, TunnelSource
from .tunnel import Tunnel
from .typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

DM = "dm"

_log = logging.getLogger(__name__)

Command = Callable[[str | None], bool]
Subscription = Callable[[SettledRtcChange], object]


class VmEventService:
    """ACRN's `vm_event` for one VM: one thread over all tunnels and the monitor socket.

    It can be started and stopped any number of times; each start is a new life, with empty rings, no
    knowledge of the guest's RTC, and counts from 0. Between stop and start nothing is left open. `send`,
    `set_rtc`, `status` and `stop` may be called from any thread at any time.

    Callbacks (`subscribe`, `on_command`) run on threads of their own, one per subscriber and one for
    commands: they may take their time and may call `stop`.
    """

    def __init__(self, vm: str = "vm", *, window: float = 1.0, dm: bool = True) -> None:
        """`vm`: the name in every event. `window`: the settle window in seconds.

        `dm`: whether there is a tunnel for the device model in this process, source "dm", fed by `send`.
        Raises ValueError unless `window` is positive.
        """
        if not window > 0:
            raise ValueError(f"a settle window must be longer than 0 s, not {window}")
        self.vm = vm
        self.window = window
        self._openers: dict[str, Callable[[], Source]] = {}
        if dm:
            self._openers[DM] = self._open_dm
        self._commands: dict[str, Command] = {}
        self._subscribers: list[_Subscriber] = []
        self._command_worker = Worker(f"vm_event-{vm}-commands")
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._ended: dict[str, Any] | None = None
        self._anchors: dict[str, tuple[int, int]] = {}
        self._unheeded = 0

    def add_source(self, name: str, open: Callable[[], Source]) -> None:
        """Take events from another source; to be called before `start`.

        `open` is called at every start and gives a new source of that name, which is closed at the end of that
        life. What it raises, `start` raises. Raises ServiceError while running, or for a name that exists.
        """
        with self._lock:
            if self._session is not None:
                raise ServiceError(f"{self.vm}: sources are added before the service is started")
            if name in self._openers:
                raise ServiceError(f"{self.vm}: there is a source {name!r} already")
            self._openers[name] = open

    def add_ring(
        self,
        source: str,
        ring_descriptor: int,
        kick_descriptor: int,
        *,
        stamped: bool = False,
        require_seal: bool = True,
    ) -> None:
        """Read a ring that another process fills, as `source`; to be called before `start`.

        The descriptors stay the caller's and must stay open while the service can be started; each start maps
        the ring anew. `stamped`: the other process writes its send times into the elements as ours do.
        Raises ServiceError while running, or for a source that exists.
        """

        def open_ring() -> Source:
            tunnel = Tunnel.attach(ring_descriptor, kick_descriptor, require_seal=require_seal)
            return TunnelSource(source, tunnel, vm=self.vm, window=self.window, stamped=stamped, trusted=False)

        self.add_source(source, open_ring)

    def start(self, monitor: Path | str | None = None) -> None:
        """Serve, on a new thread; `monitor` is where the monitor socket is made. On return it is being
        served.

        Raises ServiceError when running already, MonitorError for the socket, SourceError or RingError for a
        foreign ring; then nothing is left behind and it can be started again.
        """
        with self._lock:
            if self._session is not None:
                raise ServiceError(f"{self.vm}: the event service is running already")
            self._unheeded = 0
            self._ended = None
            sources = self._open_sources()
            for name, (rtc, stamp_ns) in self._anchors.items():
                if name in sources:
                    sources[name].set_rtc(rtc, stamp_ns)
            self._session = Session(self.vm, list(sources.values()), monitor, self)
            self._anchors.clear()

    def stop(self) -> None:
        """End the service; a pending update dies with it. Nothing stays open, no file is left; never hangs.

        Events that settled before are still delivered to subscribers. Stopping a stopped service does
        nothing.
        """
        session = self._session
        if session is not None:
            session.stop()
            with self._lock:
                if self._session is session:
                    self._ended = {**self.status(), "running": False}
                    self._session = None
        self._command_worker.close()
        for subscriber in list(self._subscribers):
            subscriber.worker.close()

    def restart(self, *, stamp_ns: int | None = None) -> None:
        """Begin a new life for the sources, as a full reset of the device model does; connections stay.

        What is pending at `stamp_ns` (default: now) dies, and so does what is known of the guest's RTC. Takes
        its turn among the events sent from this process: what is sent afterwards belongs to the new life.
        Counts go on. Raises ServiceError when not running.
        """
        moment = _now_ns() if stamp_ns is None else stamp_ns
        session = self._session
        if session is None:
            raise ServiceError(f"{self.vm}: the event service is not running")
        for source in session.sources.values():
            source.restart(moment)

    def __enter__(self) -> VmEventService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the service serves."""
        session = self._session
        return session is not None and session.failure is None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the service ends, stopped or failed; False when `timeout` seconds were not enough."""
        session = self._session
        return session is None or session.wait(timeout)

    def send(self, event: RtcChange | VmEventType, *, stamp_ns: int | None = None) -> bool:
        """Put a raw event of the device model on the DM ring. Any thread; never waits.

        `stamp_ns`: when it happened, CLOCK_MONOTONIC; the default is now. Stamps of successive calls should
        not go back; one that does counts as the one before it.
        False when the event was not taken: the ring is full, or the service is not running; both are counted.
        Raises struct.error for numbers that are not signed 64-bit.
        """
        session = self._session
        source = session.sources.get(DM) if session is not None else None
        if not isinstance(source, TunnelSource):
            self._unheeded += 1
            return False
        return source.send(event, stamp_ns)

    def set_rtc(self, time: int, *, stamp_ns: int | None = None, source: str = DM) -> None:
        """The guest's RTC shows `time` (seconds since 1970 UTC) at `stamp_ns`: at its start, after a reset.

        Takes its turn among the events sent from this process; a pending update stays pending. Before `start`
        it is kept for that start. Raises ServiceError for a source there is not.
        """
        moment = _now_ns() if stamp_ns is None else stamp_ns
        with self._lock:
            session = self._session
            if session is None:
                self._anchors[source] = (time, moment)
                return
        if source not in session.sources:
            raise ServiceError(f"{self.vm}: there is no source {source!r}")
        session.sources[source].set_rtc(time, moment)

    def subscribe(self, callback: Subscription) -> Callable[[], None]:
        """Have `callback(settled)` called for every settled RTC change, in order. Returns the way out."""
        subscriber = _Subscriber(callback, Worker(f"vm_event-{self.vm}-subscriber"))
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)
                subscriber.worker.close()

        return unsubscribe

    def on_command(self, name: str, callback: Command) -> None:
        """Answer the monitor's command `name` ("destroy", "blkrescan") with what `callback(argument)`
        returns.

        True becomes {"ack":0}; False, or an exception, which is logged, {"ack":-1}, as for a command nobody
        takes. To end the service from a callback, return first or the client gets no answer.
        """
        self._commands[name] = callback

    def status(self) -> dict[str, Any]:
        """What the service does and has done since it started: plain JSON values.

        Per source and in sum: the counts of `source.COUNTS`; the sum of dropped holds what was sent while not
        running, too. After a stop: the last counts.
        """
        session = self._session
        if session is None:
            return self._ended or {"vm": self.vm, "running": False, "window": self.window, "sources": {}}
        sources = {name: source.status() for name, source in session.sources.items()}
        for name, error in session.broken.items():
            sources[name]["error"] = error
        totals = {key: sum(source.get(key, 0) for source in sources.values()) for key in COUNTS}
        return {
            "vm": self.vm,
            "running": self.running,
            "window": self.window,
            "uptime": round(session.uptime, 3),
            **totals,
            "dropped": totals["dropped"] + self._unheeded,
            "last_event": session.last_event,
            "sources": sources,
            "monitor": session.monitor.status() if session.monitor is not None else None,
            "error": session.failure,
        }

    def deliver(self, event: Event) -> None:
        """Pass a settled event to the subscribers' threads. Called by the session."""
        if isinstance(event, SettledRtcChange):
            for subscriber in list(self._subscribers):
                subscriber.worker.submit(partial(subscriber.callback, event))

    def execute(self, name: str, argument: str | None, done: Callable[[bool], None]) -> None:
        """Run a command's callback on the commands' thread. Called by the session."""
        callback = self._commands.get(name)
        if callback is None or not self._command_worker.submit(partial(_execute, name, callback, argument, done)):
            done(False)

    def _open_sources(self) -> dict[str, Source]:
        sources: dict[str, Source] = {}
        try:
            for name, open in self._openers.items():
                sources[name] = open()
                if sources[name].name != name:
                    raise ServiceError(f"{self.vm}: source {name!r} calls itself {sources[name].name!r}")
        except BaseException:  # whatever it was, what is open already is ours to close
            for source in sources.values():
                source.close()
            raise
        return sources

    def _open_dm(self) -> Source:
        return TunnelSource(DM, Tunnel.create(), vm=self.vm, window=self.window, stamped=True, trusted=True)


class _Subscriber(NamedTuple):
    callback: Subscription
    worker: Worker


def _execute(name: str, callback: Command, argument: str | None, done: Callable[[bool], None]) -> None:
    success = False
    try:
        success = bool(callback(argument))
    except Exception:  # the client gets its -1, whatever the callback did
        _log.exception("the command %r failed", name)
    done(success)


def _now_ns() -> int:
    return time.monotonic_ns()
