"""Turns the raw events of one guest and source into settled ones; pure: no clock, no thread, no I/O."""

from __future__ import annotations

from collections import deque

from .events import RtcChange, SettledRtcChange

#: What a vRTC says when its clock is broken by an invalid date.
BROKEN = -1
#: Times are signed 64-bit, in an element of a ring as for those who read the JSON.
EARLIEST, LATEST = -(1 << 63), (1 << 63) - 1


class RtcChangeSettler:
    """Collects raw events until the settle window passes in silence, then gives one settled event.

    Give it every raw event (`add`) and what is known of the guest's RTC (`set_rtc`), each with the moment it
    happened, and call `expire` until it returns None whenever `deadline` has come, and after `add`. A settled
    event waits in an outbox until `expire` hands it out: it is never lost, and a raw event that comes after
    its window is never merged into it.

    Moments (`now`, `deadline`) are monotonic and count `per_second` units a second: seconds as float by
    default; with `per_second=10**9` integer nanoseconds, which stay exact. A moment older than one seen
    before counts as that one: the order of the calls is the order of the events. Once a window has been found
    to be over, no event is from before its end: settled events are due a window apart, whatever moments say.
    """

    def __init__(self, window: float = 1.0, *, source: str = "dm", vm: str = "vm", per_second: int = 1) -> None:
        """`window`: the settle window in seconds. Raises ValueError unless it is positive."""
        if not window > 0:
            raise ValueError(f"a settle window must be longer than 0 s, not {window}")
        self.source = source
        self.vm = vm
        self._per_second = per_second
        self._window: float = window if per_second == 1 else round(window * per_second)
        # A clock of whole seconds can be one ahead of elapsed time; the quarter is for the stamps' jitter.
        self._slack: float = 1.25 if per_second == 1 else per_second * 5 // 4
        self._rtc: int | None = None
        self._rtc_at: float = float("-inf")
        self._latest: float = float("-inf")
        self._pending: _Pending | None = None
        self._overrun = 0
        self._outbox: deque[tuple[float, SettledRtcChange]] = deque()

    @property
    def deadline(self) -> float | None:
        """When the next settled event is due: the end of the pending silence; None when idle.

        While settled events wait to be taken by `expire`, this is when the oldest of them was due.
        """
        if self._outbox:
            return self._outbox[0][0]
        return None if self._pending is None else self._pending.due

    def set_rtc(self, time: int, now: float) -> None:
        """The guest's RTC shows `time` at `now`: it was started or reset, no event says so.

        Estimates and the search for gaps go on from here; a pending update stays pending. Ignored when a
        later moment of this RTC is known already.
        """
        if now >= self._rtc_at:
            self._rtc = time
            self._rtc_at = now
            self._latest = max(now, self._latest)

    def estimate(self, now: float) -> int | None:
        """What the guest's RTC shows at `now` if only its clock moved it; None when nothing is known."""
        if self._rtc is None:
            return None
        return self._rtc + int(now // self._per_second) - int(self._rtc_at // self._per_second)

    def add(self, change: RtcChange, now: float) -> bool:
        """A raw event, sent at `now`. If the pending update's window is over by then, it settles first.

        False, and nothing is done, for a change that no RTC can have made: to a time beyond 64 bits.
        """
        return self.add_link(change.last_time, change.delta_time, now)

    def add_link(self, last_time: int, delta_time: int, now: float, may_have_waited: bool = False) -> bool:
        """`add` for a reader of rings, which has the numbers and needs no object for each.

        `may_have_waited`: it was found at `now`, and may have been sent before the pending update was due: then it
        belongs to that update.
        """
        new_time = last_time + delta_time
        if not EARLIEST <= new_time <= LATEST:
            return False
        pending = self._pending
        now = max(now, self._latest)
        if pending is None or (now >= pending.due and not may_have_waited):
            if pending is not None:
                self._settle(pending)
            pending = self._pending = _Pending()
            first = True
        else:
            first = False
        rtc = self._rtc
        if last_time == BROKEN and rtc != BROKEN:
            # The vRTC lost its time to an invalid date and cannot say where it came from: fill in.
            pending.estimated = True
            estimate = self.estimate(now)
            if first:
                pending.last_time = estimate
            if estimate is None:
                pending.delta_time = None
            elif pending.delta_time is not None:
                pending.delta_time += new_time - estimate
        else:
            if first:
                pending.last_time = last_time
            if pending.delta_time is not None:
                pending.delta_time += delta_time
            # A halted or frozen clock lags behind elapsed time, but no clock runs backwards or ahead of it.
            if rtc is not None and not 0 <= (last_time - rtc) * self._per_second <= now - self._rtc_at + self._slack:
                pending.lost = True
        pending.new_time = new_time
        pending.raw_events += 1
        pending.due = now + self._window
        self._rtc = new_time
        self._rtc_at = self._latest = now
        return True

    def note_overrun(self, count: int) -> None:
        """`count` raw events did not find room in the ring: the next event to settle says so."""
        self._overrun += count

    def expire(self, now: float) -> SettledRtcChange | None:
        """The oldest settled event due at `now`, handed out once; None when there is none (any more)."""
        pending = self._pending
        if pending is not None and now >= pending.due:
            self._settle(pending)
            self._latest = max(self._latest, pending.due)
        return self._outbox.popleft()[1] if self._outbox else None

    def _settle(self, pending: _Pending) -> None:
        self._pending = None
        overrun, self._overrun = self._overrun, 0
        settled = SettledRtcChange(
            _in_64_bits(pending.last_time),
            pending.new_time,
            _in_64_bits(pending.delta_time),
            pending.raw_events,
            pending.estimated,
            pending.lost,
            overrun,
            self.source,
            self.vm,
        )
        self._outbox.append((pending.due, settled))


def _in_64_bits(value: int | None) -> int | None:
    """An estimate or a sum may leave what readers of the event can hold: then nobody can be told."""
    return value if value is None or EARLIEST <= value <= LATEST else None


class _Pending:
    """The update whose window is still open."""

    __slots__ = ("delta_time", "due", "estimated", "last_time", "lost", "new_time", "raw_events")

    def __init__(self) -> None:
        self.last_time: int | None = None
        self.new_time = 0
        self.delta_time: int | None = 0
        self.raw_events = 0
        self.estimated = False
        self.lost = False
        self.due: float = 0.0
