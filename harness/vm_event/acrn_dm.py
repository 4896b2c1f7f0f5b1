"""A running `acrn-dm` as an event source: a client of its monitor socket that passes on what it tells.

What `acrn-dm` sends is settled already and passes at once. It accepts one connection at a time, so whoever else has
commands for it has them relayed here. Rehearsed against our device model's `--acrn-monitor`, which does as ACRN's
source says; not run on ACRN. What that source says, and what follows:

- A connection beyond the one that is served waits in the backlog, without a word. It is kept, and is served once the
  other client has left. (A full backlog refuses at once: then it is tried again.)
- A command is read from a buffer of 4,096 bytes whose newlines become NULs; of several objects in it the first counts
  and the rest is dropped. So there is one command under way at a time, on one line.
- An argument is cut at 319 bytes: a longer one is refused here. A command without an argument is executed with the one
  of the same command before it.
- What `acrn-dm` cannot parse, and a command it does not know, gets no answer at all. `destroy` is refused for a
  real-time VM.
- Everything it sends has a descriptor attached, its own end of this connection: the kernel discards it here.
- Its answers and its events share one buffer without a lock: what comes may be garbled.
- Between two connections it has no event client, and what happens then is told to nobody.
- Its service sums across a broken date, and may leave the type of an event unset (ACRN.md, "Known traps"). What comes
  is passed as it is; but a `last_time` of -1 means that it was not known: `last_time` and `delta_time` are then None,
  and `new_time` is what the sum says, which is right if the update was made of one raw event (`estimated` is set).
"""

from __future__ import annotations

import logging

from .abi import VmEventType
from .acrn_dm_link import AcrnDmLink, Done
from .events import Event, SettledRtcChange, VmEvent
from .settler import BROKEN
from .throttle import Throttle
from .typed import TYPE_CHECKING, Any
from .wire import Garbage

if TYPE_CHECKING:
    from pathlib import Path

#: How long an answer of `acrn-dm` may take.
PATIENCE_NS = 5_000_000_000

_log = logging.getLogger(__name__)


class AcrnDmSource:
    """The events of an `acrn-dm`; implements `Source`.

    `error` is never set: whatever goes wrong is told by `status` (`connected`, `registered`, `last_error`) and in the
    log, and tried again, after 50 ms at first and after 2 s at last.
    """

    def __init__(self, path: Path | str, *, vm: str, name: str = "monitor", patience_ns: int = PATIENCE_NS) -> None:
        """The first attempt to connect is made by the service's thread, at once.

        Raises OSError when descriptors run out.
        """
        self.name = name
        self._vm = vm
        self._link = AcrnDmLink(path, vm, patience_ns)
        self._last_event: dict[str, Any] | None = None
        self._counts = dict.fromkeys(("settled", "estimated", "passed", "skipped", "garbage"), 0)
        self._unknown_types: set[int] = set()
        #: Garbage is told in the log once a second: who sends it must not fill the disk as well.
        self._complaints = Throttle(1_000_000_000)

    def fileno(self) -> int:
        """Readable when there is something to collect: the connection changes, this descriptor does not."""
        return self._link.fileno()

    @property
    def error(self) -> str | None:
        """None: see the class."""
        return None

    def relay(self, name: str, argument: str | None, done: Done) -> None:
        """Have `acrn-dm` carry out `destroy` or `blkrescan`. From any thread; waits for nothing.

        `done` is called exactly once, with whether `acrn-dm` acknowledged the command: on the service's thread, or on
        this one when the command cannot be taken. False without a connection, for an argument that `acrn-dm` would cut,
        when no answer comes in time, and when the connection ends before it. It must not raise.
        """
        self._link.command(name, argument, done)

    def collect(self, now_ns: int) -> list[Event]:
        """Connect if it is time to, send what is to be relayed, and read what there is; every event passes."""
        events = []
        for thing in self._link.turn(now_ns):
            event = thing if isinstance(thing, Garbage) else self._event(thing)
            if isinstance(event, Garbage):
                self._note_garbage(event, now_ns)
            elif event is not None:
                self._last_event = event.as_json()
                events.append(event)
        return events

    def deadline_ns(self) -> int | None:
        """When to connect again, or when an answer is overdue; None while there is nothing to do but wait."""
        return self._link.deadline_ns()

    def expire(self, now_ns: int) -> SettledRtcChange | None:
        """None: what comes is settled already."""
        return None

    def set_rtc(self, rtc: int, stamp_ns: int) -> None:
        """Nothing: `acrn-dm` knows its guest's RTC."""

    def restart(self, stamp_ns: int) -> None:
        """Nothing: `acrn-dm` restarts its own service, and nothing is pending here."""

    def status(self) -> dict[str, Any]:
        """Counts since the service started.

        connected: there is a connection, which may still wait in `acrn-dm`'s backlog; registered: it has accepted us as
        its event client; reconnects: connections after the first; events: all that passed; relayed: commands that were
        answered; garbage: pieces of the stream that were no event and no answer; last_error: what went wrong last,
        which may be over.
        """
        link, counts = self._link, dict(self._counts)
        return {
            **counts,
            "events": counts["settled"] + counts["passed"],
            "relayed": link.answered,
            "connected": link.connected,
            "registered": link.registered,
            "reconnects": max(0, link.connections - 1),
            "last_event": self._last_event,
            "last_error": link.last_error,
            "error": None,
        }

    def close(self) -> None:
        """Hang up; commands that are not answered have failed."""
        self._link.close()

    def _event(self, message: dict[str, Any]) -> Event | Garbage | None:
        """The event that this is; None for one of a type that is not known, which is counted."""
        kind = message.get("vm_event")
        if type(kind) is not int:
            return Garbage(ascii(message).encode(), "neither an event nor an answer to anything")
        if kind == VmEventType.RTC_CHANGE:
            return self._rtc_change(message)
        if kind in (VmEventType.POWER_OFF, VmEventType.TRIPLE_FAULT):
            self._counts["passed"] += 1
            return VmEvent(VmEventType(kind), self.name, self._vm)
        self._counts["skipped"] += 1
        if kind not in self._unknown_types and len(self._unknown_types) < 16:
            self._unknown_types.add(kind)
            _log.warning("%s: source %s: events of unknown type %d are skipped", self._vm, self.name, kind)
        return None

    def _rtc_change(self, message: dict[str, Any]) -> SettledRtcChange | Garbage:
        try:
            last_time, delta_time = _seconds(message["last_time"]), _seconds(message["delta_time"])
        except (KeyError, ValueError):
            return Garbage(ascii(message).encode(), "an RTC change without its times")
        self._counts["settled"] += 1
        new_time = last_time + delta_time
        unknown = last_time == BROKEN
        self._counts["estimated"] += unknown
        return SettledRtcChange(
            None if unknown else last_time,
            new_time,
            None if unknown else delta_time,
            None,
            estimated=unknown,
            source=self.name,
            vm=self._vm,
        )

    def _note_garbage(self, garbage: Garbage, now_ns: int) -> None:
        self._counts["garbage"] += 1
        if self._complaints.admit(0, now_ns):
            _log.warning("%s: source %s: garbage: %s: %r", self._vm, self.name, garbage.reason, garbage.data[:64])


def _seconds(value: object) -> int:
    """Whole seconds. Raises ValueError. cJSON's numbers are doubles, and large ones have an exponent."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise ValueError(f"{value!r} is no time")
    return value
