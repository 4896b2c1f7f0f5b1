"""What acrn-dm's own service makes of raw events: its sums, right or wrong.

It remembers the first last_time and adds up the deltas, and takes -1, which is what the vRTC says of a clock that an
invalid date has broken, for "nothing remembered yet". So where an update passes through a date that is none, last_time
or delta_time may be wrong: acrn-dm's known defect, for rehearsals to be like it.
"""

from __future__ import annotations

import collections
import threading

from harness.vm_event import RtcChange

NOTHING = -1


class AcrnSums:
    """Raw events as they are sent, until the service says how many of them it has settled. For several threads."""

    def __init__(self) -> None:
        self._pending: collections.deque[RtcChange] = collections.deque()
        self._lock = threading.Lock()

    def add(self, change: RtcChange) -> None:
        """A raw event has been sent."""
        with self._lock:
            self._pending.append(change)

    def clear(self) -> None:
        """What is pending will not be settled."""
        with self._lock:
            self._pending.clear()

    def settle(self, raw_events: int) -> tuple[int, int]:
        """last_time and delta_time of the next so many raw events, as acrn-dm has them."""
        last_time, delta_time = NOTHING, 0
        with self._lock:
            for _ in range(min(raw_events, len(self._pending))):
                change = self._pending.popleft()
                if last_time == NOTHING:
                    last_time = change.last_time
                delta_time += change.delta_time
        return last_time, delta_time
