"""Maps QEMU's wall-clock stamps to monotonic time, once, when a stamp arrives."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

STEP_NS = 1_000_000
"""A jump of wall against monotonic time larger than this is a step of the wall clock, not its slewing."""


@dataclass(frozen=True)
class Sample:
    """Monotonic time of a moment and how far the wall clock was ahead of it then; nanoseconds."""

    monotonic_ns: int
    wall_ahead_ns: int


def sample_clocks() -> Sample:
    """Both clocks of now, read close enough together that a preemption between the reads shows."""
    best: Sample | None = None
    best_spread = 0
    for _ in range(5):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        if best is None or after - before < best_spread:
            best, best_spread = Sample(after, wall - (before + after) // 2), after - before
        if best_spread < 5_000:
            break
    assert best is not None
    return best


class StampMapper:
    """Turns wall-clock stamps into monotonic ones that never run backwards nor past their arrival.

    on_step: told by how many nanoseconds the wall clock was stepped, when it was.
    """

    def __init__(self, on_step: Callable[[int], object] = lambda by: None) -> None:
        self._on_step = on_step
        self._ahead: int | None = None
        self._last = 0

    def map(self, wall_ns: int, arrival: Sample) -> int:
        """The monotonic stamp, in nanoseconds, of what QEMU stamped `wall_ns` and arrived at `arrival`."""
        if self._ahead is not None and abs(arrival.wall_ahead_ns - self._ahead) > STEP_NS:
            self._on_step(arrival.wall_ahead_ns - self._ahead)
        self._ahead = arrival.wall_ahead_ns
        stamp = wall_ns - arrival.wall_ahead_ns
        self._last = max(self._last, min(stamp, arrival.monotonic_ns))
        return self._last
