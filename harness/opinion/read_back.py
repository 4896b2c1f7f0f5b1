"""What a guest read of its RTC, held against the settled event before it: QEMU's RTC, so within its own grain."""

from __future__ import annotations

from harness.opinion.grain import Lag
from harness.opinion.moves import DATE_REGISTERS, REGISTER_B, SECOND_NS, SET, RtcBytes
from harness.opinion.opinions import CONSISTENT, INCONSISTENT, NO_OPINION, Said
from harness.opinion.records import ReadBack

STEPS = (REGISTER_B, *DATE_REGISTERS, 0x00)
"""The registers to read, in this order: the second twice, to see a tick in between."""
LONGEST_NS = 5 * SECOND_NS


def said_by_reads(reading: ReadBack, time: int, stamp_ns: int, lag: Lag) -> Said:
    """The guest's RTC is to show `time` and what has passed since `stamp_ns`; `lag`: by how much QEMU's may differ."""
    if tuple(register for register, _ in reading.reads) != STEPS or reading.end_ns - reading.start_ns > LONGEST_NS:
        return Said(NO_OPINION, "not read whole, or too slowly")
    (_, register_b), (_, second), *_, (_, second_after) = reading.reads
    if register_b & SET:
        return Said(NO_OPINION, "halted")
    if second_after != second:
        return Said(NO_OPINION, "it ticked in between")
    shown = RtcBytes(dict(reading.reads), register_b).date()
    earliest = time + (reading.start_ns - stamp_ns) // SECOND_NS
    latest = time + -((stamp_ns - reading.end_ns) // SECOND_NS)
    evidence = {"read": shown, "from": earliest, "to": latest, "lag": [lag.least, lag.most], "item": reading.item}
    if shown is not None and earliest - lag.most <= shown <= latest - lag.least:
        return Said(CONSISTENT, "", evidence)
    what = "no date" if shown is None else f"{shown}, {shown - earliest:+d} s from what the event says"
    return Said(INCONSISTENT, f"the guest read {what}", evidence)
