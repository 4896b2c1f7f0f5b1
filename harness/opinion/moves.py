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
SET, UPDATE_INTERRUPT, BINARY, HOURS_24 = 0x80, 0x10, 0x04, 0x02
FORMAT = BINARY | HOURS_24
_RUNNING_DIVIDER = 0x20
_REFRESHING = frozenset((0x01, 0x03, 0x05, REGISTER_A, REGISTER_B))

_WRITE = re.compile(
    r"^\d+ (\d+) (?:\d+@(\d+)\.(\d{6}):|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{6})Z )?"
    r"memory_region_ops_write cpu -?\d+ mr \S+ addr (0x[0-9a-f]+) value (0x[0-9a-f]+) size 1 name 'rtc(?:-index)?'"
)
_RUN_STATE = re.compile(r"^\d+ (\d+) .*runstate_set current_run_state \d+ \((.*?)\) new_state \d+ \((.*?)\)")


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
    stand; None where one never was. stale_ns: how old the other registers' bytes may have been. doubt: why QEMU
    may have understood it otherwise than ACRN's vRTC; "" for most.
    """

    stamp_ns: int
    wall_us: int | None
    register: int
    span_ns: int | None
    stale_ns: int
    doubt: str
    bytes: RtcBytes


@dataclass
class RtcTrace:
    """What a guest's trace says of its RTC. Stamps are monotonic nanoseconds, lists are in order.

    vrtc: whose vRTC the guest has, "dm" or "hv". restored: QEMU's clock did not begin at 0. dates: every write to a
    date register, halted or not, as (stamp, register). breaks: (stamp, what) after which the two RTCs need not agree.
    runs: (from, to) in which QEMU's clock went; to is None while it goes. ended_ns: the last line's stamp.
    """

    vrtc: str = "dm"
    window_ns: int = SECOND_NS
    rtc_time: int = 0
    started_ns: int = 0
    restored: bool = False
    moves: list[Move] = field(default_factory=list)
    dates: list[tuple[int, int]] = field(default_factory=list)
    halted: bool = False
    register_b: int = 0
    breaks: list[tuple[int, str]] = field(default_factory=list)
    runs: list[tuple[int, int | None]] = field(default_factory=list)
    ended_ns: int = 0

    def elapsed_ns(self, stamp_ns: int) -> int:
        """How far QEMU's virtual clock had come."""
        return sum(
            max(0, min(stamp_ns, stamp_ns if end is None else end) - begin) for begin, end in self.runs
        )


def read_trace(lines: Iterable[str]) -> RtcTrace:
    """The moves of QEMU's RTC in a trace log; lines that cannot be read are a break."""
    reader = _Reader()
    for line in lines:
        reader.feed(line)
    return reader.trace


class _Reader:
    def __init__(self) -> None:
        self.trace = RtcTrace()
        self._index = 0
        self._register_a = 0x26
        self._register_b = HOURS_24
        self._written: dict[int, tuple[int, int]] = {}
        self._refreshed_ns = 0
        self._doubt = ""

    def feed(self, line: str) -> None:
        if line.startswith("# "):
            self._record(line[2:])
        elif "name 'rtc" in line:
            match = _WRITE.match(line)
            if match is not None:
                self._write(match)
            elif "ops_write" in line and "size 1 " in line:
                self.trace.breaks.append((self.trace.ended_ns, "unreadable trace"))
        elif "runstate_set" in line:
            self._run_state(line)
        elif "resettable_reset" in line and self.trace.runs:
            stamp = line.split(" ", 2)[1]
            self.trace.breaks.append((int(stamp) if stamp.isdecimal() else self.trace.ended_ns, "reset"))

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
            event, stamp_ns = "unreadable trace", self.trace.ended_ns
        if event not in ("start", "end"):
            self.trace.breaks.append((stamp_ns, event))

    def _run_state(self, line: str) -> None:
        match = _RUN_STATE.match(line)
        if match is None:
            return
        stamp, old, new = int(match[1]), match[2], match[3]
        runs = self.trace.runs
        self.trace.restored |= old == "inmigrate"
        if new == "running":
            runs.append((stamp, None))
        elif runs and runs[-1][1] is None:
            runs[-1] = (runs[-1][0], stamp)

    def _write(self, match: re.Match[str]) -> None:
        stamp, seconds, micros, date, date_micros, port, value = match.groups()
        stamp_ns, byte = int(stamp), int(value, 16) & 0xFF
        self.trace.ended_ns = stamp_ns
        if int(port, 16) == 0x70:
            self._index = byte & 0x7F
            return
        wall_us = None
        if seconds is not None:
            wall_us = int(seconds) * 1_000_000 + int(micros)
        elif date is not None:
            whole = calendar.timegm(tuple(int(part) for part in re.split("[-T:]", date)))
            wall_us = whole * 1_000_000 + int(date_micros)
        self._register(stamp_ns, wall_us, self._index, byte)

    def _register(self, stamp_ns: int, wall_us: int | None, register: int, byte: int) -> None:
        moves = False
        if register == PS2_CENTURY:
            register, self._doubt = CENTURY, "ps2-century"
        if register in DATE_REGISTERS:
            self.trace.dates.append((stamp_ns, register))
            self._written[register] = (byte, stamp_ns)
            if register == 0x00 and byte & 0x80:
                self._doubt = "second-bit-7"
        if register in DATE_REGISTERS or register == DAY_OF_WEEK:
            moves = self._running
        elif register == REGISTER_A:
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
        self.trace.register_b, self.trace.halted = byte, bool(byte & SET)
        changed = bool((was ^ byte) & FORMAT)
        if (was ^ byte) & SET and changed:
            self._doubt = "format-with-halt" if byte & SET else "format-with-unhalt"
        if changed and not was & byte & SET:
            self._written.clear()  # the RTC puts its bytes into the other format: they are not what was written
        return bool(was & SET) and self._running

    def _move(self, stamp_ns: int, wall_us: int | None, register: int) -> None:
        span = None
        if len(self._written) == len(DATE_REGISTERS):
            span = stamp_ns - min(at for _, at in self._written.values())
        stale = stamp_ns - self._refreshed_ns if register != REGISTER_B else 0
        known = {index: byte for index, (byte, _) in self._written.items()}
        move = Move(stamp_ns, wall_us, register, span, stale, self._doubt, RtcBytes(known, self._register_b))
        self.trace.moves.append(move)
        self._doubt = ""
