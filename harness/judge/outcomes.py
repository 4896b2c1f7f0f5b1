"""What a write does to a virtual RTC, in the judge's words."""

from __future__ import annotations

from dataclasses import dataclass

BROKEN = -1
"""What a vRTC says instead of a time while it has none. The hypervisor's ticks on from there."""


@dataclass(frozen=True)
class Announced:
    """A write that sends a raw event: the RTC before it (BROKEN if it had none) and after it, in seconds."""

    last_time: int
    new_time: int


@dataclass(frozen=True)
class Withheld:
    """A write that moved the clock and sends nothing although it should: a known defect of the vRTC."""

    defect: str
    new_time: int


@dataclass(frozen=True)
class Moved:
    """A write that moved the clock by some seconds and sends nothing, as this vRTC is made: a silent move."""

    seconds: int


Outcome = Announced | Withheld | Moved | None
"""None: the write says nothing to anyone, and should not."""
