"""A settled event that must come: what it says, when it is due, and until when it is in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.judge.worlds import Way

NO_WAYS: tuple[Way, ...] = ()
CERTAIN: str | None = None
MOST_TOLD = 8
"""So many options stand in a verdict."""


@dataclass(frozen=True)
class Timing:
    """The judge's times, all in nanoseconds (ARCHITECTURE.md, "The judge's rules")."""

    window_ns: int = 1_000_000_000
    early_ns: int = 1_000_000
    late_ns: int = 150_000_000
    linger_ns: int = 6_000_000_000

    @property
    def grace_ns(self) -> int:
        """For how long after a write an event for it may come in time."""
        return self.window_ns + self.late_ns


@dataclass(frozen=True)
class RawEvent:
    """One announcing write, linked into the chain. write_no: its place in the list of all writes."""

    write_no: int
    stamp_ns: int
    arrival_ns: int
    before: int | None
    after: int
    delta: int | None
    estimated: bool
    lost: bool

    uncertainty_ns = 0
    place = 0
    ways = NO_WAYS


@dataclass(frozen=True)
class PossibleRawEvent(RawEvent):
    """The same on a bench. What is certain of it stands in `ways`: all in which it can have come to it.

    uncertainty_ns: how far its stamp may be wrong; place: where it is in the ways' trails.
    """

    uncertainty_ns: int = 0
    place: int = 0
    ways: tuple[Way, ...] = ()


class Option(NamedTuple):
    """One thing that a settled event may say where the phase of the RTC's tick is not known (possible.py).

    c_last, c_delta: what the service of ACRN's C code would make of the same raw events. lost: None where either may
    be.
    """

    last_time: int | None
    new_time: int
    delta_time: int | None
    raw_events: int
    estimated: bool
    lost: bool | None
    c_last: int
    c_delta: int


NO_OPTIONS: tuple[Option, ...] = ()


@dataclass(frozen=True)
class ExpectedEvent:
    """One settled event that must come, and when."""

    last_time: int | None
    new_time: int
    delta_time: int | None
    raw_events: int
    estimated: bool
    lost: bool
    first_ns: int
    last_ns: int
    due_ns: int
    last_arrival_ns: int
    latest_ns: int

    uncertainty_ns = 0
    options = NO_OPTIONS
    optional = False
    undecidable = CERTAIN

    def as_json(self) -> dict[str, object]:
        """The expectation as verdicts.jsonl holds it."""
        return {
            "last_time": self.last_time,
            "new_time": self.new_time,
            "delta_time": self.delta_time,
            "raw_events": self.raw_events,
            "estimated": self.estimated,
            "lost": self.lost,
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            "due_ns": self.due_ns,
            "last_arrival_ns": self.last_arrival_ns,
        }


@dataclass(frozen=True)
class PossibleEvent(ExpectedEvent):
    """The same on a bench: the likeliest of the options.

    uncertainty_ns: how far its due time may be wrong. optional: the change may have been none at all, and then nothing
    comes. undecidable: why it cannot be told what must come.
    """

    uncertainty_ns: int = 0
    options: tuple[Option, ...] = ()
    optional: bool = False
    undecidable: str | None = None

    def as_json(self) -> dict[str, object]:
        """The expectation as verdicts.jsonl holds it: with what else may come."""
        others = [[o.last_time, o.new_time, o.delta_time] for o in self.options[1:MOST_TOLD]]
        return {**super().as_json(), "uncertainty_ns": self.uncertainty_ns, "optional": self.optional, "or": others}


def latest_ns(last: RawEvent, timing: Timing) -> int:
    """Until when the event after the announcing write `last` is in time; trace lag is not its fault."""
    return max(last.stamp_ns, last.arrival_ns) + timing.window_ns + timing.late_ns + last.uncertainty_ns


def expected_event(
    first: RawEvent,
    last: RawEvent,
    count: int,
    delta: int | None,
    estimated: bool,
    lost: bool,
    timing: Timing,
) -> ExpectedEvent:
    """The settled event of `count` announcing writes from `first` to `last`."""
    return ExpectedEvent(
        last_time=first.before,
        new_time=last.after,
        delta_time=delta,
        raw_events=count,
        estimated=estimated,
        lost=lost,
        first_ns=first.stamp_ns,
        last_ns=last.stamp_ns,
        due_ns=last.stamp_ns + timing.window_ns,
        last_arrival_ns=last.arrival_ns,
        latest_ns=latest_ns(last, timing),
    )


def certain_event(raws: Sequence[RawEvent], timing: Timing) -> ExpectedEvent:
    """The settled event of any run of announcing writes of which everything is certain."""
    deltas = [raw.delta for raw in raws]
    delta = None if None in deltas else sum(delta for delta in deltas if delta is not None)
    estimated, lost = any(raw.estimated for raw in raws), any(raw.lost for raw in raws)
    return expected_event(raws[0], raws[-1], len(raws), delta, estimated, lost, timing)
