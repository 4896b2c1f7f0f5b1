"""What is known of acrn-dm's own event service to go wrong (ACRN.md, "Known traps"), beside its sums (forms.py).

Each rule asks for the whole trace of the defect, not only for something wrong: what is wrong in another way is a fault.
Those of luck (a thread that starts too late, a preemption in the wrong place) are no failure when they do not occur.
"""

from __future__ import annotations

from typing import Any

from harness.judge.attribution import Attribution, Match
from harness.judge.dm_clock import REGISTER_B
from harness.judge.forms import OF_ACRN_DM, Wanted
from harness.judge.journal import Journal
from harness.judge.payload import Payload
from harness.judge.possible import event_of
from harness.judge.readings import Readings
from harness.judge.updates import Chronicle, Update

NEVER_STARTED = "never-started"
MERGED = "merged-updates"
SURVIVED = "sum-survives-restart"
NO_TYPE = "unset-type"
OVERFLOW = "ring-overflow"
ENDLESS_ALARM = "endless-alarm"
ALARM_ENABLED = 0x20
_FAR_BACK = 256
RING_HOLDS = 125
"""Raw events for which there is room in acrn-dm's ring."""


class AcrnDmFaults:
    """The rules, for one guest."""

    def __init__(
        self, chronicle: Chronicle, journal: Journal, readings: Readings, attribution: Attribution
    ) -> None:
        self._chronicle, self._journal = chronicle, journal
        self._readings, self._attribution = readings, attribution

    def _applies(self) -> bool:
        return self._chronicle.form is not None and self._chronicle.form.service in OF_ACRN_DM

    def why_absent(self, update: Update) -> str | None:
        """The defect by which an update had no event; None where none explains it."""
        if not self._applies():
            return None
        number = self._number(update)
        if self._was_endless(update):
            return ENDLESS_ALARM
        after = number + 1
        if after < len(self._chronicle.updates) and self._carries(after, number):
            return MERGED
        if not self._heard_anything(update):
            return NEVER_STARTED
        return None

    def why_wrong(self, update: Update, match: Match) -> str | None:
        """The defect by which an update's event is wrong; None where none explains it."""
        if not self._applies():
            return None
        number = self._number(update)
        payload = match.seen.payload
        if isinstance(payload, dict) and set(payload) == {"vm_event"} and type(payload["vm_event"]) is int:
            return NO_TYPE
        before = number - 1
        if before >= 0 and not self._attribution.matches(before) and self._is_sum_of(before, number, payload):
            died = self._chronicle.updates[before].ended_by_restart_ns is not None
            return SURVIVED if died else MERGED
        wanted = self._readings.wanted(number)[match.part]
        if len(update.raws) > RING_HOLDS and isinstance(wanted, Wanted) and wanted.is_wrong_only_in_sum(payload):
            return OVERFLOW
        return None

    def _number(self, update: Update) -> int:
        """Its place among all."""
        updates = self._chronicle.updates
        for number in range(len(updates) - 1, -1, -1):
            if updates[number] is update:
                return number
        raise ValueError("an update of another guest")

    def _carries(self, number: int, before: int) -> bool:
        """Whether an update's event is the sum of two."""
        if self._chronicle.updates[before].ended_by_restart_ns is not None:
            return False
        matches = self._attribution.matches(number)
        if any(match.exact for match in matches):  # what is right by itself carries nothing
            return False
        return any(self._is_sum_of(before, number, match.seen.payload) for match in matches)

    def _is_sum_of(self, before: int, number: int, payload: Payload) -> bool:
        updates, form = self._chronicle.updates, self._chronicle.form
        if any(event.optional for event in updates[before].events):  # then it need not have come at all
            return False
        both = event_of([*updates[before].raws, *updates[number].raws], self._chronicle.timing)
        if not both.options or form is None:
            return False
        return Wanted(both, form, form.vm, 0).is_exact(payload)

    def _heard_anything(self, update: Update) -> bool:
        """Whether any event came since that service began and before it ended."""
        restarts = [u.ended_by_restart_ns for u in self._chronicle.updates if u.ended_by_restart_ns is not None]
        begin_ns = max((ns for ns in restarts if ns <= update.first_ns), default=0)
        end_ns = min((ns for ns in restarts if ns > update.first_ns), default=None)
        return any(begin_ns <= t_ns and (end_ns is None or t_ns <= end_ns) for t_ns in self._journal.times)

    def _was_endless(self, update: Update) -> bool:
        """Whether the clock was set backwards while the alarm interrupt was enabled: acrn-dm then counts for ever."""
        if self._chronicle.source != "dm" or not any(raw.after < (raw.before or 0) for raw in update.raws):
            return False
        first = update.raws[-1].write_no
        for access in reversed(self._chronicle.writes[max(0, first - _FAR_BACK) : first + 1]):
            if access.register == REGISTER_B:
                return bool(access.value & ALARM_ENABLED)
        form: Any = self._chronicle.form
        return bool((form.register_b or 0) & ALARM_ENABLED)
