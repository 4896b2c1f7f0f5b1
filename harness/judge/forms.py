"""What a settled event must say on a bench, in each of the four forms of events, and how near to it one comes.

The forms (`service` of the witness's start record):
project, hsm: our own service's events, all fields. behind-acrn-dm: those of our service that passes on what acrn-dm
settled: it cannot tell how many raw events there were, and new_time is last_time + delta_time. acrn-dm: its own:
vm_event, delta_time, last_time, and of what else it may say nothing is demanded, but that it is not wrong.

Of acrn-dm's code it is known that it sums over -1 (ACRN.md, "Known traps"): an event that is wrong just so is a known
defect, and one that is right where that code would be wrong says that it has been mended (`spared`).
"""

from __future__ import annotations

from typing import NamedTuple

from harness.judge.chain import UNKNOWN
from harness.judge.expected import ExpectedEvent, Option
from harness.judge.payload import IDENTIFYING, Payload, differences, is_exact, likeness, payload_of
from harness.judge.witness import Started

BROKEN_DATE_SUM = "broken-date-sum"
OF_ACRN_DM = frozenset(("behind-acrn-dm", "acrn-dm"))
"""The forms of events that acrn-dm's own service settles."""
_MOST_NEAR = 12


class Finding(NamedTuple):
    """What an event that is as it may be says of acrn-dm: the defect that occurred, or did not though it would have."""

    defect: str | None = None
    spared: str | None = None


class Wanted(dict[str, object]):
    """The likeliest payload, and all others that are as good."""

    def __init__(self, event: ExpectedEvent, start: Started, vm: str, estimate_tolerance: int) -> None:
        self._start, self._vm = start, vm
        self._extra = max(0, start.tolerance_s - 1)
        self._estimates = max(estimate_tolerance, 1 if start.vrtc == "hv" else 0)
        self._options = event.options
        self._right: dict[Option, dict[str, object]] = {}
        super().__init__(self._payload(event.options[0]))

    @property
    def by_acrn_dm(self) -> bool:
        """Whether acrn-dm's own service settles it."""
        return self._start.service in OF_ACRN_DM

    def is_exact(self, payload: Payload) -> bool:
        """Whether an object is what must come, or what acrn-dm is known to make of it."""
        return self.finding(payload) is not None

    def finding(self, payload: Payload) -> Finding | None:
        """What an object that is as it may be says of acrn-dm; None where it is wrong."""
        defect = spared = None
        for option in self._options:
            known = self._known(option)
            if self._is(option, self._payload(option), payload):
                if known is None:
                    return Finding()
                spared = Finding(spared=BROKEN_DATE_SUM)
            elif known is not None and self._is(option, known, payload):
                defect = Finding(defect=BROKEN_DATE_SUM)
        return defect or spared

    def likeness(self, payload: Payload) -> int:
        """How many of the identifying fields are as in one of the payloads, from 0 to 3."""
        best = 0
        for option in self._options[:_MOST_NEAR]:
            best = max(best, self._alike(self._payload(option), payload))
            known = self._known(option)
            best = max(best, 0 if known is None else self._alike(known, payload))
        return best

    def differences(self, payload: Payload) -> list[str]:
        """One sentence for each field that is wrong, against the payload that is nearest to it."""
        if self.is_exact(payload):
            return []
        told = [self._differences(option, self._payload(option), payload) for option in self._options[:_MOST_NEAR]]
        best = min(told, key=len)
        return best or [f"{', '.join(IDENTIFYING)} do not belong together"]

    def is_wrong_only_in_sum(self, payload: Payload) -> bool:
        """Whether an object is as it must be but for what it says of the change."""
        if not isinstance(payload, dict):
            return False
        of_the_sum = {key: payload[key] for key in ("new_time", "delta_time") if type(payload.get(key)) is int}
        return any(
            self._is(option, {**worded, **of_the_sum}, payload)
            for option in self._options
            for worded in (self._payload(option), self._known(option))
            if worded is not None
        )

    def _payload(self, option: Option) -> dict[str, object]:
        found = self._right.get(option)
        if found is None:
            last, delta = option.last_time, option.delta_time
            if last is None or delta is None:
                last, delta = UNKNOWN, option.new_time - UNKNOWN
            found = self._right[option] = self._worded(option, last, delta)
        return found

    def _known(self, option: Option) -> dict[str, object] | None:
        """What acrn-dm is known to make of it, where that is another event."""
        if not self.by_acrn_dm:
            return None
        found = self._worded(option, option.c_last, option.c_delta)
        return None if found == self._payload(option) else found

    def _worded(self, option: Option, last: int, delta: int) -> dict[str, object]:
        if self._start.service == "acrn-dm":
            return {"vm_event": 0, "last_time": last, "delta_time": delta}
        if self._start.service == "behind-acrn-dm":
            return self._passed_on(last, delta)
        event = _AsExpected(option)
        return payload_of(event, "hv" if self._start.service == "hsm" else self._start.vrtc, self._vm)

    def _passed_on(self, last: int, delta: int) -> dict[str, object]:
        unknown = last == UNKNOWN
        payload: dict[str, object] = {
            "vm_event": 0,
            "last_time": None if unknown else last,
            "new_time": last + delta,
            "delta_time": None if unknown else delta,
            "raw_events": None,
            "source": "monitor",
            "vm": self._vm,
        }
        if unknown:
            payload["estimated"] = True
        return payload

    def _is(self, option: Option, wanted: dict[str, object], payload: Payload) -> bool:
        if is_exact(wanted, payload):
            return True
        return not self._differences(option, wanted, payload)

    def _alike(self, wanted: dict[str, object], payload: Payload) -> int:
        if self._start.service != "acrn-dm" or not isinstance(payload, dict):
            return likeness(wanted, payload)
        both = [key for key in ("last_time", "delta_time") if _whole(payload.get(key)) == wanted[key]]
        return 3 if len(both) == 2 else len(both)  # one alone tells nothing: a merged event has it of another update

    def _differences(self, option: Option, wanted: dict[str, object], payload: Payload) -> list[str]:
        if not isinstance(payload, dict):
            return differences(wanted, payload)
        got = dict(payload)
        if self._start.service == "acrn-dm":
            got = self._as_acrn_dm(got)
        elif self._start.service in ("project", "hsm") and option.lost is None:
            wanted = {key: value for key, value in wanted.items() if key != "lost"}
            if got.get("lost") is True:
                del got["lost"]
        slack = self._estimates if option.estimated and not self.by_acrn_dm else 0
        return differences(wanted, got, slack, self._extra)

    def _as_acrn_dm(self, got: dict[str, object]) -> dict[str, object]:
        """Only what is demanded of it, and what it need not say but says wrongly. cJSON's numbers are doubles."""
        may_say = {"source": self._start.vrtc, "vm": self._vm, "new_time": None, "raw_events": None}
        return {
            key: _whole(value)
            for key, value in got.items()
            if key in ("vm_event", "last_time", "delta_time") or (key in may_say and value != may_say[key])
        }


class _AsExpected:
    """An option in the place of an expectation."""

    def __init__(self, option: Option) -> None:
        self.last_time, self.new_time, self.delta_time = option.last_time, option.new_time, option.delta_time
        self.raw_events, self.estimated, self.lost = option.raw_events, option.estimated, bool(option.lost)


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
