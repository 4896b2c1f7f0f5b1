"""Puts together the verdict on an item or on a lone update from the rulings on all that belongs to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.judge import verdict as words
from harness.judge.acrn_dm import ENDLESS_ALARM, MERGED, NEVER_STARTED, NO_TYPE, OVERFLOW, SURVIVED
from harness.judge.agent import Item
from harness.judge.expected import ExpectedEvent
from harness.judge.forms import BROKEN_DATE_SUM
from harness.judge.journal import Incident, SeenEvent
from harness.judge.ruling import Ruling, duration
from harness.judge.updates import Update, WithheldEvent
from harness.judge.verdict import Seen, Verdict, ordered_faults
from harness.judge.witness import Access

VRTC_DEFECTS = {
    "broken-unhalt": "un-halt with a valid date after a broken clock: no event, as is known of this vRTC",
}
"""Where ACRN's vRTC itself is wrong, by name (ACRN.md, "Special cases"): no event is what must be seen.

The hypervisor's has none: however odd a clock it is, what it announces is what it does, and so the right answer.
"""

ACRN_DM_DEFECTS = {
    BROKEN_DATE_SUM: "summed over a date that was none in between: last_time or delta_time is wrong, as is known",
    MERGED: "the event did not come, and the next one carried the sums of both, as is known",
    NEVER_STARTED: "no event ever came from this acrn-dm, whose event thread did not start, as is known",
    SURVIVED: "what was pending when the service was restarted is in the first event after it, as is known",
    NO_TYPE: "the type of the event was not set, so that it says nothing, as is known",
    OVERFLOW: "more raw events than acrn-dm's ring holds, and what did not fit is not in the sum, as is known",
    ENDLESS_ALARM: "the clock was set backwards with the alarm interrupt enabled: acrn-dm counts for ever, as is known",
}
"""Where acrn-dm's own event service is wrong, by name (ACRN.md, "Known traps")."""

KNOWN_DEFECTS = {**VRTC_DEFECTS, **ACRN_DM_DEFECTS}


_SPARED = "right where acrn-dm is known to be wrong: the known acrn-dm defect {} did not occur"
_UNCOVERED = "an event came while no witness told what the guest did"


@dataclass
class Case:
    """All that belongs to one item (or, item None, to a lone update or event) and was found out about it.

    expected: what must come of it, where that is not all that must come of its updates.
    """

    name: str
    vm: str
    item: Item | None = None
    updates: Sequence[Update] = ()
    rulings: Sequence[Ruling] = ()
    strays: Sequence[SeenEvent] = ()
    incidents: Sequence[Incident] = ()
    withheld: Sequence[WithheldEvent] = ()
    writes: Iterable[tuple[Access, bool]] = ()
    distrust: list[str] = field(default_factory=list)
    mode: str | None = None
    cut: bool = False
    uncovered: bool = False
    expected: Sequence[ExpectedEvent] | None = None

    def verdict(self, now_ns: int) -> Verdict:
        """The verdict: what cannot be trusted is inconclusive, else a fault counts more than an excuse."""
        faults, sentences, seen = self._findings()
        excuses = [excuse for ruling in self.rulings for excuse in ruling.excuses]
        failed = self.item is not None and not self.item.ok
        defect = self.withheld[0].defect if self.withheld else None
        by_acrn_dm = spared = None
        uncertain_ns = 0
        for ruling in self.rulings:
            if ruling.uncertain_ns > uncertain_ns:  # noqa: PLR1730 - no call for what is mostly 0
                uncertain_ns = ruling.uncertain_ns
            if ruling.defects or ruling.spared:
                by_acrn_dm = by_acrn_dm or next(iter(ruling.defects), None)
                spared = spared or next(iter(ruling.spared), None)
        if self.distrust:
            word, sentences, faults = words.INCONCLUSIVE, self.distrust, []
        elif self.uncovered:
            word, sentences, faults = words.INCONCLUSIVE, [_UNCOVERED], []
        elif faults:
            word = words.PRODUCT_FAULT
        elif failed or excuses:
            word = words.INCONCLUSIVE
            agent = [f"the agent failed: {self.item.error}"] if failed and self.item is not None else []
            sentences = agent + excuses
        elif defect is not None:
            word, sentences = words.KNOWN_DEFECT, [KNOWN_DEFECTS[defect]]
        elif by_acrn_dm is not None:
            word, defect, sentences = words.KNOWN_ACRN_DM_DEFECT, by_acrn_dm, [ACRN_DM_DEFECTS[by_acrn_dm]]
        else:
            word = words.PASS
            if spared is not None:
                sentences = [*sentences, _SPARED.format(spared)]
        latencies = [latency for ruling in self.rulings for latency in ruling.latencies_ms]
        item = self.item
        return Verdict(
            item=self.name,
            vm=self.vm,
            verdict=word,
            role="background" if item is None else item.role,
            mode=self.mode if item is None else item.mode,
            order=None if item is None else item.order,
            diagnosis="; ".join(dict.fromkeys(sentences)),
            faults=ordered_faults(faults),
            defect=defect,
            expected=tuple(
                self.expected
                if self.expected is not None
                else [event for update in self.updates for event in update.events]
            ),
            seen=tuple(seen),
            writes=tuple(
                (access.stamp_ns, access.register, access.value, announced) for access, announced in self.writes
            ),
            latency_ms=round(max(latencies), 3) if latencies else None,
            ambiguous=any(update.cuts or update.events[0].first_ns < update.first_ns for update in self.updates),
            cut=(self.cut or self.uncovered) and word == words.INCONCLUSIVE and not self.distrust,
            uncertainty_ms=round(uncertain_ns / 1e6, 3) if uncertain_ns else None,
            spared=spared if word == words.PASS else None,
            uncovered=self.uncovered,
            extras={} if item is None else item.extras,
            decided_ns=now_ns,
        )

    def _findings(self) -> tuple[list[str], list[str], list[Seen]]:
        faults = [fault for ruling in self.rulings for fault in ruling.faults]
        sentences = [sentence for ruling in self.rulings for sentence in ruling.sentences]
        seen = [each for ruling in self.rulings for each in ruling.seen]
        for stray in self.strays:
            faults.append("unexplained")
            faults_of_it = () if self.uncovered else ("unexplained",)
            seen.append(Seen(stray.t_ns, stray.payload, None, faults_of_it, stray.uncertainty_ns))
            sentences.append(self._on_stray(stray))
        for incident in self.incidents:
            faults.append(incident.fault)
            sentences.append(self._on_incident(incident))
        if self.withheld and "payload" in faults:
            sentences.append(f"perhaps the known defect {self.withheld[0].defect} did not occur")
        return faults, sentences, sorted(seen, key=lambda each: each.t_ns)

    def _on_stray(self, stray: SeenEvent) -> str:
        before = [event for event in self.withheld if event.stamp_ns <= stray.t_ns]
        if before:
            return f"known defect {before[-1].defect} did not occur: an event came for the un-halt"
        if self.item is None:
            return "an event that no update explains"
        after = duration(stray.t_ns - self.item.start_ns)
        return f"an event that no update explains came {after} after the item began"

    def _on_incident(self, incident: Incident) -> str:
        if incident.fault == "closed":
            reason = f" ({incident.text})" if incident.text else ""
            return f"the event stream was closed while the device model lived{reason}"
        return f"bytes on the event stream that are no JSON event: {_shown_bytes(incident.text)}"


def _shown_bytes(hexadecimal: str) -> str:
    """The first bytes of an incident as Python writes them; as they stand in the journal if they are no hex."""
    try:
        data = bytes.fromhex(hexadecimal)
    except ValueError:
        return repr(hexadecimal[:60])
    return repr(data[:60])[1:] + (f" and {len(data) - 60} bytes more" if len(data) > 60 else "")
