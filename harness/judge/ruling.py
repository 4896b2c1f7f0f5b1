"""Rules on one update: what must come against what came, and a sentence on each difference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.judge.attribution import TELLING, Match
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


@dataclass
class Ruling:
    """What is to be said of one update. waiting_until_ns: before then absence and lateness look alike."""

    faults: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    excuses: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    waiting_until_ns: int | None = None


def duration(ns: int) -> str:
    """A time for a person: "312 ms" or "1.85 s"."""
    return f"{ns / 1e6:.0f} ms" if abs(ns) < 1_000_000_000 else f"{ns / 1e9:.2f} s"


def _told_moves(moves: Sequence[SilentMove]) -> str:
    """The last three of them."""
    told = [f"{move.register:#04x}={move.value:#04x} by {move.seconds:+d} s" for move in moves[-3:]]
    return ", ".join(["...", *told] if len(moves) > 3 else told)


class Judgement:
    """The rules of ARCHITECTURE.md ("The judge's rules", 1, 2 and 5) applied to one guest's updates."""

    def __init__(self, timing: Timing, stream: Stream, tolerance: int) -> None:
        self._timing = timing
        self._stream = stream
        self._tolerance = tolerance

    def rule(
        self,
        update: Update,
        matches: Sequence[Match],
        wanted: Sequence[dict[str, object]],
        now_ns: int | None,
    ) -> Ruling:
        """The ruling at now_ns (None: everything is in).

        Before an event's time is up its absence is no fault yet: waiting_until_ns then says when it is.
        """
        ruling = Ruling()
        several = len(update.events) > 1
        for part, event in enumerate(update.events):
            own = [match for match in matches if match.part == part]
            sentences = len(ruling.sentences)
            if self._dies_with_service(update, event):
                self._rule_dead(ruling, event, own, update.ended_by_restart_ns)
            elif own:
                self._rule_heard(ruling, event, own, wanted[part], now_ns)
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
        ruling.faults.append("missing")
        heard_ns = told_ns - event.due_ns
        ruling.sentences.append(f"no event came, awaited until {duration(heard_ns)} after it was due")

    def _rule_heard(
        self,
        ruling: Ruling,
        event: ExpectedEvent,
        own: Sequence[Match],
        wanted: dict[str, object],
        now_ns: int | None,
    ) -> None:
        first = self._proper(event, own)
        for match in own:
            wrong = [] if match.exact else differences(wanted, match.seen.payload, self._tolerance)
            if match is first:
                faults = self._rule_proper(ruling, event, match, wrong)
                if "late" in faults and now_ns is not None and now_ns < match.seen.t_ns + NOTICE_NS:
                    ruling.waiting_until_ns = max(match.seen.t_ns + NOTICE_NS, ruling.waiting_until_ns or 0)
            else:
                faults = self._rule_further(ruling, event, first, match, wrong)
            self._add_seen(ruling, event, match, faults)

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
        if t_ns < event.due_ns - self._timing.early_ns:
            faults.append("early")
            ruling.sentences.append(f"event {duration(event.due_ns - t_ns)} early")
        elif t_ns > event.latest_ns:
            if self._stream.lateness_is_ours(event, t_ns):
                ruling.excuses.append("this machine stood still while the event was due")
            else:
                faults.append("late")
                ruling.sentences.append(f"event {duration(t_ns - event.due_ns)} late")
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
            early = match.seen.t_ns < event.due_ns - self._timing.early_ns
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
        ruling.seen.append(Seen(match.seen.t_ns, match.seen.payload, after_ms, faults))
        if faults == ("unexplained",) and "unexplained" not in ruling.faults:
            ruling.faults.append("unexplained")
