"""What each update must bring, also where a gap so close to the window admits two readings (rule 1)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from harness.judge.forms import Wanted
from harness.judge.journal import Journal, SeenEvent
from harness.judge.payload import Payload, differences, is_exact, likeness, payload_of
from harness.judge.updates import MOST_CUTS, Chronicle, ExpectedEvent, RawEvent, Update, event_of


class Readings:
    """The reading in force of every update: plain arithmetic's, unless what was heard speaks for another."""

    def __init__(self, chronicle: Chronicle, journal: Journal, *, vm: str, tolerance: int = 0) -> None:
        self._chronicle = chronicle
        self._journal = journal
        self._vm, self._tolerance = vm, tolerance
        self._wanted: dict[int, list[dict[str, object]]] = {}

    def wanted(self, number: int) -> list[dict[str, object]]:
        """The payloads an update must bring, in the order of its events."""
        found = self._wanted.get(number)
        if found is None:
            events = self._chronicle.updates[number].events
            found = self._wanted[number] = [self._wanted_of(event) for event in events]
        return found

    def _wanted_of(self, event: ExpectedEvent) -> dict[str, object]:
        if event.options and self._chronicle.form is not None:
            form = self._chronicle.form
            return Wanted(event, form, form.vm, self._tolerance)
        return payload_of(event, self._chronicle.source, self._vm)

    def forget(self, number: int) -> None:
        """The update has other events now."""
        self._wanted.pop(number, None)

    def is_exact(self, wanted: dict[str, object], payload: Payload) -> bool:
        """Whether an object is what must come, but for the tolerance on estimated times."""
        if type(wanted) is Wanted:
            return wanted.is_exact(payload)
        if self._tolerance and "estimated" in wanted:
            return not differences(wanted, payload, self._tolerance)
        return is_exact(wanted, payload)

    @staticmethod
    def likeness(wanted: dict[str, object], payload: Payload) -> int:
        """How many of the identifying fields are as they must be, from 0 to 3."""
        return wanted.likeness(payload) if isinstance(wanted, Wanted) else likeness(wanted, payload)

    def in_time(self, event: ExpectedEvent, seen: SeenEvent) -> bool:
        """Whether it came neither early nor late, as far as the stamps tell."""
        may_be_off_ns = event.uncertainty_ns + seen.uncertainty_ns
        early_ns = event.due_ns - self._chronicle.timing.early_ns - may_be_off_ns
        return early_ns <= seen.t_ns <= event.latest_ns + seen.uncertainty_ns

    def choose(self, from_ns: int) -> set[int]:
        """Chooses anew where something is new since from_ns; returns the updates now read otherwise."""
        updates, doubtful = self._chronicle.updates, self._chronicle.ambiguous
        place = len(doubtful)
        while place and updates[doubtful[place - 1]].latest_ns >= from_ns:
            place -= 1
        changed: set[int] = set()
        for number in doubtful[place:]:
            changed |= self._choose(number)
        return changed

    def _choose(self, number: int) -> set[int]:
        run = self._doubtful_run(number)
        before = [self._state(place) for place in run]
        for place in run:
            if self._chronicle.updates[place].absorbed_by == number:
                self._read_alone(place)
        self._read_alone(number)
        if not self._is_heard(number):
            self._try_to_absorb(run)
        changed = {place for place, state in zip(run, before, strict=True) if self._state(place) != state}
        for place in changed:
            self.forget(place)
        return changed

    def _state(self, number: int) -> tuple[int | None, list[ExpectedEvent]]:
        update = self._chronicle.updates[number]
        return update.absorbed_by, update.events

    def _doubtful_run(self, number: int) -> range:
        """The update and those before it that doubtful gaps join to it."""
        first = number
        while self._chronicle.updates[first].doubtful_before and number - first < MOST_CUTS:
            first -= 1
        return range(first, number + 1)

    def _read_alone(self, number: int) -> None:
        update = self._chronicle.updates[number]
        update.absorbed_by = None
        update.events = self._best_cut(update) if update.cuts else [update.plain()]

    def _try_to_absorb(self, run: range) -> None:
        """Reads the last of the run as one with those before it, if that and only that was heard."""
        last = self._chronicle.updates[run[-1]]
        raws: list[RawEvent] = last.raws
        for first in reversed(run[:-1]):
            update = self._chronicle.updates[first]
            if update.absorbed_by is not None or self._is_heard(first):
                return
            raws = update.raws + raws
            merged = event_of(raws, self._chronicle.timing)
            if self._heard(merged):
                last.events = [merged]
                for number in range(first, run[-1]):
                    self._chronicle.updates[number].events = []
                    self._chronicle.updates[number].absorbed_by = run[-1]
                return

    def _best_cut(self, update: Update) -> list[ExpectedEvent]:
        """The reading with the fewest events unheard, then with the fewest cuts.

        Dynamic programming over the ambiguous gaps: best[n] is the best reading up to the n-th of them.
        """
        ends = [*update.cuts, len(update.raws)]
        best: list[tuple[tuple[int, int, int], list[ExpectedEvent]]] = [((0, 0, 0), [])]
        for place, end in enumerate(ends):
            options = []
            for back in range(place + 1):
                event = event_of(update.raws[0 if back == 0 else ends[back - 1] : end], self._chronicle.timing)
                (unheard, silent, cuts), events = best[back]
                heard = self._heard(event)
                unheard += not heard and not event.optional
                silent -= heard and bool(event.options)  # on a bench one event may fit two readings: more explain more
                options.append(((unheard, silent, cuts + 1), [*events, event]))
            best.append(min(options, key=lambda option: option[0]))
        return best[-1][1]

    def _is_heard(self, number: int) -> bool:
        return any(self._heard(event) for event in self._chronicle.updates[number].events)

    def _heard(self, event: ExpectedEvent) -> bool:
        """Whether exactly this event came in time."""
        times, most_ns = self._journal.times, self._journal.most_uncertain_ns
        early_ns = self._chronicle.timing.early_ns + event.uncertainty_ns + most_ns
        first = bisect_left(times, event.due_ns - early_ns)
        end = bisect_right(times, event.latest_ns + most_ns)
        if first == end:
            return False
        wanted = self._wanted_of(event)
        return any(self.is_exact(wanted, self._journal.seen[place].payload) for place in range(first, end))
