"""The settled event of a run of announcing writes, also where several things are possible (worlds.py)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from harness.judge.chain import UNKNOWN
from harness.judge.expected import (
    ExpectedEvent,
    Option,
    PossibleEvent,
    PossibleRawEvent,
    RawEvent,
    Timing,
    certain_event,
)
from harness.judge.phase import Arcs, join, meet, width
from harness.judge.witness import Access
from harness.judge.worlds import Possible, Raw, Way, told_until_known

MOST_WAYS = 2_000
"""So many ways through several pieces of an update are looked at."""


def raw_of(write_no: int, access: Access, outcome: Possible) -> RawEvent:
    """An announcing write of a guest on a bench; its own numbers are those of the likeliest way."""
    raised = [(width(way.arcs), raw) for way in outcome.ways if (raw := way.trail[-1]) is not None]
    _, raw = max(raised, key=lambda each: each[0])
    return PossibleRawEvent(
        write_no=write_no,
        stamp_ns=access.stamp_ns,
        arrival_ns=access.arrival_ns,
        before=raw.told,
        after=raw.after,
        delta=raw.after - raw.told,
        estimated=raw.estimated_so_far,
        lost=bool(raw.lost_so_far),
        uncertainty_ns=access.uncertainty_ns,
        place=raw.trail_no,
        ways=outcome.ways,
    )


def event_of(raws: Sequence[RawEvent], timing: Timing) -> ExpectedEvent:
    """The settled event of any run of announcing writes."""
    if not raws[-1].ways:
        return certain_event(raws, timing)
    first, last = raws[0], raws[-1]
    options: dict[Option, int] = {}
    ends: set[int] = set()
    optional, undecidable = False, None
    for arcs, trail in _ways(raws):
        raised = [raw for raw in trail if raw is not None]
        if not raised:
            optional = True
            continue
        if len(raised) < len(trail) and any(_is_gap(one, other, timing) for one, other in itertools.pairwise(raised)):
            undecidable = "whether it is one update or two depends on when the RTC ticked"
        ends.add(raised[-1].stamp_ns)
        option = _option(raised)
        options[option] = options.get(option, 0) + width(arcs)
    if not options:
        undecidable = undecidable or "no phase of the RTC's tick explains what the guest did"
        options[Option(None, 0, None, len(raws), False, False, UNKNOWN, 0)] = 0
    ranked = tuple(sorted(options, key=lambda option: -options[option]))
    nominal = ranked[0]
    spread_ns = last.stamp_ns - min(ends, default=last.stamp_ns)
    return PossibleEvent(
        last_time=nominal.last_time,
        new_time=nominal.new_time,
        delta_time=nominal.delta_time,
        raw_events=nominal.raw_events,
        estimated=nominal.estimated,
        lost=bool(nominal.lost),
        first_ns=first.stamp_ns,
        last_ns=last.stamp_ns,
        due_ns=last.stamp_ns + timing.window_ns,
        last_arrival_ns=last.arrival_ns,
        latest_ns=last.stamp_ns + timing.grace_ns + last.uncertainty_ns,
        uncertainty_ns=last.uncertainty_ns + spread_ns,
        options=ranked,
        optional=optional,
        undecidable=undecidable,
    )


def _is_gap(one: Raw, other: Raw, timing: Timing) -> bool:
    return other.stamp_ns - one.stamp_ns >= timing.window_ns


def _ways(raws: Sequence[RawEvent]) -> Iterator[Way]:
    """The ways through the writes: where they are of several updates, or a reset is among them, all combinations."""
    pieces: list[list[RawEvent]] = []
    for raw in raws:
        if not pieces or raw.place == 0:
            pieces.append([])
        pieces[-1].append(raw)
    choices: list[list[Way]] = []
    for piece in pieces:
        first, last = piece[0].place, piece[-1].place
        merged: dict[tuple[Raw | None, ...], Arcs] = {}
        for arcs, trail in piece[-1].ways:
            part = trail[first : last + 1]
            merged[part] = join([*merged.get(part, ()), *arcs])
        choices.append([Way(arcs, part) for part, arcs in merged.items()])
    for combination in itertools.islice(itertools.product(*choices), MOST_WAYS):
        arcs = combination[0].arcs
        for way in combination[1:]:
            arcs = meet(arcs, way.arcs) or way.arcs
        yield Way(arcs, tuple(itertools.chain.from_iterable(way.trail for way in combination)))


def _option(raised: Sequence[Raw]) -> Option:
    """What the service must make of these raw events."""
    first, last = raised[0], raised[-1]
    delta, c_delta, unknown = _sums(raised)
    losses = {raw.lost_so_far for raw in raised}
    return Option(
        last_time=first.before,
        new_time=last.after,
        delta_time=None if unknown else delta,
        raw_events=len(raised),
        estimated=any(raw.estimated_so_far for raw in raised),
        lost=True if True in losses else None if None in losses else False,
        c_last=next((told for told in told_until_known(raised) if told != UNKNOWN), UNKNOWN),
        c_delta=c_delta,
    )


def _sums(raised: Sequence[Raw]) -> tuple[int, int, int]:
    """The sums of the deltas: as the service must have them, as told, and how many are not known.

    Each raw event has the sum of its trail up to it, so that only the ends of each piece are looked at.
    """
    delta = c_delta = unknown = begin = 0
    for place, raw in enumerate(raised):
        if place + 1 < len(raised) and raised[place + 1].trail_no > raw.trail_no:
            continue
        first = raised[begin]
        delta += raw.total - first.total + first.delta
        c_delta += raw.c_total - first.c_total + first.after - first.told
        unknown += raw.unknown - first.unknown + (first.before is None)
        begin = place + 1
    return delta, c_delta, unknown
