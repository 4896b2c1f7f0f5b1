"""Seconds that an RTC has ticked while nobody knows at which fraction of our second it ticks.

The phase p (nanoseconds, 0 <= p < 10^9) is the only unknown of a clock that ticks on whole seconds: by the moment t it
has ticked ticks(t) = (t + p) // 10^9 times. What an RTC shows is then a `Form`: a number, plus and minus the ticks of
some moments. The phases that are still possible are kept as arcs of the circle. A moment has an uncertainty, which
grows with the time to the moment it is compared with, for two clocks drift apart: near a tick two numbers of ticks are
possible for it, and both are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness.judge.dates import SECOND_NS

Arcs = tuple[tuple[int, int], ...]
"""Sorted, disjoint half-open intervals of phases."""
EVERY_PHASE: Arcs = ((0, SECOND_NS),)

MARGIN_NS = 2_000_000
"""What a stamp may be wrong by beyond its uncertainty: between a guest's look at its clock and its access to a port."""
DRIFT_NS_PER_S = 100_000
"""By so much two clocks may drift apart in a second (100 ppm)."""


class Moment(NamedTuple):
    """A stamp in monotonic nanoseconds, and by how much it may be wrong either way.

    number: which moment it is, in their order: several may have the same stamp, and the clock may tick between them.
    """

    stamp_ns: int
    number: int = 0
    uncertainty_ns: int = 0

    def reach_ns(self, reference_ns: int) -> int:
        """By how much it may be wrong, seen from another moment."""
        drift_ns = abs(reference_ns - self.stamp_ns) * DRIFT_NS_PER_S // SECOND_NS
        return self.uncertainty_ns + MARGIN_NS + drift_ns


class Form(NamedTuple):
    """A number of seconds: the constant, and for each (moment, factor) so many times the ticks until then."""

    constant: int
    terms: tuple[tuple[Moment, int], ...] = ()

    def plus(self, other: Form, factor: int = 1) -> Form:
        """The sum; ticks that cancel out are gone."""
        counts = dict(self.terms)
        for moment, count in other.terms:
            counts[moment] = counts.get(moment, 0) + factor * count
        terms = tuple(sorted((moment, count) for moment, count in counts.items() if count))
        return Form(self.constant + factor * other.constant, terms)

    def ticked(self, since: Moment, until: Moment) -> Form:
        """What a clock that showed this at `since` shows at `until`."""
        return self if since == until else self.plus(Form(0, ((until, 1), (since, -1))))


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


def widened(arcs: Arcs, by_ns: int) -> Arcs:
    """The arcs with their ends so much further out."""
    if arcs == EVERY_PHASE or by_ns <= 0:
        return arcs
    if 2 * by_ns >= SECOND_NS:
        return EVERY_PHASE
    found = []
    for begin, end in ((begin - by_ns, end + by_ns) for begin, end in arcs):
        found.append((max(begin, 0), min(end, SECOND_NS)))
        if begin < 0:
            found.append((SECOND_NS + begin, SECOND_NS))
        if end > SECOND_NS:
            found.append((0, end - SECOND_NS))
    return join(found)


def _cells(arcs: Arcs, moments: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Parts of the arcs within which no number of ticks changes. moments: (stamp, reach)."""
    cuts = sorted({-edge % SECOND_NS for stamp, reach in moments for edge in (stamp - reach, stamp + reach)})
    for begin, end in arcs:
        at = begin
        for cut in cuts:
            if at < cut < end:
                yield at, cut
                at = cut
        yield at, end


def elapsed(arcs: Arcs, since: Moment, until: Moment) -> dict[int, Arcs]:
    """How many ticks there can have been between two moments, each with the phases at which there were."""
    if since == until:
        return {0: arcs}
    reach, since_reach = until.reach_ns(until.stamp_ns), since.reach_ns(until.stamp_ns)
    found: dict[int, list[tuple[int, int]]] = {}
    for cell in _cells(arcs, ((until.stamp_ns, reach), (since.stamp_ns, since_reach))):
        least = (until.stamp_ns - reach + cell[0]) // SECOND_NS - (since.stamp_ns + since_reach + cell[0]) // SECOND_NS
        most = (until.stamp_ns + reach + cell[0]) // SECOND_NS - (since.stamp_ns - since_reach + cell[0]) // SECOND_NS
        for ticks in range(max(0, least), max(0, most) + 1):
            found.setdefault(ticks, []).append(cell)
    return {ticks: join(cells) for ticks, cells in found.items()}


def solutions(forms: Sequence[Form], arcs: Arcs, reference_ns: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """What the forms can be together: values, and for how many phases (in ns) they are possible."""
    moments = sorted({moment for form in forms for moment, _ in form.terms})
    if not moments:
        yield SECOND_NS, tuple(form.constant for form in forms)
        return
    places = {moment: place for place, moment in enumerate(moments)}
    terms = [[(places[moment], count) for moment, count in form.terms] for form in forms]
    reaches = [(moment.stamp_ns, moment.reach_ns(reference_ns)) for moment in moments]
    for begin, end in _cells(arcs, reaches):
        ranges = [
            ((stamp - reach + begin) // SECOND_NS, (stamp + reach + begin) // SECOND_NS) for stamp, reach in reaches
        ]
        for ticks in _ascending(ranges):
            yield (
                end - begin,
                tuple(
                    form.constant + sum(count * ticks[place] for place, count in counts)
                    for form, counts in zip(forms, terms, strict=True)
                ),
            )


def _ascending(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
    """All choices of one number from each range that never fall."""
    found: list[tuple[int, ...]] = [()]
    for least, most in ranges:
        found = [(*chosen, n) for chosen in found for n in range(max([least, *chosen[-1:]]), most + 1)]
    return found
