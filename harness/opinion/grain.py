"""How far QEMU's RTC and ACRN's vRTC of one guest can lie apart, both being right: the grain of a comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.opinion.moves import SECOND_NS, Move

COARSEST_S = 20
"""A wider comparison says too little: plans keep neighbouring payloads 10 s apart."""
BURST_NS = 100_000_000
"""Running writes that follow one another as fast as this restart QEMU's second once between them."""
LONGEST_UPDATE_NS = 8 * SECOND_NS


@dataclass(frozen=True)
class Lag:
    """By how many seconds QEMU's RTC may lie behind ACRN's (negative: before it)."""

    least: int
    most: int

    @property
    def too_coarse(self) -> bool:
        """Whether a comparison within it would say nothing."""
        return self.most - self.least > COARSEST_S

    def wider(self, least: int, most: int) -> Lag:
        """The same, less certain."""
        return Lag(self.least + least, self.most + most)

    def holds(self, behind: int) -> bool:
        """Whether QEMU's may be so many seconds behind."""
        return self.least <= behind <= self.most


def at_start(late_ns: int) -> Lag:
    """Both begin with the same time; QEMU's clock some nanoseconds later than ACRN's."""
    return Lag(-1, 1 + math.ceil(late_ns / SECOND_NS))


def after(move: Move, before: Lag | None, since_ns: int | None) -> Lag | None:
    """The lag after a move of QEMU's RTC, given that before it; None: they need not agree at all.

    since_ns: from the move before it to this one. With all seven registers written the two show the same date but
    for the ticks in between, which each takes at its own moment. Otherwise QEMU starts the second anew, and takes
    the other registers as they were when they were last looked at. A running write starts QEMU's second at the
    fraction that the last un-halt left: where that is next to a whole one, every such write is a tick more.
    """
    if move.doubt:
        return None
    whole = None
    if move.span_ns is not None and move.span_ns <= LONGEST_UPDATE_NS:
        ticks = 1 + math.ceil(move.span_ns / SECOND_NS)
        whole = Lag(-ticks - move.gained_s, ticks)
    if before is None:
        return whole
    another = since_ns is None or since_ns > BURST_NS
    stale = math.ceil(move.stale_ns / SECOND_NS) if move.stale_ns > BURST_NS else 0
    partial = before.wider(-1, 1 + stale if another else 0)
    if whole is None:
        return None if partial.too_coarse else partial
    return Lag(max(whole.least, partial.least), min(whole.most, partial.most))
