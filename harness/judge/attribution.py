"""Says of every received event which update it belongs to, so that a wrong one is blamed where it went wrong.

An event never leaves an update without a trace: each is given to exactly one update, or to none.

1. An event that is exactly the expected one, within its time, is that update's event.
2. Any other that is exactly what some update near in time expects is that update's: late, early or doubled.
3. What is left was altered. If two of its three times tell which update it was, it is that one's. Otherwise
   it belongs to the update in whose time it came and that has no event of its own; then to the latest begun
   that has none; then to the latest begun at all. While the guest does what must cause no event, it belongs
   to no update.

Each answer depends only on what is near in time, so it is the same whether the files were read at once or as
they grew; `assign(everything=True)` makes sure of it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.judge.journal import Journal, SeenEvent
from harness.judge.readings import Readings
from harness.judge.updates import Chronicle, ExpectedEvent

FAR_NS = 60_000_000_000
"""How long after its time a payload is still recognised as an update's."""
MARGIN_NS = 500_000_000
TELLING = 2
"""So many of the three identifying fields tell whose event it was."""


@dataclass(frozen=True)
class Match:
    """A received event and the expectation it belongs to: part is its place in the update's events."""

    seen: SeenEvent
    part: int
    exact: bool
    in_time: bool
    likeness: int


class Attribution:
    """The events of one guest and whose they are, kept up to date as both sides grow.

    new_strays_ns: arrivals of events found to belong to no update; collects until the caller empties it.
    """

    def __init__(
        self,
        chronicle: Chronicle,
        journal: Journal,
        readings: Readings,
        is_silent: Callable[[int], bool] = lambda t_ns: False,
    ) -> None:
        self._chronicle = chronicle
        self._journal = journal
        self._timing = chronicle.timing
        self._readings = readings
        self._is_silent = is_silent
        self._owner: list[int | None] = []
        self._matches: dict[int, dict[int, Match]] = {}
        self._before: dict[int, dict[int, Match]] = {}
        self._left_over: list[int] = []
        self._review_from_ns: int | None = None
        self.new_strays_ns: list[int] = []

    def matches(self, update: int) -> list[Match]:
        """The events that belong to an update, in order of arrival."""
        found = self._matches.get(update)
        return [found[ordinal] for ordinal in sorted(found)] if found else []

    def strays(self, from_ns: int, to_ns: int) -> list[SeenEvent]:
        """The events of that time that belong to no update."""
        times, seen = self._journal.times, self._journal.seen
        begin = bisect_left(self._left_over, bisect_left(times, from_ns))
        end = bisect_left(self._left_over, bisect_right(times, to_ns))
        return [seen[ordinal] for ordinal in self._left_over[begin:end] if self._owner[ordinal] is None]

    def review(self, from_ns: int) -> None:
        """Something else that counts has become known (an item): look again at what is in doubt."""
        if self._review_from_ns is None or from_ns < self._review_from_ns:
            self._review_from_ns = from_ns

    def assign(self, *, everything: bool = False) -> set[int]:
        """Takes in what has come since the last call; returns the updates whose events are now others."""
        begin, from_ns = self._beginning(everything)
        if from_ns is None:
            return set()
        self._before.clear()
        self._owner += [None] * (len(self._journal.seen) - len(self._owner))
        touched = self._readings.choose(from_ns)
        for number in touched:
            begin = min(begin, bisect_left(self._journal.times, self._chronicle.firsts[number]))
        self._assign_in_time(begin)
        self._assign_left_over(from_ns)
        return touched | {number for number, found in self._before.items() if self._matches.get(number) != found}

    def _beginning(self, everything: bool) -> tuple[int, int | None]:
        """From which event and from which moment on answers may change; None: nothing is new."""
        chronicle, journal = self._chronicle, self._journal
        begin, starts = len(self._owner), []
        if chronicle.changed_from is not None:
            for number in range(chronicle.changed_from, len(chronicle.updates)):
                self._readings.forget(number)
            starts.append(chronicle.firsts[chronicle.changed_from])
            begin = min(begin, bisect_left(journal.times, starts[0]))
            chronicle.changed_from = None
        if begin < len(journal.seen):
            starts.append(journal.times[begin])
        if self._review_from_ns is not None:
            starts.append(self._review_from_ns)
            self._review_from_ns = None
        if everything:
            return 0, -FAR_NS
        return begin, min(starts, default=None)

    @property
    def reach_ns(self) -> int:
        """How far from its update an event is still looked at on account of its time alone."""
        return self._timing.linger_ns + self._timing.window_ns + MARGIN_NS

    def _give(self, ordinal: int, update: int | None, match: Match | None) -> None:
        owner = self._owner[ordinal]
        if owner is not None:
            self._remember(owner).pop(ordinal, None)
        self._owner[ordinal] = update
        if update is not None and match is not None:
            self._remember(update)[ordinal] = match

    def _remember(self, update: int) -> dict[int, Match]:
        """An update's matches, which are about to change; what they were is kept to compare."""
        found = self._matches.setdefault(update, {})
        self._before.setdefault(update, dict(found))
        return found

    def _updates_in_time(self, t_ns: int) -> Iterator[int]:
        """The updates, latest first, within whose time an event at t_ns may be."""
        updates = self._chronicle.updates
        for number in range(bisect_right(self._chronicle.firsts, t_ns) - 1, -1, -1):
            if updates[number].latest_ns < t_ns:
                return
            yield number

    def _assign_in_time(self, begin: int) -> None:
        del self._left_over[bisect_left(self._left_over, begin) :]
        for ordinal in range(begin, len(self._journal.seen)):
            seen = self._journal.seen[ordinal]
            found = self._find_in_time(seen)
            if found is None:
                self._left_over.append(ordinal)
                self._give(ordinal, None, None)
            else:
                number, part = found
                self._give(ordinal, number, Match(seen, part, exact=True, in_time=True, likeness=3))

    def _find_in_time(self, seen: SeenEvent) -> tuple[int, int] | None:
        for number in self._updates_in_time(seen.t_ns - seen.uncertainty_ns):
            events = self._chronicle.updates[number].events
            for part, wanted in enumerate(self._readings.wanted(number)):
                if self._readings.in_time(events[part], seen) and self._readings.is_exact(wanted, seen.payload):
                    return number, part
        return None

    def _assign_left_over(self, from_ns: int) -> None:
        begin = bisect_left(self._journal.times, from_ns - self.reach_ns)
        doubtful = self._left_over[bisect_left(self._left_over, begin) :]
        for ordinal in doubtful:
            self._give(ordinal, None, None)
        altered = []
        for ordinal in doubtful:
            number, match = self._find_by_payload(self._journal.seen[ordinal])
            self._give(ordinal, number, match)
            if number is None:
                altered.append(ordinal)
        found = [(ordinal, *self._find_by_likeness(self._journal.seen[ordinal])) for ordinal in altered]
        for ordinal, number, match in found:
            self._give(ordinal, number, match)
            if number is None:
                self.new_strays_ns.append(self._journal.times[ordinal])

    def _candidates(self, t_ns: int) -> Iterator[tuple[int, int, ExpectedEvent, dict[str, object]]]:
        """The expectations (update, part) that an event at t_ns could belong to at all."""
        chronicle = self._chronicle
        first = bisect_left(chronicle.lasts, t_ns - self._timing.window_ns - FAR_NS)
        end = bisect_right(chronicle.firsts, t_ns + self.reach_ns)
        for number in range(first, end):
            events = chronicle.updates[number].events
            for part, wanted in enumerate(self._readings.wanted(number)):
                yield number, part, events[part], wanted

    def _has_own(self, number: int, part: int) -> bool:
        """Whether an expectation has an event that is exactly as expected, whenever it came."""
        found = self._matches.get(number)
        return found is not None and any(match.part == part and match.exact for match in found.values())

    def _find_by_payload(self, seen: SeenEvent) -> tuple[int | None, Match | None]:
        best, best_key = None, (False, 0)
        for number, part, event, wanted in self._candidates(seen.t_ns):
            if self._readings.is_exact(wanted, seen.payload):
                key = (not self._has_own(number, part), -abs(seen.t_ns - event.due_ns))
                if best is None or key > best_key:
                    best, best_key = (number, part), key
        if best is None:
            return None, None
        return best[0], Match(seen, best[1], exact=True, in_time=False, likeness=3)

    def _find_by_likeness(self, seen: SeenEvent) -> tuple[int | None, Match | None]:
        best: tuple[int, Match] | None = None
        best_key: tuple[bool, bool, bool, bool, int, int] | None = None
        for number, part, event, wanted in self._candidates(seen.t_ns):
            like = self._readings.likeness(wanted, seen.payload)
            in_time = self._readings.in_time(event, seen)
            until_ns = event.latest_ns + self._timing.linger_ns + MARGIN_NS
            if like < TELLING and not event.first_ns <= seen.t_ns <= until_ns:
                continue
            lacks = not self._has_own(number, part)
            key = (like >= TELLING, lacks and in_time, lacks, in_time, like, event.first_ns)
            if best_key is None or key > best_key:
                best, best_key = (number, Match(seen, part, exact=False, in_time=in_time, likeness=like)), key
        if best is None or best_key is None:
            return None, None
        told, lacks_now, lacks, in_time, _, _ = best_key
        if not (told or lacks or in_time) and self._is_silent(seen.t_ns):
            return None, None
        if not (told or lacks_now) and not self._chronicle.coverage.covers(seen.t_ns, seen.uncertainty_ns):
            return None, None
        return best
