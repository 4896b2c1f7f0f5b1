"""Maps another machine's monotonic stamps to ours, each with the bound within which it is right.

How it is known. A sample is a question that left at `sent_ns` (our clock), was answered at `theirs_ns` (their clock)
and whose answer was here at `received_ns` (ours). Whatever the two ways took, together or each, the moment `theirs_ns`
lies between the other two: half of the round trip is a bound, not an estimate, and asymmetric delays, a busy host or
a busy harness only make it wider. Between samples both clocks are taken to run alike within a drift of `rate`:

    sent + (x - theirs) - rate * |x - theirs|  <=  ours(x)  <=  received + (x - theirs) + rate * |x - theirs|

Every sample gives such a pair of bounds for every x, and all of them hold at once: the mapped stamp is the middle of
what they leave, its uncertainty half of that.

Where samples contradict each other, one of the clocks stood still (a machine that was suspended, a virtual one that
was paused) or was slewed by a time daemon. Samples from before then say nothing of what comes after it; a stamp from
between the last sample before and the first one after gets everything that either side leaves, which is right as
long as the clocks went apart one way only in that time. After a slew more of it is expected, with twice the rate that
was seen, until several samples in a row know nothing of it. Steps of a wall clock do not matter: none is asked.

What is assumed, then: the drift bound from the newest sample on until the next. Whoever needs a stamp to be proven
maps it after a sample that was asked for once the stamp was there.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

DRIFT_PPM = 200
"""Two quartz clocks differ by up to 100 ppm, and a disciplined clock is steered by a part of that."""

PPB = 1_000_000_000
_FASTEST_SLEW = PPB // 10
"""chrony may slew by 8.3 %; what is beyond that is a clock that stood still."""

_QUIET_SAMPLES = 8
_MOST_SAMPLES = 32
_MOST_STRETCHES = 8
_MOST_ISSUED = 4096


@dataclass(frozen=True)
class Stamp:
    """A moment on our monotonic clock: the true one is within `uncertainty_ns` of `ns`."""

    ns: int
    uncertainty_ns: int

    @property
    def earliest_ns(self) -> int:
        """It was not before that."""
        return self.ns - self.uncertainty_ns

    @property
    def latest_ns(self) -> int:
        """It was not after that."""
        return self.ns + self.uncertainty_ns


@dataclass(frozen=True)
class Sample:
    """Their clock showed `theirs_ns` at a moment between `sent_ns` and `received_ns` of ours."""

    sent_ns: int
    theirs_ns: int
    received_ns: int


@dataclass(frozen=True)
class Break:
    """The clocks went apart between two samples by more than any drift.

    gained_ns: by how much ours went ahead of theirs at least (they stood still); negative: theirs went ahead.
    from_ns, to_ns: between these moments of our clock. restarted: their clock began anew; stamps from before then
    cannot be mapped any more.
    """

    gained_ns: int
    from_ns: int
    to_ns: int
    restarted: bool = False


class _Stretch:
    """The samples of a time in which none contradicted another."""

    def __init__(self, first: Sample, rate: int) -> None:
        self.samples = [first]
        self.rate = rate
        self.first_ns = self.last_ns = first.theirs_ns
        self.quiet = 0
        self.recent = collections.deque([first], maxlen=_QUIET_SAMPLES)

    def bounds(self, theirs_ns: int) -> tuple[int, int]:
        """The earliest and the latest moment of ours that this can be."""
        return _bounds(self.samples, theirs_ns, self.rate)

    def take(self, sample: Sample) -> None:
        """Keep the sample, and drop those that others have made worthless."""
        self.samples.append(sample)
        self.recent.append(sample)
        self.samples.sort(key=lambda kept: kept.theirs_ns)
        self.first_ns = min(self.first_ns, sample.theirs_ns)
        self.last_ns = max(self.last_ns, sample.theirs_ns)
        while len(self.samples) > 1:
            worth, place = min(map(self._worth, range(len(self.samples) - 1)))
            if worth > 0 and len(self.samples) <= _MOST_SAMPLES:
                break
            del self.samples[place]

    def _worth(self, place: int) -> tuple[int, int]:
        """By how much this sample narrows what the others leave at its own moment; and its place.

        The newest is never asked: it stays in any case, since it tells until when all was well.
        """
        kept = self.samples[place]
        low, high = _bounds([*self.samples[:place], *self.samples[place + 1 :]], kept.theirs_ns, self.rate)
        return max(kept.sent_ns - low, 0) + max(high - kept.received_ns, 0), place


class ClockMap:
    """Samples in, mapped stamps out; from any thread.

    drift_ppm: how much faster or slower than ours their clock may run. keep: told each sample and each break, as a
    record for the run's `clock.jsonl`.
    """

    def __init__(
        self, drift_ppm: int = DRIFT_PPM, keep: Callable[[dict[str, object]], object] = lambda record: None
    ) -> None:
        self._drift = drift_ppm * 1000
        self._keep = keep
        self._lock = threading.RLock()
        self._stretches: list[_Stretch] = []
        self._issued_theirs: list[int] = []
        self._issued_ours: list[int] = []

    @property
    def ready(self) -> bool:
        """Whether there is a sample, so that stamps can be mapped."""
        return bool(self._stretches)

    def add(self, sent_ns: int, theirs_ns: int, received_ns: int) -> Break | None:
        """Take a sample; the break, if it contradicts those before it.

        Raises ValueError where the answer was here before the question had left.
        """
        if received_ns < sent_ns:
            raise ValueError(f"an answer that came {sent_ns - received_ns} ns before its question")
        with self._lock:
            return self._add(Sample(sent_ns, theirs_ns, received_ns))

    def _add(self, sample: Sample) -> Break | None:
        self._keep({"kind": "sample", **dataclasses.asdict(sample)})
        if not self._stretches:
            self._stretches.append(_Stretch(sample, self._drift))
            return None
        stretch = self._stretches[-1]
        rate, gained_ns = _proven_rate(stretch.samples, sample)
        if rate > stretch.rate:
            return self._begin_anew(sample, rate, gained_ns)
        slewed = _proven_rate(stretch.recent, sample)[0] > self._drift
        stretch.take(sample)
        stretch.quiet = 0 if slewed else stretch.quiet + 1
        if stretch.rate > self._drift and stretch.quiet >= _QUIET_SAMPLES:
            self._append(_Stretch(sample, self._drift))
        return None

    def ours(self, theirs_ns: int, *, not_after_ns: int | None = None, proven: bool = True) -> Stamp:
        """Their moment on our clock. Stamps keep their order, whatever samples come in between.

        not_after_ns: when we knew of it, if that is known. proven: false where no sample is to come that could show
        that their clock stood still before it: all up to the moment when we knew of it is possible then.
        Raises ValueError as long as there is no sample.
        """
        with self._lock:
            low, high = self.bounds(theirs_ns)
            if not_after_ns is not None:
                if low > not_after_ns:  # our clock stood still, or theirs was slewed: only the order is certain
                    low = min(not_after_ns, self.bounds(min(theirs_ns, self._stretches[-1].last_ns))[0])
                high = min(high, not_after_ns) if proven else not_after_ns
            ns = self._in_order(theirs_ns, (low + high) // 2)
            return Stamp(ns, max(high - ns, ns - low, 0))

    def bounds(self, theirs_ns: int) -> tuple[int, int]:
        """The earliest and the latest moment on our clock that it can have been. Raises ValueError without samples."""
        with self._lock:
            if not self._stretches:
                raise ValueError("no sample of the other clock yet")
            later: _Stretch | None = None
            for stretch in reversed(self._stretches):
                if theirs_ns >= stretch.first_ns:
                    low, high = stretch.bounds(theirs_ns)
                    if later is not None and theirs_ns > stretch.last_ns:
                        other_low, other_high = later.bounds(theirs_ns)
                        low, high = min(low, other_low), max(high, other_high)
                    return low, high
                later = stretch
            assert later is not None
            return later.bounds(theirs_ns)

    def _begin_anew(self, sample: Sample, rate: int, gained_ns: int) -> Break:
        former = self._stretches[-1]
        restarted = sample.theirs_ns < former.last_ns
        from_ns = former.bounds(former.last_ns)[0]
        found = Break(gained_ns, from_ns, sample.received_ns, restarted)
        if restarted:
            self._stretches.clear()
            self._issued_theirs.clear()
            self._issued_ours.clear()
        expected = self._drift if rate > _FASTEST_SLEW else max(self._drift, 2 * rate)
        self._append(_Stretch(sample, expected))
        self._keep(
            {
                "kind": "break",
                "gained_ns": gained_ns,
                "from_ns": from_ns,
                "to_ns": sample.received_ns,
                "restarted": restarted,
                "rate_ppm": expected / 1000,
            }
        )
        return found

    def _append(self, stretch: _Stretch) -> None:
        self._stretches = [*self._stretches, stretch][-_MOST_STRETCHES:]

    def _in_order(self, theirs_ns: int, ns: int) -> int:
        """The nearest to `ns` that keeps the order of all stamps given out so far."""
        place = bisect.bisect_left(self._issued_theirs, theirs_ns)
        if place < len(self._issued_theirs):
            ns = min(ns, self._issued_ours[place])
            if self._issued_theirs[place] == theirs_ns:
                return self._issued_ours[place]
        if place:
            ns = max(ns, self._issued_ours[place - 1])
        self._issued_theirs.insert(place, theirs_ns)
        self._issued_ours.insert(place, ns)
        if len(self._issued_ours) > _MOST_ISSUED:
            del self._issued_theirs[: _MOST_ISSUED // 2], self._issued_ours[: _MOST_ISSUED // 2]
        return ns


class ClockLog:
    """Keeps the samples of a clock map on disk, a JSON record a line: its `keep`. Raises OSError where it cannot."""

    def __init__(self, path: Path, **about: object) -> None:
        self._path = path
        self({"kind": "start", "t_ns": time.monotonic_ns(), **about})

    def __call__(self, record: dict[str, object]) -> None:
        """Append a record."""
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")


def _proven_rate(samples: Iterable[Sample], sample: Sample) -> tuple[int, int]:
    """At which rate (of 10**9) the clocks must have gone apart for this sample to be true, and by how much.

    The amount is positive where ours went ahead.
    """
    worst = gained = 0
    for kept in samples:
        early, late = (kept, sample) if kept.theirs_ns <= sample.theirs_ns else (sample, kept)
        passed = late.theirs_ns - early.theirs_ns
        ahead = late.sent_ns - early.received_ns - passed
        behind = passed - (late.received_ns - early.sent_ns)
        apart = max(ahead, behind, 0)
        rate = -(-apart * PPB // passed) if passed else (PPB if apart else 0)
        if rate > worst:
            worst, gained = rate, ahead if ahead > behind else -behind
    return worst, gained


def _bounds(samples: Sequence[Sample], theirs_ns: int, rate: int) -> tuple[int, int]:
    lows, highs = [], []
    for sample in samples:
        ahead = theirs_ns - sample.theirs_ns
        slack = -(-abs(ahead) * rate // PPB)
        lows.append(sample.sent_ns + ahead - slack)
        highs.append(sample.received_ns + ahead + slack)
    return max(lows), min(highs)
