"""Reads the raw trace log for what moved QEMU's own RTC: its MC146818, which is not ACRN's virtual one."""

from __future__ import annotations

import calendar
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

SECOND_NS = 10**9
DATE_REGISTERS = (0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32)
CENTURY, DAY_OF_WEEK, REGISTER_A, REGISTER_B, PS2_CENTURY = 0x32, 0x06, 0x0A, 0x0B, 0x37
SET, BINARY, HOURS_24 = 0x80, 0x04, 0x02
FORMAT = BINARY | HOURS_24
FORMAT_WITH_HALT = "format-with-halt"
LAST_YEAR, LAST_TIME = 2262, 9_214_646_400
"""QEMU's RTC counts nanoseconds since 1970 in 64 bits, which end in that year; 2262-01-01."""
CLOCK_STEP, UNREADABLE = "clock-step", "unreadable trace"
"""Breaks near which stamps, or the writes that are known, cannot be relied on."""
_RUNNING_DIVIDER = 0x20
_INDEX_PORT = 0x70
_REFRESHING = frozenset((0x01, 0x03, 0x05, REGISTER_A, REGISTER_B))

_LINE = re.compile(
    r"^\d+ (\d+) (?:\d+@(\d+)\.(\d{6}):|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{6})Z )?(\w+)"
    r"(?: cpu -?\d+ mr \S+ addr (0x[0-9a-f]+) value (0x[0-9a-f]+) size 1 name 'rtc(?:-index)?'"
    r"| current_run_state \d+ \((.*?)\) new_state \d+ \((.*?)\))?"
)


class RtcBytes(NamedTuple):
    """The bytes of the seven date registers, as last written, and register B, which says how to read them."""

    registers: dict[int, int]
    register_b: int

    def date(self) -> int | None:
        """Seconds since 1970 UTC; None where a register is not known or the bytes are no date."""
        fields = [self._number(self.registers.get(register)) for register in DATE_REGISTERS]
        hour = self._hour(self.registers.get(0x04))
        if any(number is None for number in fields) or hour is None:
            return None
        second, minute, _, day, month, year, century = (number or 0 for number in fields)
        date = (century * 100 + year, month, day, hour, minute, second)
        try:
            seconds = calendar.timegm((*date, 0, 0, 0))
        except (ValueError, OverflowError):
            return None
        valid = 1 <= month <= 12 and 1 <= day <= calendar.monthrange(date[0], month)[1] and minute < 60 and second < 60
        return seconds if valid else None

    def number(self, register: int) -> int | None:
        """What one register's byte means; None where that is not known."""
        return self._number(self.registers.get(register))

    def _number(self, byte: int | None) -> int | None:
        if byte is None or self.register_b & BINARY:
            return byte
        return None if byte & 0x0F > 9 else (byte >> 4) * 10 + (byte & 0x0F)

    def _hour(self, byte: int | None) -> int | None:
        if byte is None or self.register_b & HOURS_24:
            hour = self._number(byte)
            return hour if hour is not None and hour < 24 else None
        hour = self._number(byte & 0x7F)
        return None if hour is None or not 1 <= hour <= 12 else hour % 12 + (12 if byte & 0x80 else 0)


@dataclass(frozen=True)
class Move:
    """A write after which QEMU's RTC shows what its registers say, and RTC_CHANGE says so.

    wall_us: QEMU's own stamp. span_ns: how long before it the first of the seven registers was written, as they now
    stand; None where one never was, or may have become another one since. stale_ns: how old the other registers'
    bytes may have been. doubt: why QEMU may have understood it otherwise than ACRN's vRTC; "" for most.
    gained_s: how many running writes came after that first one: QEMU's RTC may be as much ahead.
    halted_ns: where an un-halt took registers that were not written while it was halted: since when it was.
    """

    stamp_ns: int
    wall_us: int | None
    register: int
    span_ns: int | None
    stale_ns: int
    doubt: str
    bytes: RtcBytes
    gained_s: int = 0
    halted_ns: int | None = None


@dataclass
class RtcTrace:
    """What a guest's trace says of its RTC. Stamps are monotonic nanoseconds, lists are in order.

    vrtc: whose vRTC the guest has, "dm" or "hv". restored: it was not booted here. dates: every write to a date
    register, halted or not, as (stamp, register). breaks: (stamp, what) after which the two RTCs need not agree.
    ran_ns: when the machine first ran, and QEMU's RTC with it. started_wall_us: between which two wall clocks QEMU
    started, and began to count the time that its offsets refer to; None where its lines have no stamps of its own.
    """

    vrtc: str = "dm"
    window_ns: int = SECOND_NS
    rtc_time: int = 0
    started_ns: int = 0
    restored: bool = False
    moves: list[Move] = field(default_factory=list)
    dates: list[tuple[int, int]] = field(default_factory=list)
    breaks: list[tuple[int, str]] = field(default_factory=list)
    ran_ns: int | None = None
    started_wall_us: tuple[int, int] | None = None


def read_trace(lines: Iterable[str]) -> RtcTrace:
    """The moves of QEMU's RTC in a trace log; lines that cannot be read are a break."""
    reader = _Reader()
    for line in lines:
        reader.feed(line)
    return reader.trace


class _Written(NamedTuple):
    """A register as it was last written; moved: how many running writes there had been by then, with this one."""

    byte: int
    stamp_ns: int
    moved: int


class _Reader:
    def __init__(self) -> None:
        self.trace = RtcTrace()
        self._last_ns = 0
        self._index = 0
        self._register_a = 0x26
        self._register_b = HOURS_24
        self._written: dict[int, _Written] = {}
        self._carried: set[int] = set()
        """Registers of which QEMU may have made others since they were written: there was no such date."""
        self._moved = 0
        self._halted_ns = 0
        self._refreshed_ns = 0
        self._doubt = ""

    def feed(self, line: str) -> None:
        if line.startswith("# "):
            self._record(line[2:])
            return
        match = _LINE.match(line)
        if match is None:
            self.trace.breaks.append((self._last_ns, UNREADABLE))
            return
        stamp_ns, what, port = int(match[1]), match[6], match[7]
        self._last_ns = stamp_ns
        if self.trace.started_wall_us is None and (wall_us := _wall_us(match)) is not None:
            self.trace.started_wall_us = wall_us - (stamp_ns - self.trace.started_ns) // 1000, wall_us
        if port is not None and what == "memory_region_ops_write":
            if int(port, 16) == _INDEX_PORT:
                self._index = int(match[8], 16) & 0x7F
            else:
                self._register(stamp_ns, _wall_us(match), self._index, int(match[8], 16) & 0xFF)
        elif match[10] is not None:
            self._run_state(stamp_ns, match[9], match[10])
        elif what == "resettable_reset" and self.trace.ran_ns is not None:
            self.trace.breaks.append((stamp_ns, "reset"))
            self._written.clear()  # QEMU's RTC keeps its registers, the device model's does not

    def _record(self, text: str) -> None:
        try:
            record = json.loads(text)
            event, stamp_ns = str(record["event"]), int(record["stamp_ns"])
            if event == "start":
                self.trace.vrtc = str(record["vrtc"])
                self.trace.window_ns = int(record.get("window_ns") or SECOND_NS)
                self.trace.rtc_time, self.trace.started_ns = int(record["rtc_time"]), stamp_ns
                self.trace.restored = "register_a" in record
        except (ValueError, KeyError, TypeError):
            event, stamp_ns = UNREADABLE, self._last_ns
        if event not in ("start", "end"):
            self.trace.breaks.append((stamp_ns, event))

    def _run_state(self, stamp_ns: int, old: str, new: str) -> None:
        self.trace.restored |= old == "inmigrate"
        if self.trace.ran_ns is None and new == "running":
            self.trace.ran_ns = stamp_ns
        elif self.trace.ran_ns is not None:
            self.trace.breaks.append((stamp_ns, "stopped"))  # QEMU's RTC stands then, and ACRN's does not

    def _register(self, stamp_ns: int, wall_us: int | None, register: int, byte: int) -> None:
        moves = False
        if register == PS2_CENTURY:
            register, self._doubt = CENTURY, "ps2-century"
        if register in DATE_REGISTERS or register == DAY_OF_WEEK:
            moves = self._running
            self._moved += moves
        if register in DATE_REGISTERS:
            self.trace.dates.append((stamp_ns, register))
            self._written[register] = _Written(byte, stamp_ns, self._moved)
            self._carried.discard(register)
            if register == 0x00 and byte & 0x80:
                self._doubt = "second-bit-7"
        if register == REGISTER_A:
            moves = self._divider(byte)
        elif register == REGISTER_B:
            moves = self._control(byte)
        if moves:
            self._move(stamp_ns, wall_us, register)
        if moves or register in _REFRESHING:
            self._refreshed_ns = stamp_ns

    @property
    def _running(self) -> bool:
        return not self._register_b & SET and self._register_a & 0x70 <= _RUNNING_DIVIDER

    def _divider(self, byte: int) -> bool:
        was, self._register_a = self._register_a, byte
        if byte & 0x70 != _RUNNING_DIVIDER or was & 0x70 != _RUNNING_DIVIDER:
            self._doubt = "divider-reserved"
        return was & 0x60 == 0x60 and self._running

    def _control(self, byte: int) -> bool:
        was, self._register_b = self._register_b, byte
        changed = bool((was ^ byte) & FORMAT)
        if byte & SET and not was & SET:
            self._halted_ns = self._last_ns
        if (was ^ byte) & SET and changed:
            self._doubt = FORMAT_WITH_HALT if byte & SET else "format-with-unhalt"
        if changed and was & byte & SET and self.trace.vrtc == "hv":
            self._doubt = "format-while-halted"
        if changed and not was & byte & SET:
            self._written.clear()  # the RTC puts its bytes into the other format: they are not what was written
        return bool(was & SET) and self._running

    def _move(self, stamp_ns: int, wall_us: int | None, register: int) -> None:
        span, gained, halted = None, 0, None
        unhalt = register == REGISTER_B
        if len(self._written) == len(DATE_REGISTERS):
            first = min(self._written.values(), key=lambda written: written.stamp_ns)
            # What a running write made of the others is seen by what they are set to; an un-halt takes all as they are.
            if not (unhalt and self._carried):
                span, gained = stamp_ns - first.stamp_ns, self._moved - first.moved
            if self._doubt == FORMAT_WITH_HALT:
                self._doubt = ""  # the bytes that stayed in the old format have all been written anew
        if unhalt and self._kept:
            halted = self._halted_ns
        stale = 0 if unhalt else stamp_ns - self._refreshed_ns
        known = RtcBytes({index: written.byte for index, written in self._written.items()}, self._register_b)
        self.trace.moves.append(Move(stamp_ns, wall_us, register, span, stale, self._doubt, known, gained, halted))
        self._doubt = ""
        date = known.date()
        if date is None or date >= LAST_TIME:
            self._carried = set(self._written)

    @property
    def _kept(self) -> bool:
        """Whether not all seven registers have been written since the clock was last halted."""
        written = [written for written in self._written.values() if written.stamp_ns >= self._halted_ns]
        return len(written) < len(DATE_REGISTERS)


def _wall_us(match: re.Match[str]) -> int | None:
    """QEMU's own stamp of a line, microseconds since 1970: in newer versions (11.1) a date; None without one."""
    _, seconds, micros, date, date_micros = match.groups()[:5]
    if seconds is not None:
        return int(seconds) * 1_000_000 + int(micros)
    if date is None:
        return None
    return calendar.timegm(tuple(int(part) for part in re.split("[-T:]", date))) * 1_000_000 + int(date_micros)
