"""The event service of one VM: takes raw events from its sources and tells each update once, settled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from . import listeners
from .abi import VmEventType
from .commands import Callback as Command
from .commands import Commands
from .errors import ServiceError
from .events import Event, RtcChange, SettledRtcChange
from .listeners import WAITING_LIMIT, Action, Listeners
from .session import Session
from .source import COUNTS, Source, TunnelSource
from .stream import EventStream
from .tunnel import Tunnel
from .typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

DM = "dm"
HV = "hv"
MONITOR = "monitor"

Subscription = Callable[[SettledRtcChange], object]


class VmEventService:
    """ACRN's `vm_event` for one VM: one thread over all tunnels and the monitor socket.

    It can be started and stopped any number of times; each start is a new life, with empty rings, no
    knowledge of the guest's RTC, and counts from 0. Between stop and start nothing is left open. `send`,
    `set_rtc`, `status` and `stop` may be called from any thread at any time.

    Callbacks (`subscribe`, `on_command`) and actions run on threads of their own, one per subscriber and
    action and one for commands: they may take their time and may call `stop`.
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
        self._commands = Commands(vm)
        self._listeners = Listeners(vm)
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._ended: dict[str, Any] | None = None
        self._anchors: dict[str, tuple[int, int]] = {}
        self._unheeded = 0
        self._about: dict[str, Any] = {}

    def describe(self, **facts: Any) -> None:
        """Have `status` say this, under `about`, of the program that hosts the service: plain JSON values."""
        self._about = {**self._about, **facts}

    def add_source(self, name: str, open: Callable[[], Source]) -> None:
        """Take events from another source; to be called before `start`.

        `open` is called at every start and gives a new source of that name, which is closed at the end of that
        life. What it raises, `start` raises. Raises ServiceError while running, or for a name that exists.
        """
        with self._lock:
            self._must_not_run("sources")
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
            return self._foreign_source(source, tunnel, stamped=stamped)

        self.add_source(source, open_ring)

    def add_hsm(self, descriptor: int) -> None:
        """Read the hypervisor's ring of the VM that `descriptor` of `/dev/acrn_hsm` owns, as source "hv".

        To be called before `start`. The descriptor stays the caller's; every start registers a new ring on it,
        which replaces `acrn-dm`'s for good. `start` raises SourceError for a descriptor that will not do.
        """
        from .hsm import open_hsm_tunnel

        def open_hsm() -> Source:
            return self._foreign_source(HV, open_hsm_tunnel(descriptor), stamped=False)

        self.add_source(HV, open_hsm)

    def add_acrn_dm(self, path: Path | str) -> None:
        """Take the events of an `acrn-dm`'s monitor socket, as source "monitor"; to be called before `start`.

        They are settled already and pass at once. `acrn-dm` may come and go. The commands `destroy` and
        `blkrescan` are relayed to it unless a callback takes them (`on_command`).
        """
        from .acrn_dm import AcrnDmSource

        self.add_source(MONITOR, lambda: AcrnDmSource(path, vm=self.vm, name=MONITOR))

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
                sources[name].set_rtc(rtc, stamp_ns)
            self._listeners.begin()
            owner = _Owner(self, self._listeners, self._commands)
            self._session = Session(self.vm, list(sources.values()), monitor, owner)
            self._anchors.clear()

    def stop(self) -> None:
        """End the service; a pending update dies with it. Nothing stays open, no file is left; never hangs.

        Events that settled before are still delivered. For callbacks and actions that are behind it waits 2 s;
        then what an action does is ended, and what waited for it is abandoned, and a callback is left alone
        with its thread. Stopping a stopped service does nothing.
        """
        session = self._session
        if session is not None:
            session.stop()
            with self._lock:
                if self._session is session:
                    self._ended = {**self.status(), "running": False}
                    self._session = None
        until = time.monotonic() + listeners.PATIENCE
        self._commands.end()
        self._listeners.close(until)
        self._commands.join(until)

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
        taken = source.send(event, stamp_ns)
        if not taken and source.closed:
            self._unheeded += 1  # it has failed, or is being stopped: the ring that would count it is gone
        return taken

    def set_rtc(self, time: int, *, stamp_ns: int | None = None, source: str = DM) -> None:
        """The guest's RTC shows `time` (seconds since 1970 UTC) at `stamp_ns`: at its start, after a reset.

        Takes its turn among the events sent from this process; a pending update stays pending. Before `start`
        it is kept for that start, of a source that was added. Raises ServiceError for a source there is not.
        """
        moment = _now_ns() if stamp_ns is None else stamp_ns
        with self._lock:
            if source not in self._openers:
                raise ServiceError(f"{self.vm}: there is no source {source!r}")
            session = self._session
            if session is None:
                self._anchors[source] = (time, moment)
                return
        session.sources[source].set_rtc(time, moment)

    def subscribe(self, callback: Subscription) -> Callable[[], None]:
        """Have `callback(settled)` called for every settled RTC change, in order. Returns the way out.

        For a callback that is behind, 1,000 events wait; then the oldest go, which the log and `status` tell.
        """
        return self._listeners.subscribe(callback)

    def subscribe_all(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """As `subscribe`, but power-offs and triple faults are told, too, as `VmEvent`."""
        return self._listeners.subscribe(callback, all_events=True)

    def events(self, *, limit: int = WAITING_LIMIT) -> EventStream:
        """An iterator over the settled RTC changes from now on; it ends when the service stops.

        Any number at once, each with all events; before `start` as well. One that is behind keeps the newest
        `limit` events; what it missed it counts, and the log and `status` tell.
        """
        return self._listeners.stream(limit)

    def add_action(self, name: str, action: Action) -> None:
        """Have `action` done for every settled RTC change; to be called before `start`.

        Its counts are in `status` under `name`. Raises ServiceError while running, or for a name that exists.
        """
        with self._lock:
            self._must_not_run("actions")
            self._listeners.add_action(name, action)

    def on_command(self, name: str, callback: Command) -> None:
        """Answer the monitor's command `name` ("destroy", "blkrescan") with what `callback(argument)`
        returns.

        True becomes {"ack":0}; False, or an exception, which is logged, {"ack":-1}, as for a command nobody
        takes. It is not relayed to `acrn-dm` then. To end the service from a callback, return first or the
        client gets no answer.
        """
        self._commands.on(name, callback)

    def status(self) -> dict[str, Any]:
        """What the service does and has done since it started: plain JSON values.

        `sources`: the counts of each (`source.COUNTS`), its last event, its error. The same counts in sum, with
        unheeded: what `send` was given while not running, which is in the sum of dropped. Of those who are
        told: subscribers (and streams), behind: how many of them missed events, missed: how many events, and
        the counts of each of the `actions`. After a stop: the last counts.
        """
        session = self._session
        if session is None:
            ended = self._ended or {"vm": self.vm, "running": False, "window": self.window, "sources": {}}
            return {**ended, **self._listeners.status()}
        return self._status_of(session)

    def _status_of(self, session: Session) -> dict[str, Any]:
        """`status` while `session` serves; called by it, too."""
        sources = {name: source.status() for name, source in session.sources.items()}
        for name, error in list(session.broken.items()):
            sources[name]["error"] = error
        totals = {key: sum(source.get(key, 0) for source in sources.values()) for key in COUNTS}
        return {
            "vm": self.vm,
            "running": session.failure is None,
            "window": self.window,
            "about": self._about,
            "uptime": round(session.uptime, 3),
            **totals,
            "dropped": totals["dropped"] + self._unheeded,
            "unheeded": self._unheeded,
            "last_event": session.last_event,
            "sources": sources,
            "monitor": session.monitor.status() if session.monitor is not None else None,
            "error": session.failure,
            **self._listeners.status(),
        }

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

    def _must_not_run(self, what: str) -> None:
        if self._session is not None:
            raise ServiceError(f"{self.vm}: {what} are added before the service is started")

    def _foreign_source(self, name: str, tunnel: Tunnel, *, stamped: bool) -> Source:
        return TunnelSource(
            name, tunnel, vm=self.vm, window=self.window, stamped=stamped, trusted=False, clock=time.monotonic_ns
        )

    def _open_dm(self) -> Source:
        return TunnelSource(DM, Tunnel.create(), vm=self.vm, window=self.window, stamped=True, trusted=True)


class _Owner:
    """What a session asks of its service."""

    def __init__(self, service: VmEventService, listeners: Listeners, commands: Commands) -> None:
        self.status = service._status_of
        self.deliver = listeners.deliver
        self.ended = listeners.end
        self.execute = commands.execute


def _now_ns() -> int:
    return time.monotonic_ns()
