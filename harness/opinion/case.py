"""The values of a comparison: a settled event, the update behind it, where the two RTCs stood before and after."""

from __future__ import annotations

from dataclasses import dataclass

from harness.opinion.grain import LONGEST_UPDATE_NS, Lag
from harness.opinion.moves import REGISTER_B, Move
from harness.opinion.records import RtcChange, Settled


@dataclass(frozen=True)
class Standing:
    """Where the two RTCs are known to stand after a settled event: ACRN's time at a stamp, and QEMU's lag."""

    stamp_ns: int
    time: int
    lag: Lag


@dataclass(frozen=True)
class Before:
    """The two RTCs after the last move that an event was compared for: QEMU's offset, ACRN's time at that stamp."""

    lag: Lag
    offset: int
    time: int
    stamp_ns: int


@dataclass(frozen=True)
class Case:
    """One settled event and all that is known of the update behind it.

    first_ns: its first move of QEMU's RTC; move: its last; moves: how many; written_ns: the write that new_time stands
    at; change: what QEMU said of the last move; next_ns: the move after it; lag: after the last move; before: None
    where nothing is known of the time before; ambiguous: whether some of it may have been an update of its own.
    """

    event: Settled
    move: Move
    moves: int
    first_ns: int
    written_ns: int
    change: RtcChange | None
    next_ns: int | None
    before: Before | None
    lag: Lag | None
    ambiguous: bool

    @property
    def time(self) -> int:
        """The event's new_time."""
        return -1 if self.event.new_time is None else self.event.new_time

    @property
    def unhalted(self) -> bool:
        """Whether QEMU took all registers at once, when the clock was un-halted."""
        return self.move.register == REGISTER_B

    @property
    def whole(self) -> bool:
        """Whether all seven registers were written, not long ago."""
        return self.move.span_ns is not None and self.move.span_ns <= LONGEST_UPDATE_NS
