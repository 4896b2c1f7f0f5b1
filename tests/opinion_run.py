"""Builds what a guest leaves in a run directory, as far as the second opinion reads it."""

from __future__ import annotations

import calendar
import datetime
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.opinion.compare import opinions_of_guest
from harness.opinion.opinions import Opinion

BASE = 1_718_452_800
"""2024-06-15T12:00:00Z, what both RTCs show at the start."""
SECOND = 10**9
START_NS = 5_000 * SECOND
WALL_S = 1_795_000_000
ORDER = (0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32)


def at(text: str) -> int:
    """A UTC time as seconds since 1970."""
    return calendar.timegm(datetime.datetime.fromisoformat(text).timetuple())


def bcd(seconds: int) -> dict[int, int]:
    """The date registers of a time, BCD, 24 hours."""
    date = time.gmtime(seconds)
    century, year = divmod(date.tm_year, 100)
    numbers = (date.tm_sec, date.tm_min, date.tm_hour, date.tm_mday, date.tm_mon, year, century)
    return {register: (n // 10) << 4 | n % 10 for register, n in zip(ORDER, numbers, strict=True)}


class Records:
    """One guest's records. Times are seconds from its start; the machine runs from the first moment on."""

    def __init__(
        self, folder: Path, *, vrtc: str = "dm", iso: bool = False, first_line_s: float = 0.0, **start: Any
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._vrtc = vrtc
        self._iso = iso
        self._trace: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._changes: list[dict[str, Any]] = [{"t_ns": START_NS, "kind": "start"}]
        self._reads: list[dict[str, Any]] = []
        self.say("start", 0.0, format=1, vm="vm0", vrtc=vrtc, rtc_time=BASE, window_ns=SECOND, **start)
        self.line(first_line_s, "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)")

    # -- the trace ---------------------------------------------------------------------------------------

    def say(self, event: str, at_s: float, **details: Any) -> None:
        self._trace.append("# " + json.dumps({"event": event, "stamp_ns": _ns(at_s), **details}))

    def line(self, at_s: float, text: str) -> None:
        micros = round(at_s * 1_000_000)
        seconds, fraction = WALL_S + micros // 1_000_000, micros % 1_000_000
        stamp = f"99@{seconds}.{fraction:06}:"
        if self._iso:
            date = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
            stamp = f"{date:%Y-%m-%dT%H:%M:%S}.{fraction:06}Z "
        self._trace.append(f"{_ns(at_s) + 20_000} {_ns(at_s)} {stamp}{text}")

    def write(self, at_s: float, register: int, value: int) -> None:
        access = "memory_region_ops_write cpu 0 mr 0x1 addr {} value {:#x} size 1 name '{}'"
        self.line(at_s, access.format("0x70", register, "rtc-index"))
        self.line(at_s, access.format("0x71", value, "rtc"))

    def update(
        self, at_s: float, seconds: int, *, halted: bool = False, registers: Sequence[int] = ORDER, gap_s: float = 3e-5
    ) -> float:
        """Writes the registers of a time; returns when the last write was."""
        fields = bcd(seconds)
        writes = [(register, fields[register]) for register in registers]
        if halted:
            writes = [(0x0B, 0x82), *writes, (0x0B, 0x02)]
        for number, (register, value) in enumerate(writes):
            self.write(at_s + number * gap_s, register, value)
        return at_s + (len(writes) - 1) * gap_s

    # -- the others --------------------------------------------------------------------------------------

    def change(self, at_s: float, shows: int, *, bits: int = 64, origin: int = BASE) -> None:
        """QEMU's RTC was set to `shows` by a write at that time; told a second later."""
        offset = shows - origin - int(at_s)
        if bits == 32:
            offset = (offset + 2**31) % 2**32 - 2**31
        micros = round(at_s * 1_000_000) + 40
        stamp = {"seconds": WALL_S + micros // 1_000_000, "microseconds": micros % 1_000_000}
        event = {"event": "RTC_CHANGE", "timestamp": stamp, "data": {"offset": offset}}
        self._changes.append({"t_ns": _ns(at_s + 1), "kind": "rtc-change", "event": event})

    def event(self, written_s: float, new_time: int | None, delta: int | None = None, **more: Any) -> int:
        """The settled event of an update whose last write was at `written_s`; returns its arrival."""
        arrival = _ns(written_s) + SECOND + 300_000
        event = {"vm_event": 0, "new_time": new_time, "delta_time": delta, "source": self._vrtc, "vm": "vm0", **more}
        self._events.append({"t_ns": arrival, "kind": "object", "event": event})
        return arrival

    def read_back(self, at_s: float, seconds: int) -> None:
        fields = bcd(seconds)
        reads = [[0x0B, 0x02, 1], *([register, fields[register], 1] for register in (*ORDER, 0x00))]
        record = {"item": "next", "start_ns": _ns(at_s), "end_ns": _ns(at_s) + 1_000_000, "reads": reads}
        self._reads.append(record)

    def save(self, end_s: float = 1000.0, *, failure: str | None = None) -> Path:
        changes = [*self._changes, {"t_ns": _ns(end_s), "kind": "end", "failure": failure}]
        (self.folder / "trace.log").write_text("\n".join(self._trace) + "\n")
        for name, records in (("events", self._events), ("rtc-change", changes), ("read-back", self._reads)):
            (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return self.folder

    def opinions(self, end_s: float = 1000.0, *, failure: str | None = None) -> list[Opinion]:
        return opinions_of_guest(self.save(end_s, failure=failure))


def _ns(at_s: float) -> int:
    return START_NS + round(at_s * SECOND)
