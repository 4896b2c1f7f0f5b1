"""What a guest read of its RTC around an update: on the hypervisor's vRTC only that brings the registers up to date."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reports.rundir import RunDir
from reports.slices import arrival_of, lines_before, lines_between
from reports.verdicts import REGISTERS, Verdict

_LAG_NS = 50_000_000
"""A line may arrive so much later than it was stamped."""

_MOST_LINES = 50_000
_ACCESS = re.compile(
    r"\d+ (?P<stamp>\d+) .*memory_region_ops_(?P<kind>write|read) .* addr 0x(?P<port>70|71)"
    r" value 0x(?P<value>[0-9a-f]+) size 1 name 'rtc(?:-index)?'"
)
_LAST_DATE_INDEX = 0x32
"""A read of an index up to here brings the date registers up to date (ACRN.md)."""

_MOVING = frozenset({0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, *range(0x32, 0x38)})
"""A write to one of these makes the clock what the registers say, which is as good as up to date."""


@dataclass(frozen=True)
class RtcAccess:
    """One access to the data port: monotonic ns, register, and whether it was a write."""

    at_ns: int
    index: int
    written: bool

    @property
    def text(self) -> str:
        """`read 0b B`."""
        name = REGISTERS.get(self.index, f"byte 0x{self.index:02x}")
        return f"{'write' if self.written else 'read'} {self.index:02x} {name}"


@dataclass(frozen=True)
class Reads:
    """As of when the registers stood at an update's first write (None: not known), and what was read after that."""

    as_of: RtcAccess | None = None
    later: tuple[RtcAccess, ...] = ()


NO_READS = Reads()


def reads_of(run: RunDir, verdict: Verdict) -> Reads:
    """What the trace of the update's guest has; nothing for a guest that has not the hypervisor's vRTC."""
    stamps = [write.stamp_ns for write in verdict.writes]
    if run.vrtc(verdict.vm) != "hv" or not stamps:
        return NO_READS
    first, last = min(stamps), max(stamps)
    trace = run.guest(verdict.vm) / "trace.log"
    try:
        # Their index ports' writes came first.
        during = list(_accesses(lines_between(trace, arrival_of, first - _LAG_NS, last + _LAG_NS)))
        before = itertools.islice(lines_before(trace, arrival_of, first + _LAG_NS), _MOST_LINES)
        as_of = next((each for each in _backwards(before) if each.at_ns < first and _up_to_date(each)), None)
    except OSError:
        return NO_READS  # told of where the raw lines are shown
    return Reads(as_of, tuple(each for each in during if first <= each.at_ns <= last and not each.written))


def _up_to_date(access: RtcAccess) -> bool:
    return access.index in _MOVING if access.written else access.index <= _LAST_DATE_INDEX


def _accesses(lines: Iterable[str]) -> Iterator[RtcAccess]:
    index: int | None = None
    for match in filter(None, map(_ACCESS.match, lines)):
        if match["port"] == "70":
            index = int(match["value"], 16) & 0x7F if match["kind"] == "write" else index
        elif index is not None:
            yield RtcAccess(int(match["stamp"]), index, match["kind"] == "write")


def _backwards(lines: Iterable[str]) -> Iterator[RtcAccess]:
    """The accesses of lines that come the last one first."""
    waiting: list[re.Match[str]] = []
    for match in filter(None, map(_ACCESS.match, lines)):
        if match["port"] == "71":
            waiting.append(match)
        elif match["kind"] == "write":
            index = int(match["value"], 16) & 0x7F
            yield from (RtcAccess(int(each["stamp"]), index, each["kind"] == "write") for each in waiting)
            waiting.clear()
