"""Whether an event could have been heard: registration, the stream's end and whose fault that was, stalls."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.judge.journal import Incident, Journal
from harness.judge.updates import ExpectedEvent, Timing

DEATH_NOTICE_NS = 1_000_000_000
"""Within this time after the stream closed a death of the device model must have become known."""
WAKE_NS = 20_000_000
"""After a stall the listener may need this long to note what waited for it."""
ASKED_FOR = frozenset({"destroyed", "terminated", "console-closed", "guest-shutdown", "host-qmp-quit", "host-signal"})
"""Ends of a device model that are nobody's fault, by the reasons in its trace."""
UNREAD = "a line of events.jsonl that cannot be read may have been the event"


@dataclass(frozen=True)
class Death:
    """The device model's end, as its trace or its exit record tells."""

    t_ns: int
    reason: str


class Stream:
    """The event stream of one guest, seen from what became of it."""

    def __init__(self, journal: Journal, timing: Timing, exit_record: Path) -> None:
        self.journal = journal
        self.restarts_ns: list[int] = []
        self._timing = timing
        self._exit_record = exit_record
        self._deaths: list[Death] = []
        self._starts_ns: list[int] = []
        self._exit_read = False
        self._concluded_ns: int | None = None

    def conclude(self, last_ns: int) -> None:
        """Nothing more will come. last_ns: until when listening is taken for granted if its end is not recorded:
        what the listener itself attested, or for one that attests nothing the last moment known of anything.
        """
        self._concluded_ns = last_ns

    def ended(self, stamp_ns: int, reason: str) -> None:
        """The trace says that the device model ended."""
        if not self._is_dead:
            self._deaths.append(Death(stamp_ns, reason))

    def started(self, stamp_ns: int) -> None:
        """The trace says that the device model began (or another one in its place)."""
        self._starts_ns.append(stamp_ns)

    @property
    def _is_dead(self) -> bool:
        return bool(self._deaths) and not any(start > self._deaths[-1].t_ns for start in self._starts_ns)

    def _died(self, alive_ns: int, until_ns: int) -> Death | None:
        """The end, by until_ns, of the device model that ran or was to run at alive_ns."""
        if not self._is_dead and not self._exit_read and self._closed_last() is not None:
            self._read_exit_record()
        for death in self._deaths:
            revived = any(death.t_ns < start <= alive_ns for start in self._starts_ns)
            if death.t_ns <= until_ns and not revived:
                return death
        return None

    def _closed_last(self) -> Incident | None:
        closed = [incident for incident in self.journal.incidents if incident.fault == "closed"]
        return closed[-1] if closed else None

    def _read_exit_record(self) -> None:
        closed = self._closed_last()
        try:
            record: Any = json.loads(self._exit_record.read_bytes())
        except (OSError, ValueError):
            return
        self._exit_read = True
        if not isinstance(record, dict) or closed is None:
            return
        told = [record.get(key) for key in ("t_ns", "ended_ns", "stamp_ns")]
        t_ns = next((t for t in told if type(t) is int), closed.t_ns)
        texts = [record.get(key) for key in ("text", "problem", "reason", "error")]
        self._deaths.append(Death(t_ns, next((str(text) for text in texts if text), "see exit.json")))

    def is_explained(self, closed: Incident) -> bool:
        """Whether the stream was closed because the device model died or was restarted."""
        if self._died(closed.t_ns, closed.t_ns + DEATH_NOTICE_NS) is not None:
            return True
        return any(abs(restart - closed.t_ns) <= 2 * DEATH_NOTICE_NS for restart in self.restarts_ns)

    def faulty_incidents(self, now_ns: int | None) -> list[Incident]:
        """The incidents that are the product's fault, as known at now_ns (None: everything is in).

        Half an object at the end of a stream that a death cut off is no garbage.
        """
        closed = [incident for incident in self.journal.incidents if incident.fault == "closed"]
        excused_ns = {incident.t_ns for incident in closed if self.is_explained(incident)}
        if now_ns is not None:
            excused_ns |= {incident.t_ns for incident in closed if now_ns < incident.t_ns + DEATH_NOTICE_NS}
        return [incident for incident in self.journal.incidents if incident.t_ns not in excused_ns]

    def heard_until(self, t_ns: int) -> int | None:
        """When the listening that was on at t_ns ended; None while it lasts."""
        if not self.journal.open_spans:
            return self._concluded_ns if self.journal.ended_ns is None else self.journal.ended_ns
        for begin, end in self.journal.open_spans:
            if begin <= t_ns and (end is None or end > t_ns):
                return self._concluded_ns if end is None else end
        return t_ns

    def undecided_close(self, now_ns: int) -> bool:
        """Whether the stream has only just closed, so that it may yet turn out that the device model died."""
        closed = self._closed_last()
        return closed is not None and now_ns < closed.t_ns + DEATH_NOTICE_NS and not self.is_explained(closed)

    def why_lost(self, event: ExpectedEvent) -> str | None:
        """Whether the event was in flight when the device model ended, in words; None where it was not."""
        death = self._died(event.first_ns, event.latest_ns)
        return None if death is None else f"in flight when the device model ended ({death.reason})"

    def why_deaf(self, from_ns: int, until_ns: int) -> str | None:
        """Why silence in that time says nothing; None where an event would have been heard.

        A service that is restarted in between is silent from then on: it has forgotten what it was to say.
        """
        until_ns = min([until_ns, *(restart for restart in self.restarts_ns if restart > from_ns)])
        death = self._died(from_ns, until_ns)
        if death is not None:
            return f"the device model ended meanwhile ({death.reason})"
        if not self.journal.listening_at(from_ns):
            return "nobody was listening"
        if self.journal.unread_within(from_ns, until_ns):
            return UNREAD
        ended_ns = self.heard_until(from_ns)
        return None if ended_ns is None or ended_ns >= until_ns else f"{self._how_it_ended(ended_ns)} meanwhile"

    def _how_it_ended(self, ended_ns: int) -> str:
        closed = any(i.fault == "closed" and i.t_ns == ended_ns for i in self.journal.incidents)
        return "the event stream was closed" if closed else "the listening ended"

    def why_unheard(self, event: ExpectedEvent, until_ns: int) -> str | None:
        """Why an event that is not there by until_ns need not be the service's fault; None where it is."""
        lost = self.why_lost(event)
        if lost is not None:
            return lost
        if not self.journal.listening_at(event.due_ns - self._timing.early_ns):
            began = event.due_ns - self._timing.early_ns >= self.journal.open_spans[0][0]
            how = "the listening had ended" if began else "the listening had not begun"
            return f"nobody was listening when the event was due: {how}"
        if self.journal.unread_within(event.first_ns, until_ns):
            return UNREAD
        ended_ns = self.heard_until(event.due_ns - self._timing.early_ns)
        if ended_ns is not None and ended_ns <= event.latest_ns:
            return f"{self._how_it_ended(ended_ns)} before the event had to be there"
        until_ns = until_ns if ended_ns is None else min(until_ns, ended_ns)
        heard_ns = until_ns - event.due_ns - self.journal.delayed_ns(event.due_ns, until_ns)
        if heard_ns < event.latest_ns - event.due_ns:
            return "this machine stood still while the event was due"
        return None

    def is_cut(self, first_ns: int, due_ns: int, latest_ns: int) -> bool:
        """Whether listening began too late for what is due then, or was ended too early, and that on purpose."""
        spans = self.journal.open_spans
        if not spans or due_ns - self._timing.early_ns < spans[0][0]:
            return bool(spans)
        end_ns = spans[-1][1]
        if end_ns is None or end_ns > latest_ns:
            return False
        death = self._died(first_ns, latest_ns)
        return self.journal.ended_ns == end_ns or (death is not None and death.reason in ASKED_FOR)

    def attested_ns(self, now_ns: int) -> int:
        """Until when silence is known to have been silence, at now_ns."""
        return min(now_ns, self.journal.last_ns) if self.journal.attests else now_ns

    def stalled_ns(self, from_ns: int, to_ns: int) -> int:
        """For how long in that time this machine, or one of its processors, stood still."""
        return self.journal.stalled_ns(from_ns, to_ns)

    def lateness_is_ours(self, event: ExpectedEvent, t_ns: int) -> bool:
        """Whether a late event may have been in time, but for a stall of the harness."""
        return t_ns - self.journal.delayed_ns(event.due_ns, t_ns) <= event.latest_ns

    def may_have_been_early(self, event: ExpectedEvent, t_ns: int) -> bool:
        """Whether an event in time may have come early and have waited for the harness to wake up."""
        early_ns = event.due_ns - self._timing.early_ns
        return any(
            stall.from_ns < early_ns and stall.from_ns <= t_ns <= stall.to_ns + WAKE_NS for stall in self.journal.stalls
        )
