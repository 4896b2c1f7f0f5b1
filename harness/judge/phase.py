"""How often an RTC has ticked while nobody knows at which fraction of our second it ticks.

The phase p (nanoseconds, 0 <= p < 10^9) is the only unknown of a clock that ticks on whole seconds: by the moment t it
has ticked (t + p) // 10^9 times. The phases that are still possible are kept as arcs. A stamp may be wrong: near a tick
two numbers of ticks are possible for it, and both are taken. And two clocks drift apart, so that arcs widen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from harness.judge.dates import SECOND_NS

Arcs = tuple[tuple[int, int], ...]
"""Sorted, disjoint half-open intervals of phases."""
EVERY_PHASE: Arcs = ((0, SECOND_NS),)

MARGIN_NS = 2_000_000
"""What a stamp may be wrong by beyond its uncertainty: between a guest's look at its clock and its access to a port."""
DRIFT_NS_PER_S = 100_000
"""By so much two clocks may drift apart in a second (100 ppm)."""


def drift_ns(since_ns: int, until_ns: int) -> int:
    """By how much two clocks may have drifted apart between two stamps."""
    return abs(until_ns - since_ns) * DRIFT_NS_PER_S // SECOND_NS


def join(arcs: Sequence[tuple[int, int]]) -> Arcs:
    """The union."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(arcs):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return tuple(joined)


def meet(one: Arcs, other: Arcs) -> Arcs:
    """The intersection."""
    found = [(max(a, c), min(b, d)) for a, b in one for c, d in other]
    return join([(begin, end) for begin, end in found if begin < end])


def width(arcs: Arcs) -> int:
    """Of how many phases (in ns) they are."""
    return sum(end - begin for begin, end in arcs)


def widened(arcs: Arcs, by_ns: int) -> Iterator[tuple[int, Arcs]]:
    """The arcs with their ends so much further out; what is beyond a second comes as a turn, and what is left of it."""
    turns: dict[int, list[tuple[int, int]]] = {}
    for begin, end in ((begin - by_ns, end + by_ns) for begin, end in arcs):
        at = begin
        while at < end:
            turn = at // SECOND_NS
            until = min(end, (turn + 1) * SECOND_NS)
            turns.setdefault(turn, []).append((at - turn * SECOND_NS, until - turn * SECOND_NS))
            at = until
    for turn, parts in turns.items():
        yield turn, join(parts)


def counts(arcs: Arcs, stamp_ns: int, uncertainty_ns: int, at_least: int) -> dict[int, Arcs]:
    """How often the clock can have ticked by a stamp, each number with the phases at which it would have."""
    reach_ns = uncertainty_ns + MARGIN_NS
    first_ns, last_ns = stamp_ns - reach_ns, stamp_ns + reach_ns
    cuts = sorted((-first_ns % SECOND_NS, -last_ns % SECOND_NS))
    found: dict[int, list[tuple[int, int]]] = {}
    for begin, end in arcs:
        edges = [begin, *(cut for cut in cuts if begin < cut < end), end]
        for cell in itertools.pairwise(edges):
            least, most = (first_ns + cell[0]) // SECOND_NS, (last_ns + cell[0]) // SECOND_NS
            for count in range(max(least, at_least), most + 1):
                found.setdefault(count, []).append(cell)
    return {count: join(cells) for count, cells in found.items()}
