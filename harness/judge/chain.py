"""What the service must make of a sequence of raw events: links, estimates over breaks, gaps (`lost`).

The rules are those of ARCHITECTURE.md "The settled event"; the service has its own implementation of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.judge.dates import SECOND_NS

UNKNOWN = -1
"""`last_time` of a raw event that does not know the RTC before it."""
SLACK_NS = 1_250_000_000
"""By so much more than the elapsed time may an RTC have moved: it ticks on whole seconds."""


@dataclass(frozen=True)
class Link:
    """One announcing write in the chain. before/delta are None where nothing is known to estimate from."""

    before: int | None
    after: int
    delta: int | None
    estimated: bool
    lost: bool


class Chain:
    """The running knowledge of one guest's RTC from one source, as far as raw events tell."""

    def __init__(self) -> None:
        self._known: tuple[int, int] | None = None
        self._ended_at_unknown = False

    def set_rtc(self, time: int, stamp_ns: int) -> None:
        """The RTC shows `time` at `stamp_ns`, known from elsewhere (start of the VM, reset)."""
        self._known = (time, stamp_ns)
        self._ended_at_unknown = False

    def estimate(self, stamp_ns: int) -> int | None:
        """The RTC at `stamp_ns` if it has ticked on since the last that is known of it."""
        if self._known is None:
            return None
        time, then_ns = self._known
        return time + stamp_ns // SECOND_NS - then_ns // SECOND_NS

    def add(self, last_time: int, new_time: int, stamp_ns: int) -> Link:
        """The next raw event of the chain."""
        if last_time == UNKNOWN and not self._ended_at_unknown:
            before = self.estimate(stamp_ns)
            delta = None if before is None else new_time - before
            link = Link(before, new_time, delta, estimated=True, lost=False)
        else:
            lost = self._is_gap(last_time, stamp_ns)
            link = Link(last_time, new_time, new_time - last_time, estimated=False, lost=lost)
        self._known = (new_time, stamp_ns)
        self._ended_at_unknown = new_time == UNKNOWN
        return link

    def _is_gap(self, last_time: int, stamp_ns: int) -> bool:
        """A halted or frozen clock lags, down to the value itself; anything else is a gap."""
        if self._known is None:
            return False
        time, then_ns = self._known
        ahead_ns = (last_time - time) * SECOND_NS
        return ahead_ns < 0 or ahead_ns > stamp_ns - then_ns + SLACK_NS
