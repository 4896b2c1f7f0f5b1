"""What the service reads from: one source of one guest, with its tunnel, settler, throttle and counts."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator

from .abi import ELEMENT, ELEMENT_SIZE, VmEventType
from .errors import RingError
from .events import Event, RtcChange, SettledRtcChange, VmEvent
from .settler import RtcChangeSettler
from .throttle import Throttle
from .tunnel import Tunnel
from .typed import Any, NamedTuple, Protocol

NANOSECONDS = 1_000_000_000
#: ACRN's throttle: one event per type in this window.
THROTTLE_WINDOW_NS = NANOSECONDS
#: Another process's stamp is believed that far back. A service that stalled for so long may merge updates; without a
#: bound, a liar's stamps could make an event for each second of the machine's uptime fall due at once.
OLDEST_STAMP_NS = 300 * NANOSECONDS
#: What every source counts, in the order in which it is told:
#: raw: RTC changes read; settled: events they became (of these estimated, lost); passed: power-offs and triple faults;
#: throttled: those that came too close to one before; dropped: overrun (refused by the full ring) plus stale (of a
#: former life, read after its end); skipped: of unknown type, or to a time beyond 64 bits.
COUNTS = ("raw", "settled", "estimated", "lost", "passed", "throttled", "dropped", "overrun", "stale", "skipped")

_log = logging.getLogger(__name__)


class Source(Protocol):
    """An event source as the service's thread sees it; it is used for one life of the service, then closed.

    Everything is called on that thread only, except where it says "from any thread". Nothing may wait.
    """

    name: str

    def fileno(self) -> int:
        """The descriptor that becomes readable when the source has something."""

    def collect(self, now_ns: int) -> list[Event]:
        """Read what there is without waiting; the events that pass at once. Also called when one is due."""

    def deadline_ns(self) -> int | None:
        """When the next settled event is due."""

    def expire(self, now_ns: int) -> SettledRtcChange | None:
        """The next settled event that is due; None when there is none."""

    def set_rtc(self, rtc: int, stamp_ns: int) -> None:
        """The guest's RTC showed `rtc` at that moment. From any thread."""

    def restart(self, stamp_ns: int) -> None:
        """Forget what is pending and what is known of the RTC, as of that moment. From any thread."""

    @property
    def error(self) -> str | None:
        """Why the source is disabled; None while it works. A disabled source is not watched any more."""

    def status(self) -> dict[str, Any]:
        """Counts (those of `COUNTS` that it knows), `last_event`, `error` and what else it has to tell.

        Plain JSON values, from any thread.
        """

    def close(self) -> None:
        """Release every descriptor."""


class TunnelSource:
    """A ring's events: RTC changes are settled, power-off and triple fault pass the throttle at once.

    `stamped`: the elements carry the moment they were sent (`Tunnel.put` of our own processes). Without it
    the moment is that of their arrival here; nobody knows how long they waited to be read, so they belong to the
    update that is still pending: a stall of this process may merge updates, but splits none. A ring whose header
    is damaged disables this source, with `error` set; what it had pending still settles.

    What `set_rtc` and `restart` say takes its turn among the elements. In a ring that this process fills the
    order of the calls decides. In a ring that another process fills it is the moments: elements from before
    that moment come first. One that is read after a restart although it was sent before belongs to the former
    life: it is discarded, and counted as stale.
    """

    def __init__(
        self,
        name: str,
        tunnel: Tunnel,
        *,
        vm: str,
        window: float,
        stamped: bool,
        trusted: bool,
        clock: Callable[[], int] | None = None,
    ) -> None:
        """`trusted`: the stamps are this process's own; others are believed only up to the present moment.

        `clock`: tells that moment (monotonic nanoseconds); without it, it is the one that `collect` is given.
        """
        self.name = name
        self._vm = vm
        self._tunnel = tunnel
        self._stamped = stamped
        self._trusted = trusted
        self._clock = clock
        self._window = window
        self._settler = self._new_settler()
        self._throttle = Throttle(THROTTLE_WINDOW_NS)
        #: A full ring is told in the log once a second: who fills it must not fill the disk as well.
        self._complaints = Throttle(NANOSECONDS)
        #: What `set_rtc` and `restart` said, in order.
        self._turns: deque[_Turn] = deque()
        self._taken = 0
        #: When this life began, while elements of the former one may still come; else 0.
        self._former_until_ns = 0
        self._unknown_types: set[int] = set()
        self._error: str | None = None
        self._last_event: dict[str, Any] | None = None
        self._counts = dict.fromkeys(COUNTS, 0)

    def fileno(self) -> int:
        """The tunnel's eventfd."""
        return self._tunnel.fileno()

    @property
    def error(self) -> str | None:
        """Why this source is disabled; None while it works."""
        return self._error

    @property
    def closed(self) -> bool:
        """Whether nobody reads the tunnel any more."""
        return self._tunnel.closed

    def send(self, event: RtcChange | VmEventType, stamp_ns: int | None) -> bool:
        """Put an event into the tunnel, from any thread; False when it is full or closed."""
        if isinstance(event, RtcChange):
            return self._tunnel.put(VmEventType.RTC_CHANGE, event.last_time, event.delta_time, stamp_ns)
        return self._tunnel.put(event, 0, 0, stamp_ns)

    def set_rtc(self, rtc: int, stamp_ns: int) -> None:
        """The guest's RTC showed `rtc` at that moment: takes its turn among the elements."""
        self._take_turn(rtc, stamp_ns)

    def restart(self, stamp_ns: int) -> None:
        """Forget what is pending and what is known of the RTC, in turn as `set_rtc`.

        What was due before `stamp_ns` is still told. Counts go on.
        """
        self._take_turn(None, stamp_ns)

    def collect(self, now_ns: int) -> list[Event]:
        """Read the ring once: whatever comes after this look has its own kick."""
        passed: list[Event] = []
        elements = self._read(now_ns)
        if self._clock is not None:
            # This thread may have been held up since `now_ns`: what was sent meanwhile is in `elements`, too.
            now_ns = self._clock()
        while self._turns:
            before = self._bytes_before(self._turns[0], elements, now_ns)
            if before > len(elements):
                break
            turn = self._turns.popleft()
            if before > 0:
                self._take(elements[:before], now_ns, passed)
                elements = elements[before:]
            if turn.rtc is not None:
                self._settler.set_rtc(turn.rtc, turn.stamp_ns)
            else:
                passed.extend(self._all_due(turn.stamp_ns))
                self._settler = self._new_settler()
                self._throttle.reset()
                if self._stamped and not self._trusted:
                    self._former_until_ns = turn.stamp_ns
        self._take(elements, now_ns, passed)
        if self._error is None:
            self._note_overrun(now_ns)
        return passed

    def _read(self, now_ns: int) -> bytes:
        if self._error is not None:
            return b""
        if self._trusted and self._settler.deadline is not None:
            # A sender that has taken its stamp has put its element, too, once the lock was free: none that was
            # sent before `collect` was called comes after the window was found to be over.
            with self._tunnel.lock:
                pass
        self._tunnel.acknowledge()
        try:
            elements = self._tunnel.drain()
        except RingError as error:
            self._error = str(error)
            _log.error("%s: source %s is disabled: %s", self._vm, self.name, error)
            return b""
        self._tunnel.weigh(bool(elements), now_ns)
        return elements

    def _bytes_before(self, turn: _Turn, elements: bytes, now_ns: int) -> int:
        """How much of `elements` has its turn before `turn`; more than there is when some is yet to be read."""
        if self._error is not None:
            return 0
        if self._trusted:
            return max(turn.position - self._taken, 0) * ELEMENT_SIZE
        return self._bytes_older(turn.stamp_ns, elements, now_ns)

    def _bytes_older(self, moment_ns: int, elements: bytes, now_ns: int) -> int:
        """How much of `elements` was sent before a moment. A stamp that goes back counts as the one before it."""
        if not self._stamped:
            return len(elements) if now_ns < moment_ns else 0
        for index, (*_, stamp) in enumerate(ELEMENT.iter_unpack(elements)):
            if self._moment(stamp, now_ns) >= moment_ns:
                return index * ELEMENT_SIZE
        return len(elements)

    def _note_overrun(self, now_ns: int) -> None:
        if refused := self._tunnel.take_overrun():
            # After the elements: a full ring refuses the newest, so what is missing is missing behind them.
            self._counts["overrun"] += refused
            self._settler.note_overrun(refused)
            if self._complaints.admit(0, now_ns):
                total = self._counts["overrun"]
                _log.warning("%s: source %s: ring full, %d events refused so far", self._vm, self.name, total)

    def deadline_ns(self) -> int | None:
        """When the next settled event is due, or the ring is to be looked at without a kick."""
        deadline, looking = self._settler.deadline, self._tunnel.resting_until_ns
        if looking is not None and self._error is None:
            return looking if deadline is None else min(int(deadline), looking)
        return None if deadline is None else int(deadline)

    def expire(self, now_ns: int) -> SettledRtcChange | None:
        """The next settled event that is due; None when there is none."""
        settled = self._settler.expire(now_ns)
        if settled is not None:
            counts = self._counts
            counts["settled"] += 1
            counts["lost"] += settled.lost
            counts["estimated"] += settled.estimated
            self._last_event = settled.as_json()
        return settled

    def status(self) -> dict[str, Any]:
        """Counts since the service started, the last event, and the error that disabled the source."""
        counts = self._counts
        return {
            **counts,
            "throttled": self._throttle.dropped,
            "dropped": counts["overrun"] + counts["stale"],
            "pending": self._settler.deadline is not None,
            "last_event": self._last_event,
            "error": self._error,
        }

    def close(self) -> None:
        """Close the tunnel; senders get False from now on."""
        self._tunnel.close()

    def _all_due(self, now_ns: int) -> Iterator[SettledRtcChange]:
        while (settled := self.expire(now_ns)) is not None:
            yield settled

    def _new_settler(self) -> RtcChangeSettler:
        return RtcChangeSettler(self._window, source=self.name, vm=self._vm, per_second=NANOSECONDS)

    def _take_turn(self, rtc: int | None, stamp_ns: int) -> None:
        with self._tunnel.lock:
            self._turns.append(_Turn(self._tunnel.put_count, rtc, stamp_ns))
            self._tunnel.wake()

    def _take(self, elements: bytes, now_ns: int, passed: list[Event]) -> None:
        """Hand elements to the settler or the throttle, by type."""
        if self._former_until_ns:
            elements = self._without_former(elements, now_ns)
        if not elements:
            return
        add = self._settler.add_link
        stamped = self._stamped
        changes = 0
        for event_type, last_time, delta_time, stamp in ELEMENT.iter_unpack(elements):
            stamp_ns = self._moment(stamp, now_ns) if stamped else now_ns
            if event_type == 0:
                if add(last_time, delta_time, stamp_ns, not stamped):
                    changes += 1
                else:
                    self._counts["skipped"] += 1
            elif event_type in (VmEventType.POWER_OFF, VmEventType.TRIPLE_FAULT):
                if self._throttle.admit(event_type, stamp_ns):
                    passed.append(VmEvent(VmEventType(event_type), self.name, self._vm))
                    self._counts["passed"] += 1
            else:
                self._skip(event_type)
        self._taken += len(elements) // ELEMENT_SIZE
        self._counts["raw"] += changes

    def _without_former(self, elements: bytes, now_ns: int) -> bytes:
        former = self._bytes_older(self._former_until_ns, elements, now_ns)
        self._counts["stale"] += former // ELEMENT_SIZE
        if former < len(elements):
            self._former_until_ns = 0
        return elements[former:]

    def _moment(self, stamp: int, now_ns: int) -> int:
        if self._trusted:
            return stamp
        return min(max(stamp, now_ns - OLDEST_STAMP_NS), now_ns) if stamp else now_ns

    def _skip(self, event_type: int) -> None:
        self._counts["skipped"] += 1
        if event_type not in self._unknown_types and len(self._unknown_types) < 16:
            self._unknown_types.add(event_type)
            _log.warning("%s: source %s: events of unknown type %d are skipped", self._vm, self.name, event_type)


class _Turn(NamedTuple):
    """Something said between elements: after `position` of this process, or by its stamp; no `rtc`: a restart."""

    position: int
    rtc: int | None
    stamp_ns: int
