"""Small references for the judge's tests: the two vRTCs for dates as they are usual, and a service that settles.

They share nothing with the judge's models: dates by Python's calendar, the clock as one moment and what it showed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

SECOND = 1_000_000_000
REGISTERS = (0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32)
INVALID = -1
Raw = tuple[int, int]
"""What a vRTC tells: the RTC before the write, and by how much it was moved."""


def bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


def register_values(time: int, bits: int = 0x02) -> dict[int, int]:
    """The seven register bytes of a time in the format of register B's bits: 0x04 binary, 0x02 24 h."""
    at = datetime.fromtimestamp(time, timezone.utc)
    values = [at.second, at.minute, at.hour, at.day, at.month, at.year % 100, at.year // 100]
    if not bits & 0x02:
        values[2] = at.hour % 12 or 12
    registers = {r: value if bits & 0x04 else bcd(value) for r, value in zip(REGISTERS, values, strict=True)}
    if not bits & 0x02 and at.hour >= 12:
        registers[0x04] |= 0x80
    return registers


def time_of(registers: dict[int, int], last_year: int = 9999, bits: int = 0x02) -> int:
    """The time of seven register bytes; INVALID for what is no date."""
    found = [registers[each] for each in REGISTERS]
    afternoon = not bits & 0x02 and found[2] & 0x80
    if afternoon:
        found[2] &= 0x7F
    try:
        second, minute, hour, day, month, year, century = (n if bits & 0x04 else int(f"{n:x}") for n in found)
        if not bits & 0x02:
            hour = {12: 0, **{n: n for n in range(1, 12)}}[hour] + (12 if afternoon else 0)
        at = datetime(century * 100 + year, month, day, hour, minute, second, tzinfo=timezone.utc)
    except (ValueError, KeyError):
        return INVALID
    return int(at.timestamp()) if 1970 <= at.year <= last_year else INVALID


@dataclass
class DmReference:
    """The device model's vRTC; it ticks on whole seconds of the stamps."""

    time: int
    start_ns: int
    registers: dict[int, int] = field(default_factory=dict)
    remembered: int | None = None

    def __post_init__(self) -> None:
        self.at_s = self.start_ns // SECOND

    def now(self, stamp_ns: int) -> int:
        return self.time if self.time == INVALID else self.time + stamp_ns // SECOND - self.at_s

    def write(self, stamp_ns: int, register: int, value: int) -> Raw | None:
        now = self.now(stamp_ns)
        if register == 0x0B and value & 0x80 and self.remembered is None:
            self.remembered, self.registers = now, register_values(now)
        elif register == 0x0B and not value & 0x80 and self.remembered is not None:
            before, self.remembered = self.remembered, None
            self.time, self.at_s = time_of(self.registers), stamp_ns // SECOND
            return None if self.time in (before, INVALID) else (before, self.time - before)
        elif register in REGISTERS and self.remembered is not None:
            self.registers[register] = value
        elif register in REGISTERS:
            if now != INVALID:
                self.registers = register_values(now)
            self.registers[register] = value
            self.time, self.at_s = time_of(self.registers), stamp_ns // SECOND
            return None if self.time == INVALID else (now, self.time - now)
        return None

    def read(self, stamp_ns: int, register: int) -> None:
        """Changes nothing."""


@dataclass
class HvReference:
    """The hypervisor's vRTC; it ticks where a whole second has passed since the start."""

    time: int
    start_ns: int
    offset_s: int = 0

    def __post_init__(self) -> None:
        self.registers = register_values(self.time)
        self.bits = 0x02
        self.runs = self.time > 0
        self.time += self.offset_s
        self.at_s = 0

    def now(self, stamp_ns: int) -> int:
        passed_s = (stamp_ns - self.start_ns) // SECOND
        return self.time + passed_s - self.at_s if self.runs else INVALID

    def write(self, stamp_ns: int, register: int, value: int) -> Raw | None:
        if register == 0x0B:
            self.bits = value
        if register in (0x01, 0x03, 0x05, 0x0A, 0x0B, 0x0C, 0x0D) or register > 0x37:
            return None
        now = self.now(stamp_ns)
        self.registers[register] = value % 128 if register == 0 else value
        self.time, self.at_s = time_of(self.registers, 2037, self.bits), (stamp_ns - self.start_ns) // SECOND
        return (now, self.time - now) if register in REGISTERS else None

    def read(self, stamp_ns: int, register: int) -> None:
        if register <= 0x32 and 0 < self.now(stamp_ns) < 2_145_916_800:
            self.registers.update(register_values(self.now(stamp_ns), self.bits))


@dataclass
class Settled:
    """One settled event that must come; last_time and delta_time are None where nobody knows them."""

    due_ns: int
    first_ns: int
    payload: dict[str, Any]


class ServiceReference:
    """Raw events in, settled events out; `known` is what the RTC is known to have shown, and when."""

    def __init__(self, source: str, vm: str, known: tuple[int, int] | None) -> None:
        self.source, self.vm, self.known = source, vm, known
        self.events: list[Settled] = []
        self._last_ns = -10 * SECOND
        self._stood_at_minus_one = False

    def add(self, stamp_ns: int, last: int, delta: int) -> None:
        after, flags = last + delta, set[str]()
        before: int | None = last
        if last == -1 and not self._stood_at_minus_one:
            flags.add("estimated")
            before = None if self.known is None else self.known[0] + stamp_ns // SECOND - self.known[1] // SECOND
        elif self.known is not None and not 0 <= last - self.known[0] <= (stamp_ns - self.known[1]) / SECOND + 1.25:
            flags.add("lost")
        step = None if before is None else after - before
        self.known, self._stood_at_minus_one = (after, stamp_ns), after == -1
        if stamp_ns - self._last_ns >= SECOND:
            payload = {"vm_event": 0, "last_time": before, "new_time": None, "delta_time": 0, "raw_events": 0}
            self.events.append(Settled(0, stamp_ns, {**payload, "source": self.source, "vm": self.vm}))
        self._last_ns = stamp_ns
        event = self.events[-1]
        event.due_ns = stamp_ns + SECOND
        total = event.payload["delta_time"]
        event.payload.update(new_time=after, delta_time=None if None in (total, step) else total + step)
        event.payload["raw_events"] += 1
        event.payload.update(dict.fromkeys(sorted(flags), True))
