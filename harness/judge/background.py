"""Judges what belongs to no plan item: updates the guest made on its own, events nothing explains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.judge.attribution import Attribution
from harness.judge.dm_clock import REGISTER_B, SET
from harness.judge.docket import SPAN_SLACK_NS
from harness.judge.evidence import Evidence
from harness.judge.findings import Case
from harness.judge.readings import Readings
from harness.judge.ruling import Judgement, Ruling
from harness.judge.updates import Update
from harness.judge.verdict import Verdict

_FAR_BACK = 256
"""So many writes back the halt is looked for."""

CERTAIN_AFTER_NS = 1_000_000_000
"""Beyond the reach of attribution, for trace lines that arrive late."""


class Background:
    """Lone updates, lone known defects, lone events.

    Their names count all of their kind on the guest, so that they are the same whenever they are decided:
    background-3 is the guest's third update.
    """

    def __init__(
        self,
        evidence: Evidence,
        readings: Readings,
        attribution: Attribution,
        judgement: Judgement,
        unclaimed_ns: int,
    ) -> None:
        self._evidence = evidence
        self._chronicle, self._docket = evidence.chronicle, evidence.docket
        self._readings = readings
        self._attribution = attribution
        self._judgement = judgement
        self._unclaimed_ns, self._grace_ns = unclaimed_ns, evidence.timing.grace_ns
        self._counted_updates = self._counted_withheld = 0
        self._unclaimed: list[int] = []
        self._unclaimed_withheld: list[int] = []
        self._open: set[int] = set()
        self._lone: set[int] = set()
        self._lone_withheld: set[int] = set()
        self._strays_from_ns = 0

    def touch(self, updates: Iterable[int]) -> None:
        """The events of these updates are other than before."""
        self._open |= self._lone.intersection(updates)

    def is_due(self, now_ns: int) -> bool:
        """Whether something may have ripened."""
        updates, withheld = self._chronicle.updates, self._chronicle.withheld
        if self._open or self._lone_withheld or self._unclaimed_withheld or self._counted_withheld < len(withheld):
            return True
        if self._attribution.strays(self._strays_from_ns, now_ns):
            return True
        waiting = [*self._unclaimed, *range(self._counted_updates, len(updates))]
        return any(now_ns >= updates[number].latest_ns for number in waiting)

    def decide(self, now_ns: int, *, final: bool) -> Iterator[Verdict]:
        """The verdicts that can be told at now_ns; some may have been told before."""
        self._sort_out(now_ns, final=final)
        incidents = self._evidence.stream.faulty_incidents(None if final else now_ns)
        if final or incidents:
            self._open |= self._lone
        for number in sorted(self._open):
            verdict = self._judge(number, now_ns, final=final)
            if verdict is not None:
                self._open.discard(number)
                yield verdict
        for number in sorted(self._lone_withheld):
            event = self._chronicle.withheld[number]
            until_ns = event.stamp_ns + self._grace_ns
            ruling = self._judgement.rule_silence(event.stamp_ns, until_ns, None if final else now_ns)
            if final or (now_ns >= until_ns and ruling.waiting_until_ns is None):
                self._lone_withheld.discard(number)
                if not self._was_before_anyone_listened(until_ns):
                    yield self._on_withheld(number, ruling).verdict(now_ns)
        yield from self._stray_verdicts(now_ns, final=final)
        for incident in incidents:
            if self._docket.holder_of(incident.t_ns) is None:
                name = f"background-stream-{self._evidence.journal.incidents.index(incident) + 1}"
                yield Case(name, self._evidence.vm, incidents=[incident]).verdict(now_ns)

    def _is_lone(self, t_ns: int, now_ns: int, *, final: bool) -> bool:
        """Whether no item to come can claim that moment any more."""
        begun_later = self._docket.last_start_ns - SPAN_SLACK_NS > t_ns
        return final or begun_later or now_ns >= t_ns + self._unclaimed_ns

    def _sort_out(self, now_ns: int, *, final: bool) -> None:
        """Parts the updates and known defects no item has claimed from those that one still may."""
        self._unclaimed += range(self._counted_updates, len(self._chronicle.updates))
        self._counted_updates = len(self._chronicle.updates)
        waiting = []
        for number in self._unclaimed:
            if self._docket.items_of_update(number):
                continue
            if self._is_lone(self._chronicle.updates[number].last_ns, now_ns, final=final):
                self._lone.add(number)
                self._open.add(number)
            else:
                waiting.append(number)
        self._unclaimed = waiting
        self._unclaimed_withheld += range(self._counted_withheld, len(self._chronicle.withheld))
        self._counted_withheld = len(self._chronicle.withheld)
        waiting = []
        for number in self._unclaimed_withheld:
            stamp_ns = self._chronicle.withheld[number].stamp_ns
            if self._docket.items_of(stamp_ns, stamp_ns):
                continue
            if self._is_lone(stamp_ns, now_ns, final=final):
                self._lone_withheld.add(number)
            else:
                waiting.append(number)
        self._unclaimed_withheld = waiting

    def _judge(self, number: int, now_ns: int, *, final: bool) -> Verdict | None:
        update = self._chronicle.updates[number]
        if not final and (now_ns < update.latest_ns or self._evidence.stream.undecided_close(now_ns)):
            return None
        matches = self._attribution.matches(number)
        unheard_of = not matches and self._was_before_anyone_listened(update.latest_ns)
        if unheard_of or update.absorbed_by is not None:
            return None
        ruling = self._judgement.rule(update, matches, self._readings.wanted(number), None if final else now_ns)
        if not final and ruling.waiting_until_ns is not None:
            return None
        mode, begin = self._how_written(update)
        end = update.raws[-1].write_no + 1
        return Case(
            name=f"background-{number + 1}",
            vm=self._evidence.vm,
            updates=[update],
            rulings=[ruling],
            incidents=[
                incident
                for incident in self._evidence.stream.faulty_incidents(None if final else now_ns)
                if self._docket.holder_of(incident.t_ns) == number
            ],
            writes=zip(self._chronicle.writes[begin:end], self._chronicle.announced[begin:end], strict=True),
            distrust=self._evidence.doubts(update.first_ns, update.latest_ns),
            mode=mode,
            cut=any(self._evidence.stream.is_cut(e.first_ns, e.due_ns, e.latest_ns) for e in update.events),
        ).verdict(now_ns)

    def _how_written(self, update: Update) -> tuple[str | None, int]:
        """Whether the RTC was halted meanwhile, and the place of the first write: while it is, none announces."""
        writes, announced = self._chronicle.writes, self._chronicle.announced
        first = update.raws[0].write_no
        for place in range(first - 1, max(-1, first - 1 - _FAR_BACK), -1):
            if writes[place].register != REGISTER_B:
                continue
            halted = bool(writes[place].value & SET)
            return ("halted", first if any(announced[place:first]) else place) if halted else ("running", first)
        return None, first

    def _was_before_anyone_listened(self, t_ns: int) -> bool:
        """What firmware and kernel do while the guest boots is nobody's business."""
        spans = self._evidence.journal.open_spans
        return bool(spans) and t_ns < spans[0][0]

    def _on_withheld(self, number: int, ruling: Ruling) -> Case:
        event = self._chronicle.withheld[number]
        until_ns = event.stamp_ns + self._grace_ns
        return Case(
            name=f"background-defect-{number + 1}",
            vm=self._evidence.vm,
            rulings=[ruling],
            withheld=[event],
            strays=self._attribution.strays(event.stamp_ns, until_ns),
            distrust=self._evidence.doubts(event.stamp_ns, until_ns),
            cut=self._evidence.stream.is_cut(event.stamp_ns, event.stamp_ns, until_ns),
        )

    def _stray_verdicts(self, now_ns: int, *, final: bool) -> Iterator[Verdict]:
        """Events that belong to no update and came while no item was being done."""
        until_ns = now_ns if final else now_ns - self._attribution.reach_ns - CERTAIN_AFTER_NS
        from_ns = 0 if final else self._strays_from_ns
        for stray in self._attribution.strays(from_ns, until_ns):
            if not self._is_lone(stray.t_ns, now_ns, final=final):
                break
            self._strays_from_ns = stray.t_ns + 1
            uncovered = not self._chronicle.coverage.covers(stray.t_ns, stray.uncertainty_ns)
            nobody = uncovered or self._docket.active_at(stray.t_ns, self._grace_ns) is None
            if nobody and not self._near_lone_defect(stray.t_ns):
                name = f"background-event-{stray.ordinal + 1}"
                reach_ns = self._attribution.reach_ns
                doubts = [] if uncovered else self._evidence.doubts(stray.t_ns - reach_ns, stray.t_ns)
                case = Case(name, self._evidence.vm, strays=[stray], distrust=doubts, uncovered=uncovered)
                yield case.verdict(now_ns)

    def _near_lone_defect(self, t_ns: int) -> bool:
        withheld = self._chronicle.withheld[-64:]
        return any(event.stamp_ns <= t_ns <= event.stamp_ns + self._grace_ns for event in withheld)
