"""Brings what an observer sends to this machine's time, in order; what no sample proves yet waits for one."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any

from harness.clock_map import Break, ClockMap

GOOD_NS = 1_000_000
"""A stamp known better than that is not made to wait for a better sample."""

LONG_UNDERWAY_NS = 100_000_000
"""A record that seems to have been under way for longer than that may be from a host that was suspended: its clock
stood still before it, which only a later sample shows."""

STOOD_STILL_NS = 25_000_000
"""A host that stood still for that long may have been late with an event for it."""

Message = Mapping[str, Any]


class StampMapper:
    """Takes messages as they arrive, gives them on with stamps of our clock: in the same order, some a little later.

    A message is held when its stamp is known badly by the standards of this link, or may be plainly wrong: it seems
    to come from the future (our clock stood still), or to have been under way for long (their clock may have stood
    still; or the link, or we). A sample asked for after its arrival decides, and all that came behind it waits, too.
    """

    def __init__(self, clock: ClockMap, give: Callable[[Message], object]) -> None:
        self._clock = clock
        self._give = give
        self._held: collections.deque[tuple[int, Message]] = collections.deque()
        self._round_trips: collections.deque[int] = collections.deque(maxlen=16)

    @property
    def waits_since_ns(self) -> int | None:
        """A sample asked for at this moment or later lets everything go on; None when nothing waits."""
        return self._held[-1][0] if self._held else None

    def take(self, message: Message, arrival_ns: int) -> None:
        """A message: a record is mapped, everything else goes on as it is."""
        if self._held or ("record" in message and self._is_doubtful(message["record"], arrival_ns)):
            self._held.append((arrival_ns, message))
        else:
            self._go_on(message, arrival_ns, proven=True)

    def sampled(self, sent_ns: int, received_ns: int) -> None:
        """The clock has a new sample: what came before it was asked for goes on."""
        self._round_trips.append(received_ns - sent_ns)
        while self._held and self._held[0][0] <= sent_ns:
            arrival_ns, message = self._held.popleft()
            self._go_on(message, arrival_ns, proven=True)

    def give_up(self) -> None:
        """No sample will come any more: what waits goes on, with all the doubt there is."""
        while self._held:
            arrival_ns, message = self._held.popleft()
            self._go_on(message, arrival_ns, proven=False)

    def _is_doubtful(self, record: Message, arrival_ns: int) -> bool:
        low, high = self._clock.bounds(record["t_ns"])
        usual_ns = min(self._round_trips, default=0)  # twice what such a sample leaves
        badly = high - low > max(2 * GOOD_NS, 2 * usual_ns)
        return badly or arrival_ns < low or arrival_ns - high > LONG_UNDERWAY_NS

    def _go_on(self, message: Message, arrival_ns: int, *, proven: bool) -> None:
        if "record" not in message:
            self._give(message)
            return
        record = dict(message["record"])
        stamp = self._clock.ours(record["t_ns"], not_after_ns=arrival_ns, proven=proven)
        record.update(t_ns=stamp.ns, host_ns=record["t_ns"], uncertainty_ns=stamp.uncertainty_ns)
        for name in ("from_ns", "to_ns"):
            if name in record:
                stamp = self._clock.ours(record[name], not_after_ns=arrival_ns, proven=proven)
                record[name] = stamp.ns
                record["uncertainty_ns"] = max(record["uncertainty_ns"], stamp.uncertainty_ns)
        self._give({**message, "record": record})


def stall_of(found: Break) -> dict[str, Any] | None:
    """What a journal is to be told of a host that stood still; None where it did not, or not for long."""
    if found.gained_ns < STOOD_STILL_NS:
        return None
    return {
        "t_ns": found.to_ns,
        "kind": "stall",
        "from_ns": found.from_ns,
        "to_ns": found.to_ns,
        "host_ns": None,
        "uncertainty_ns": 0,
        "why": "the host stood still: its clock lost time",
        "lost_ns": found.gained_ns,
    }
