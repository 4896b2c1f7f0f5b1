"""When to ask the observer for its clock, whose answer an answer is, and for how long nothing has come."""

from __future__ import annotations

import collections

NS = 1_000_000_000
INTERVAL_NS = NS
SILENCE_NS = 4 * NS
"""A host from which nothing has come for so long hangs, or the link to it stands still."""

DOUBT_NS = SILENCE_NS * 5 // 8
"""After so long a silence it is worth asking the host itself."""

_FIRST = 8
_FIRST_INTERVAL_NS = 30_000_000
_BAD_INTERVAL_NS = NS // 4
_BAD_NS = 2_000_000
_SPACING_NS = 20_000_000
_LOOK_NS = NS // 2
"""What a look at the silence can count at most: if we ourselves stood still, that says nothing of the host."""


class Heartbeat:
    """Pings each second; closer together at first, and while answers are slow that were quick before."""

    def __init__(self) -> None:
        self._number = 0
        self._asked: dict[int, int] = {}
        self._last_ns = 0
        self._trips: collections.deque[int] = collections.deque(maxlen=32)
        self._looked_ns: int | None = None
        self.quiet_ns = 0
        """For how long nothing has come, as far as we would have noticed."""

    @property
    def answered(self) -> int:
        """How many answers have come (as far as they are remembered)."""
        return len(self._trips)

    def due_ns(self, wanted_since_ns: int | None) -> int:
        """When the next ping is due; wanted_since_ns: one sent at or after that moment is needed, if not None."""
        if self._number < _FIRST:
            return self._last_ns + _FIRST_INTERVAL_NS
        if wanted_since_ns is not None and self._last_ns < wanted_since_ns:
            return self._last_ns + _SPACING_NS
        slow = bool(self._trips) and self._trips[-1] > max(_BAD_NS, 2 * min(self._trips))
        return self._last_ns + (_BAD_INTERVAL_NS if slow and not self._asked else INTERVAL_NS)

    def ask(self, now_ns: int) -> int:
        """A ping is sent now; its number."""
        self._number += 1
        self._asked[self._number] = self._last_ns = now_ns
        return self._number

    def answer(self, number: int, now_ns: int) -> int | None:
        """When the ping was sent that this answers; None for one that nobody asked for."""
        sent_ns = self._asked.pop(number, None)
        if sent_ns is not None:
            self._trips.append(now_ns - sent_ns)
            for older in [asked for asked in self._asked if asked < number]:
                del self._asked[older]
        return sent_ns

    def look(self, now_ns: int, *, heard: bool) -> None:
        """Count the silence up to now."""
        passed = 0 if self._looked_ns is None else min(now_ns - self._looked_ns, _LOOK_NS)
        self._looked_ns = now_ns
        self.quiet_ns = 0 if heard else self.quiet_ns + passed
