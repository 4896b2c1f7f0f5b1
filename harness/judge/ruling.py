"""Rules on one update: what must come against what came, and a sentence on each difference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.judge.acrn_dm import AcrnDmFaults
from harness.judge.attribution import TELLING, Match
from harness.judge.forms import Wanted
from harness.judge.payload import differences
from harness.judge.stream import Stream
from harness.judge.updates import ExpectedEvent, SilentMove, Timing, Update
from harness.judge.verdict import Seen

NOTICE_NS = 400_000_000
"""A processor that stood still is noticed once it goes on, which may be after an event that it held up."""

STALL_GRAIN_NS = 45_000_000
"""What the notice of a stall may miss of it at its two ends."""

LAG_NS = 20_000_000
"""A write is held up when it is known later than this after it was made; QEMU's trace takes 0.1 ms."""

WORK_NS = 5_000_000
"""What a write may take from the trace to the service."""

MOST_UNCERTAIN_NS = 20_000_000
"""Where the stamps of a write and its event may together be wrong by more, nothing is called early or late."""


@dataclass
class Ruling:
    """What is to be said of one update. waiting_until_ns: before then absence and lateness look alike.

    uncertain_ns: how far a latency may be wrong. defects, spared: acrn-dm's that occurred, and those that did not
    where they would have.
    """

    faults: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    excuses: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    waiting_until_ns: int | None = None
    uncertain_ns: int = 0
    defects: list[str] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)


def duration(ns: int) -> str:
    """A time for a person: "312 ms" or "1.85 s"."""
    return f"{ns / 1e6:.0f} ms" if abs(ns) < 1_000_000_000 else f"{ns / 1e9:.2f} s"


def _give_or_take(ns: int) -> str:
    """How far a time may be wrong; nothing where it is not."""
    return f" (+- {ns / 1e6:.1f} ms)" if ns else ""


def _told_moves(moves: Sequence[SilentMove]) -> str:
    """The last three of them."""
    told = [f"{move.register:#04x}={move.value:#04x} by {move.seconds:+d} s" for move in moves[-3:]]
    return ", ".join(["...", *told] if len(moves) > 3 else told)


class Judgement:
    """The rules of ARCHITECTURE.md ("The judge's rules", 1, 2 and 5) applied to one guest's updates."""

    def __init__(self, timing: Timing, stream: Stream, tolerance: int, acrn_dm: AcrnDmFaults | None = None) -> None:
        self._timing = timing
        self._stream = stream
        self._tolerance = tolerance
        self._acrn_dm = acrn_dm

    def rule(
        self,
        update: Update,
        matches: Sequence[Match],
        wanted: Sequence[dict[str, object]],
        now_ns: int | None,
        parts: frozenset[int] | None = None,
    ) -> Ruling:
        """The ruling at now_ns (None: everything is in). parts: on which of the update's events; None: on all.

        Before an event's time is up its absence is no fault yet: waiting_until_ns then says when it is.
        """
        ruling = Ruling()
        several = len(update.events) > 1
        for part, event in enumerate(update.events):
            if parts is not None and part not in parts:
                continue
            own = [match for match in matches if match.part == part]
            sentences = len(ruling.sentences)
            if event.undecidable is not None:
                ruling.excuses.append(event.undecidable)
            elif self._dies_with_service(update, event):
                self._rule_dead(ruling, event, own, update.ended_by_restart_ns)
            elif own:
                self._rule_heard(ruling, update, event, own, wanted[part], now_ns)
            elif event.optional:
                pass  # the change may have been none: the clock may have ticked to what was written
            else:
                self._rule_absent(ruling, update, event, now_ns)
            if several:
                which = f"event {part + 1} of {len(update.events)}"
                ruling.sentences[sentences:] = [f"{which}: {text}" for text in ruling.sentences[sentences:]]
        if "payload" in ruling.faults and update.silent_moves:
            ruling.sentences.append(f"the RTC had been moved without an event: {_told_moves(update.silent_moves)}")
        if ruling.faults and (excuse := self._lagged(update, matches)) is not None:
            ruling.faults, ruling.sentences, ruling.excuses = [], [], [*ruling.excuses, excuse]
        return ruling

    def rule_silence(self, from_ns: int, until_ns: int, now_ns: int | None) -> Ruling:
        """The ruling on a time in which nothing may come: whether it would have been heard. What came is a stray."""
        ruling = Ruling()
        deaf = self._stream.why_deaf(from_ns, until_ns)
        if deaf is not None:
            ruling.excuses.append(f"nothing was to come, but it would not have been heard: {deaf}")
        elif now_ns is not None and self._stream.attested_ns(now_ns) < until_ns:
            ruling.waiting_until_ns = until_ns
        return ruling

    def _lagged(self, update: Update, matches: Sequence[Match]) -> str | None:
        """Why the service may not have known of a write before the window after the one before it had passed.

        It would have cut the event in two then: one that came whole and in time was not.
        """
        whole = {match.part for match in matches if match.exact and match.in_time}
        cut = [event for part, event in enumerate(update.events) if part not in whole]
        for before, raw in itertools.pairwise(update.raws):
            if not any(event.first_ns <= raw.stamp_ns <= event.last_ns for event in cut):
                continue
            end_ns = before.stamp_ns + self._timing.window_ns
            held_ns = raw.arrival_ns - raw.stamp_ns
            if stalled_ns := self._stream.stalled_ns(raw.arrival_ns, end_ns):
                held_ns += stalled_ns + STALL_GRAIN_NS
            if held_ns > LAG_NS and raw.stamp_ns + held_ns + WORK_NS > end_ns:
                lag = duration(held_ns)
                return f"this machine stood still: a write was held up for {lag}, until its window was as good as over"
        return None

    def _dies_with_service(self, update: Update, event: ExpectedEvent) -> bool:
        restart_ns = update.ended_by_restart_ns
        return restart_ns is not None and restart_ns < event.due_ns + self._timing.late_ns

    def _rule_dead(self, ruling: Ruling, event: ExpectedEvent, own: Sequence[Match], restart_ns: int | None) -> None:
        """The service was restarted before the event was safely out: none may come, unless it was close."""
        lost = None if own else self._stream.why_lost(event)
        if lost is not None:
            ruling.excuses.append(lost)
        close = restart_ns is not None and abs(restart_ns - event.due_ns) < self._timing.late_ns
        for place, match in enumerate(own):
            allowed = close and place == 0 and match.exact and match.in_time
            faults = () if allowed else ("unexplained",)
            self._add_seen(ruling, event, match, faults)
            if not allowed:
                ruling.sentences.append("an event came for an update that ended with the service's restart")

    def _rule_absent(self, ruling: Ruling, update: Update, event: ExpectedEvent, now_ns: int | None) -> None:
        excuse = self._stream.why_unheard(event, event.due_ns + self._timing.linger_ns)
        if excuse is not None:
            ruling.excuses.append(excuse)
            return
        told_ns = event.due_ns + self._timing.linger_ns
        over_ns = self._stream.heard_until(event.due_ns - self._timing.early_ns)
        if over_ns is not None:
            told_ns = min(told_ns, max(over_ns, event.latest_ns))
        if now_ns is not None and self._stream.attested_ns(now_ns) < told_ns:
            ruling.waiting_until_ns = max(told_ns, ruling.waiting_until_ns or 0)
            return
        defect = None if self._acrn_dm is None else self._acrn_dm.why_absent(update)
        if defect is not None:
            ruling.defects.append(defect)
            return
        ruling.faults.append("missing")
        heard_ns = told_ns - event.due_ns
        ruling.sentences.append(f"no event came, awaited until {duration(heard_ns)} after it was due")

    def _rule_heard(
        self,
        ruling: Ruling,
        update: Update,
        event: ExpectedEvent,
        own: Sequence[Match],
        wanted: dict[str, object],
        now_ns: int | None,
    ) -> None:
        first = self._proper(event, own)
        for match in own:
            wrong = [] if match.exact else self._differences(wanted, match)
            if match is first:
                if isinstance(wanted, Wanted):
                    wrong = self._excused_by_defect(ruling, update, wanted, match, wrong)
                faults = self._rule_proper(ruling, event, match, wrong)
                if "late" in faults and now_ns is not None and now_ns < match.seen.t_ns + NOTICE_NS:
                    ruling.waiting_until_ns = max(match.seen.t_ns + NOTICE_NS, ruling.waiting_until_ns or 0)
            else:
                faults = self._rule_further(ruling, event, first, match, wrong)
            self._add_seen(ruling, event, match, faults)

    def _differences(self, wanted: dict[str, object], match: Match) -> list[str]:
        if isinstance(wanted, Wanted):
            return wanted.differences(match.seen.payload)
        return differences(wanted, match.seen.payload, self._tolerance)

    def _excused_by_defect(
        self, ruling: Ruling, update: Update, wanted: Wanted, match: Match, wrong: list[str]
    ) -> list[str]:
        """What is wrong with an event beside what acrn-dm is known for; that is noted."""
        finding = wanted.finding(match.seen.payload)
        if finding is not None:
            ruling.defects += [] if finding.defect is None else [finding.defect]
            ruling.spared += [] if finding.spared is None else [finding.spared]
        elif self._acrn_dm is not None and (defect := self._acrn_dm.why_wrong(update, match)) is not None:
            ruling.defects.append(defect)
            return []
        return wrong

    def _proper(self, event: ExpectedEvent, own: Sequence[Match]) -> Match:
        """The one that is taken for the update's event; all others are too many."""
        return max(
            own,
            key=lambda match: (
                match.exact and match.in_time,
                match.in_time,
                match.exact,
                match.likeness,
                -abs(match.seen.t_ns - event.due_ns),
            ),
        )

    def _rule_proper(self, ruling: Ruling, event: ExpectedEvent, match: Match, wrong: Sequence[str]) -> tuple[str, ...]:
        t_ns, faults = match.seen.t_ns, []
        may_be_off_ns = event.uncertainty_ns + match.seen.uncertainty_ns
        if may_be_off_ns > ruling.uncertain_ns:  # noqa: PLR1730 - no call for what is mostly 0
            ruling.uncertain_ns = may_be_off_ns
        early = t_ns < event.due_ns - self._timing.early_ns - may_be_off_ns
        late = t_ns > event.latest_ns + match.seen.uncertainty_ns
        if (early or late) and may_be_off_ns > MOST_UNCERTAIN_NS:
            off = f"the stamps may be wrong by {duration(may_be_off_ns)}"
            how = f"{duration(event.due_ns - t_ns)} early" if early else f"{duration(t_ns - event.due_ns)} late"
            ruling.excuses.append(f"the event seems {how}, but {off}")
        elif early:
            faults.append("early")
            ruling.sentences.append(f"event {duration(event.due_ns - t_ns)} early{_give_or_take(may_be_off_ns)}")
        elif late:
            if self._stream.lateness_is_ours(event, t_ns):
                ruling.excuses.append("this machine stood still while the event was due")
            else:
                faults.append("late")
                ruling.sentences.append(f"event {duration(t_ns - event.due_ns)} late{_give_or_take(may_be_off_ns)}")
        elif self._stream.may_have_been_early(event, t_ns):
            ruling.excuses.append("the harness stood still from before the event was due until it was there")
        if wrong:
            faults.append("payload")
            ruling.sentences += wrong
        ruling.faults += faults
        ruling.latencies_ms.append((t_ns - event.due_ns) / 1e6)
        return tuple(faults)

    def _rule_further(
        self, ruling: Ruling, event: ExpectedEvent, first: Match, match: Match, wrong: Sequence[str]
    ) -> tuple[str, ...]:
        apart_ns = match.seen.t_ns - first.seen.t_ns
        when = f"{duration(abs(apart_ns))} {'after' if apart_ns >= 0 else 'before'} the"
        if wrong and match.likeness < TELLING:
            faults, text = ["unexplained"], f"an event that no update explains {when} proper one"
        else:
            faults = ["duplicate"]
            may_be_off_ns = event.uncertainty_ns + match.seen.uncertainty_ns
            early = match.seen.t_ns < event.due_ns - self._timing.early_ns - may_be_off_ns
            if early:
                faults.append("early")
            text = f"second event {when} first" if apart_ns >= 0 else f"another event {when} proper one"
            if early:
                text += f", {duration(event.due_ns - match.seen.t_ns)} early"
            if wrong:
                faults.append("payload")
        ruling.faults += faults
        ruling.sentences.append(f"{text} ({', '.join(wrong)})" if wrong else text)
        return tuple(faults)

    def _add_seen(self, ruling: Ruling, event: ExpectedEvent, match: Match, faults: tuple[str, ...]) -> None:
        after_ms = (match.seen.t_ns - event.due_ns) / 1e6
        ruling.seen.append(Seen(match.seen.t_ns, match.seen.payload, after_ms, faults, match.seen.uncertainty_ns))
        if faults == ("unexplained",) and "unexplained" not in ruling.faults:
            ruling.faults.append("unexplained")
