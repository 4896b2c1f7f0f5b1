"""The judge of one guest: reads its run directory as it grows and hands out verdicts as they ripen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from harness.errors import InfrastructureError
from harness.judge.acrn_dm import AcrnDmFaults
from harness.judge.agent import Item, disagreement
from harness.judge.attribution import Attribution
from harness.judge.background import Background
from harness.judge.evidence import Evidence
from harness.judge.findings import Case
from harness.judge.journal import SeenEvent
from harness.judge.readings import Readings
from harness.judge.ruling import Judgement
from harness.judge.updates import ExpectedEvent, Timing, Update
from harness.judge.verdict import Verdict
from harness.judge.witness import Access


@dataclass(frozen=True)
class ItemView:
    """What is known of an item so far.

    due_ns: when its last settled event is due; None where none is expected (silent).
    latest_ns: when the last in-time event may still come, or the silence of a silent item is complete.
    complete: the witness holds every write the agent reported.
    """

    item: str
    writes: tuple[Access, ...]
    expected: tuple[ExpectedEvent, ...]
    seen: tuple[SeenEvent, ...]
    due_ns: int | None
    latest_ns: int
    silent: bool
    complete: bool


class GuestJudge:
    """Judges one guest from the files of its run directory and from nothing else.

    errors: what is wrong with the evidence itself (one InfrastructureError each, appended as found); the
    items concerned are inconclusive.
    background_after_ns: an update no item has claimed for this long is background; it is so earlier if a
    later item has begun, since items report only when they are done.
    """

    def __init__(
        self,
        vm_dir: Path,
        *,
        window_ns: int = 1_000_000_000,
        early_ns: int = 1_000_000,
        late_ns: int = 150_000_000,
        linger_ns: int = 6_000_000_000,
        estimate_tolerance: int = 0,
        background_after_ns: int = 60_000_000_000,
    ) -> None:
        self.vm = vm_dir.name
        self.errors: list[InfrastructureError] = []
        self._dir = vm_dir
        self._timing = Timing(window_ns, early_ns, late_ns, linger_ns)
        self._evidence = Evidence(vm_dir, self._timing)
        self._docket, self._stream = self._evidence.docket, self._evidence.stream
        self._chronicle, self._journal = self._evidence.chronicle, self._evidence.journal
        self._readings = Readings(self._chronicle, self._journal, vm=self.vm, tolerance=estimate_tolerance)
        self._attribution = Attribution(self._chronicle, self._journal, self._readings, self._is_silent)
        acrn_dm = AcrnDmFaults(self._chronicle, self._journal, self._readings, self._attribution)
        self._judgement = Judgement(self._timing, self._stream, estimate_tolerance, acrn_dm)
        self._background = Background(
            self._evidence, self._readings, self._attribution, self._judgement, background_after_ns
        )
        self._open: dict[str, Item] = {}
        self._dirty: dict[str, Item] = {}
        self._emitted: dict[str, Verdict] = {}
        self._contradicted: set[str] = set()
        self._news = False

    def close(self) -> None:
        """Gives the files back."""
        self._evidence.close()

    def __enter__(self) -> GuestJudge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def last_known_ns(self) -> int:
        """The latest moment the files speak of: when a kept run is judged again, this is now."""
        return self._evidence.last_known_ns

    def refresh(self) -> None:
        """Reads what is new in trace.log (on a bench: witness.jsonl), events.jsonl and agent.jsonl.

        Raises OSError where one of them is there and cannot be read.
        """
        evidence = self._evidence
        seen = len(self._journal.seen)
        evidence.read()
        self._news |= len(self._journal.seen) > seen or bool(evidence.new_items or evidence.disturbed_ns)
        for item in evidence.new_items:
            self._open[item.item] = item
            self._attribution.review(item.start_ns)
        around_ns = self._timing.window_ns + self._timing.linger_ns
        for t_ns in evidence.disturbed_ns:
            holder = self._docket.holder_of(t_ns)
            near = self._docket.items_of(t_ns - around_ns, t_ns)
            self._dirty.update({item.item: item for item in (holder, *near) if isinstance(item, Item)})
        evidence.new_items.clear()
        evidence.disturbed_ns.clear()

    def item(self, item_id: str) -> ItemView | None:
        """What is known of an item so far; None before its line is in agent.jsonl."""
        item = self._docket.get(item_id)
        if item is None:
            return None
        self._assign()
        writes = self._writes(item)
        numbers = self._updates_of(item)
        updates = [self._chronicle.updates[number] for number in numbers]
        seen = [match.seen for number in numbers for match in self._attribution.matches(number)]
        return ItemView(
            item=item_id,
            writes=tuple(access for access, _ in writes),
            expected=tuple(event for update in updates for event in update.events),
            seen=tuple(sorted(seen, key=lambda each: each.t_ns)),
            due_ns=updates[-1].due_ns if updates else None,
            latest_ns=self._ripe_ns(item, updates),
            silent=not updates,
            complete=not self._lacks_writes(item, writes),
        )

    def decide(self, now_ns: int, *, final: bool = False) -> list[Verdict]:
        """The verdicts newly decided or revised at now_ns, a monotonic time.

        final: everything is in, decide all; the harness must have ended its journal before.
        """
        if final:
            attested = self._journal.attests
            self._stream.conclude(self._journal.last_ns if attested else self._evidence.last_known_ns)
            self._dirty = {item.item: item for item in self._docket.current()}
        elif not (self._news or self._is_due(now_ns)):
            return []
        self._news = False
        self._assign(everything=final)
        decided: list[Verdict] = []
        for item in {**self._dirty, **self._open}.values():
            verdict = self._judge(item, now_ns, final=final)
            if verdict is not None:
                self._open.pop(item.item, None)
                self._dirty.pop(item.item, None)
                decided += self._emit(verdict)
        for name in self._open:
            self._dirty.pop(name, None)
        for verdict in self._background.decide(now_ns, final=final):
            decided += self._emit(verdict)
        self.errors += self._evidence.trust.ripe(now_ns, final=final)
        return decided

    def _is_due(self, now_ns: int) -> bool:
        """Whether something may have ripened; most calls come while nothing has."""
        if self._dirty or self._evidence.unsettled or self._background.is_due(now_ns):
            return True
        return any(self._is_ripe(item, now_ns) for item in self._open.values())

    def _is_ripe(self, item: Item, now_ns: int) -> bool:
        """Whether all that may come in time for an item has had its time, or can come no more."""
        updates = [self._chronicle.updates[number] for number in self._updates_of(item)]
        return now_ns >= self._ripe_ns(item, updates) or not self._journal.listening_at(now_ns)

    def _assign(self, *, everything: bool = False) -> None:
        changed = self._attribution.assign(everything=everything)
        if self._chronicle.form is not None:  # what an update's event is may explain why the one before it had none
            changed |= {number - 1 for number in changed if number}
        for number in changed:
            for item in self._docket.items_of_update(number):
                self._dirty[item.item] = item
        self._background.touch(changed)
        for t_ns in self._attribution.new_strays_ns:
            item_then = self._docket.active_at(t_ns, self._timing.grace_ns)
            if item_then is not None:
                self._dirty[item_then.item] = item_then
        self._attribution.new_strays_ns.clear()

    def _is_silent(self, t_ns: int) -> bool:
        """Whether at that moment the guest was doing what must cause no event."""
        withheld = self._chronicle.withheld[-64:]
        if any(event.stamp_ns <= t_ns <= event.stamp_ns + self._timing.grace_ns for event in withheld):
            return True
        item = self._docket.active_at(t_ns, self._timing.grace_ns)
        return item is not None and not self._docket.updates_of(item)

    def _updates_of(self, item: Item) -> list[int]:
        """The updates whose events the item answers for, in the reading in force."""
        updates = self._chronicle.updates
        found = [(updates[number].absorbed_by, number) for number in self._docket.updates_of(item)]
        return list(dict.fromkeys(number if absorber is None else absorber for absorber, number in found))

    def _writes(self, item: Item) -> list[tuple[Access, bool]]:
        begin, end = self._docket.write_range(item)
        return list(zip(self._chronicle.writes[begin:end], self._chronicle.announced[begin:end], strict=True))

    def _lacks_writes(self, item: Item, writes: list[tuple[Access, bool]]) -> bool:
        return disagreement(item, [access for access, _ in writes], final=True) is not None

    def _ripe_ns(self, item: Item, updates: list[Update]) -> int:
        if not updates:
            return item.end_ns + self._timing.grace_ns
        withheld = self._docket.withheld_of(item)
        ends_ns = [update.latest_ns for update in updates]
        return max(ends_ns + [event.stamp_ns + self._timing.grace_ns for event in withheld])

    def _judge(self, item: Item, now_ns: int, *, final: bool) -> Verdict | None:
        """The verdict on an item; None while it cannot be told yet."""
        numbers = self._updates_of(item)
        updates = [self._chronicle.updates[number] for number in numbers]
        ripe_ns = self._ripe_ns(item, updates)
        if not final and now_ns < ripe_ns and self._journal.listening_at(now_ns):
            return None
        if not final and self._stream.undecided_close(now_ns):
            return None
        writes = self._writes(item)
        patience_over = final or now_ns >= item.end_ns + self._timing.linger_ns
        conflict = self._conflict(item, [access for access, _ in writes], final=patience_over)
        if conflict is None and not patience_over and self._lacks_writes(item, writes):
            return None
        rulings = [
            self._judgement.rule(
                self._chronicle.updates[number],
                self._attribution.matches(number),
                self._readings.wanted(number),
                None if final else now_ns,
                None if self._chronicle.form is None else self._parts(item, number),
            )
            for number in numbers
        ]
        withheld = self._docket.withheld_of(item)
        if not updates or withheld:
            silent_ns = withheld[0].stamp_ns if updates else item.start_ns
            rulings.append(self._judgement.rule_silence(silent_ns, ripe_ns, None if final else now_ns))
        if not final and any(ruling.waiting_until_ns is not None for ruling in rulings):
            return None
        begin_ns = min([item.start_ns, *(update.first_ns for update in updates)])
        case = Case(
            name=item.item,
            vm=self.vm,
            item=item,
            updates=updates,
            rulings=rulings,
            strays=self._strays_of(item),
            incidents=[
                incident
                for incident in self._stream.faulty_incidents(None if final else now_ns)
                if self._docket.holder_of(incident.t_ns) is item
            ],
            withheld=withheld,
            writes=writes,
            distrust=self._evidence.doubts(begin_ns, ripe_ns) + ([conflict] if conflict else []),
            expected=None if self._chronicle.form is None else list(self._expected(item, numbers)),
        )
        return case.verdict(now_ns)

    def _expected(self, item: Item, numbers: Sequence[int]) -> Iterator[ExpectedEvent]:
        for number in numbers:
            parts = self._parts(item, number)
            for part, event in enumerate(self._chronicle.updates[number].events):
                if parts is None or part in parts:
                    yield event

    def _parts(self, item: Item, number: int) -> frozenset[int] | None:
        """For which of an update's events the item answers; None: for all.

        On a bench a gap that stamps make too short joins what neighbours did; read apart, each has its own again.
        """
        events = self._chronicle.updates[number].events
        if len(events) < 2 or not events[0].options:
            return None
        begin_ns, end_ns = self._docket.span(item)
        own = [part for part, event in enumerate(events) if event.first_ns <= end_ns and event.last_ns >= begin_ns]
        return frozenset(own) if own else None

    def _strays_of(self, item: Item) -> list[SeenEvent]:
        strays = self._attribution.strays(item.start_ns, item.end_ns + self._timing.grace_ns)
        covers = self._chronicle.coverage.covers
        return [
            stray
            for stray in strays
            if self._docket.active_at(stray.t_ns, self._timing.grace_ns) is item
            and covers(stray.t_ns, stray.uncertainty_ns)
        ]

    def _conflict(self, item: Item, writes: list[Access], *, final: bool) -> str | None:
        """The contradiction of agent and witness, recorded once as an infrastructure error (rule 7)."""
        conflict = disagreement(item, writes, final=final)
        if conflict is not None and item.item not in self._contradicted:
            self._contradicted.add(item.item)
            self._evidence.trust.note(f"item {item.item}: {conflict}", self._evidence.witness)
        return conflict

    def _emit(self, verdict: Verdict) -> list[Verdict]:
        before = self._emitted.get(verdict.item)
        if before is not None:
            if before.same_finding(verdict):
                return []
            verdict = replace(verdict, revision=before.revision + 1)
        self._emitted[verdict.item] = verdict
        return [verdict]
