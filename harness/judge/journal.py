"""Reads the listener's journal: every object as received, and what happened to the stream it came on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SeenEvent:
    """One JSON object as received; ordinal: its place in the journal's list of objects, from 0.

    uncertainty_ns: how far t_ns may be wrong, where another machine's clock stamped it.
    """

    t_ns: int
    ordinal: int
    payload: Any
    uncertainty_ns: int = 0


@dataclass(frozen=True)
class Incident:
    """Something that should not happen on an event stream: "garbage" or "closed"."""

    t_ns: int
    fault: str
    text: str


@dataclass(frozen=True)
class Stall:
    """A time during which the harness itself stood still and could not have noted an event's arrival."""

    from_ns: int
    to_ns: int


OTHER_EVENTS = {1: "power-off", 2: "triple fault"}
"""VM events (by type) that are no RTC change."""
_RTC_CHANGE = frozenset(("last_time", "new_time", "delta_time", "raw_events"))


def is_other_event(payload: Any) -> bool:
    """Whether an object tells of another VM event and says nothing of an RTC: of those the witness knows nothing."""
    if not isinstance(payload, dict) or _RTC_CHANGE & payload.keys():
        return False
    kind = payload.get("vm_event")
    return type(kind) is int and kind in OTHER_EVENTS


class Journal:
    """The journal of one guest so far; lists are in order of arrival.

    seen: the objects that are to be judged, whatever they are; times: their arrivals.

    stalls: of the listener itself, whose stamps are then late. cpu_stalls: of a processor of its machine, on which
    the service may have run; stamps are right, but what is late then need not be the service's fault.
    starved: for how long the service was given no processor, all its waits in one piece before the look that found
    them: they excuse lateness, but say of no moment that it stood still then.
    attests: whether the listener says now and then that it is alive: then it was, until last_ns, and no longer.
    unread_spans: (from, to) of the times of which lines could not be read; to is None until another line is.
    open_spans: (from, to) of the times during which the listener was registered; to is None while it is.
    most_uncertain_ns: the largest uncertainty of an event's arrival.
    """

    def __init__(self) -> None:
        self.seen: list[SeenEvent] = []
        self.times: list[int] = []
        self.incidents: list[Incident] = []
        self.stalls: list[Stall] = []
        self.cpu_stalls: list[Stall] = []
        self.starved: list[Stall] = []
        self.unread_spans: list[tuple[int, int | None]] = []
        self.open_spans: list[tuple[int, int | None]] = []
        self.attests = False
        self.ended_ns: int | None = None
        self.last_ns = 0
        self.most_uncertain_ns = 0
        self._line = 0

    def feed(self, line: str) -> str | None:
        """Takes one complete line; returns what is wrong with it, or None."""
        self._line += 1
        try:
            self._take(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            if not self.unread_spans or self.unread_spans[-1][1] is not None:
                self.unread_spans.append((self.last_ns, None))
            return f"events.jsonl line {self._line} cannot be read ({error!r}): {line[:120]!r}"
        return None

    def _take(self, record: dict[str, Any]) -> None:
        kind = record["kind"]
        if kind == "stall":
            self.stalls.append(Stall(int(record["from_ns"]), int(record["to_ns"])))
            return
        if kind == "cpu-stall":
            self.cpu_stalls.append(Stall(int(record["from_ns"]), int(record["to_ns"])))
            return
        if kind == "starved":
            to_ns = int(record["t_ns"])
            self.starved.append(Stall(to_ns - int(record["waited_ns"]), to_ns))
            return
        t_ns = int(record["t_ns"])
        if self.unread_spans and self.unread_spans[-1][1] is None:
            self.unread_spans[-1] = (self.unread_spans[-1][0], t_ns)
        self.attests |= kind == "alive"
        if kind == "object":
            if not is_other_event(record["event"]):
                self._add(t_ns, record["event"], record.get("uncertainty_ns", 0))
        elif kind == "garbage":
            self.incidents.append(Incident(t_ns, "garbage", str(record.get("hex", ""))))
        elif kind == "closed":
            self.incidents.append(Incident(t_ns, "closed", str(record.get("reason", ""))))
            self._close(t_ns)
        elif kind == "end":
            self.ended_ns = t_ns
            self._close(t_ns)
        elif kind == "connected":
            self.open_spans.append((t_ns, None))
        elif kind == "ack" and self.open_spans and self.open_spans[-1][1] is None:
            self.open_spans[-1] = (t_ns, None)
        self.last_ns = max(self.last_ns, t_ns)

    def _add(self, t_ns: int, payload: Any, uncertainty_ns: int) -> None:
        arrival_ns = max(t_ns, self.times[-1]) if self.times else t_ns
        if uncertainty_ns:
            self.most_uncertain_ns = max(self.most_uncertain_ns, int(uncertainty_ns))
        self.seen.append(SeenEvent(arrival_ns, len(self.seen), payload, uncertainty_ns))
        self.times.append(arrival_ns)
        if t_ns < arrival_ns:
            raise ValueError(f"an event's arrival {t_ns} lies before the one before it")

    def _close(self, t_ns: int) -> None:
        if not self.open_spans:
            self.open_spans.append((0, t_ns))
        elif self.open_spans[-1][1] is None:
            self.open_spans[-1] = (self.open_spans[-1][0], t_ns)

    def listening_at(self, t_ns: int) -> bool:
        """Whether the listener was registered at that moment (a journal that does not say: always)."""
        if not self.open_spans:
            return True
        return any(begin <= t_ns and (end is None or t_ns < end) for begin, end in self.open_spans)

    def unread_within(self, from_ns: int, to_ns: int) -> bool:
        """Whether a line of that time could not be read: it may have been an event."""
        return any(begin <= to_ns and (end is None or from_ns <= end) for begin, end in self.unread_spans)

    def stalled_ns(self, from_ns: int, to_ns: int) -> int:
        """For how long in that time the listener, or a processor of its machine, stood still."""
        return _within([*self.stalls, *self.cpu_stalls], from_ns, to_ns)

    def delayed_ns(self, from_ns: int, to_ns: int) -> int:
        """For how long in that time something may have been late for want of a processor, whosever."""
        return _within([*self.stalls, *self.cpu_stalls, *self.starved], from_ns, to_ns)


def _within(stalls: Sequence[Stall], from_ns: int, to_ns: int) -> int:
    """How much of that time they cover together."""
    total = reached = 0
    for stall in sorted(stalls, key=lambda stall: stall.from_ns):
        begin = max(stall.from_ns, from_ns, reached)
        end = min(stall.to_ns, to_ns)
        total += max(0, end - begin)
        reached = max(reached, end)
    return total
