"""Writes synthetic run directories for the judge's tests, as device model, listener and engine do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

SECOND = 1_000_000_000
MS = 1_000_000
T0 = 1_000 * SECOND
"""When the synthetic device model starts, monotonic."""
WALL0 = 1_795_511_679 * SECOND
"""QEMU's wall clock at monotonic 0."""
RTC0 = 1_718_452_800
"""2024-06-15 12:00:00 UTC."""

Write = tuple[int, int]
Step = tuple[int, int, int | None]
"""Nanoseconds after the start, register, value; a value None is a read."""


@dataclass
class RunWriter:
    """One guest's run directory. Times are monotonic nanoseconds; every call appends and flushes."""

    run: Path
    vm: str = "vm0"
    lag_ns: int = 20_000
    iso_stamps: bool = False
    """Whether QEMU stamps its lines as 11.1 does."""

    def __post_init__(self) -> None:
        self.dir = self.run / self.vm
        self.dir.mkdir(parents=True, exist_ok=True)
        self._kept: dict[str, list[str]] | None = None

    @contextlib.contextmanager
    def buffered(self) -> Iterator[None]:
        """Within it nothing is written; at its end everything at once."""
        self._kept = {}
        yield
        kept, self._kept = self._kept, None
        for name, texts in kept.items():
            self.append(name, "".join(texts))

    def append(self, name: str, text: str) -> None:
        if self._kept is not None:
            self._kept.setdefault(name, []).append(text)
            return
        with (self.dir / name).open("a", encoding="utf-8") as out:
            out.write(text)

    def record(self, event: str, stamp_ns: int, **fields: Any) -> None:
        self.append("trace.log", "# " + json.dumps({"event": event, "stamp_ns": stamp_ns, **fields}) + "\n")

    def start(self, stamp_ns: int = T0, rtc_time: int = RTC0, **fields: Any) -> None:
        defaults = {"format": 1, "vm": self.vm, "vrtc": "dm", "window_ns": SECOND}
        self.record("start", stamp_ns, rtc_time=rtc_time, **{**defaults, **fields})

    def trace(self, stamp_ns: int, text: str, *, lag_ns: int | None = None, wall_ns: int | None = None) -> None:
        wall_us = ((stamp_ns + WALL0) if wall_ns is None else wall_ns) // 1_000
        arrival_ns = stamp_ns + (self.lag_ns if lag_ns is None else lag_ns)
        stamp = f"19433@{wall_us // 1_000_000}.{wall_us % 1_000_000:06d}:"
        if self.iso_stamps:
            stamp = f"{datetime.fromtimestamp(wall_us // 1_000_000, timezone.utc):%FT%T}.{wall_us % 1_000_000:06d}Z "
        self.append("trace.log", f"{arrival_ns} {stamp_ns} {stamp}{text}\n")

    def port(self, stamp_ns: int, port: int, value: int, **options: Any) -> None:
        name = "rtc-index" if port == 0x70 else "rtc"
        text = f"memory_region_ops_write cpu 0 mr 0x55d0 addr {port:#x} value {value:#x} size 1 name '{name}'"
        self.trace(stamp_ns, text, **options)

    def write(self, stamp_ns: int, register: int, value: int, **options: Any) -> None:
        self.port(stamp_ns, 0x70, register | 0x80, **options)
        self.port(stamp_ns, 0x71, value, **options)

    def read(self, stamp_ns: int, register: int, value: int = 0x55, **options: Any) -> None:
        """What a guest reads is QEMU's RTC, so the value says nothing."""
        self.port(stamp_ns, 0x70, register | 0x80, **options)
        text = f"memory_region_ops_read cpu 0 mr 0x55d0 addr 0x71 value {value:#x} size 1 name 'rtc'"
        self.trace(stamp_ns, text, **options)

    def journal(self, kind: str, **fields: Any) -> None:
        self.append("events.jsonl", json.dumps({"kind": kind, **fields}) + "\n")

    def event(self, t_ns: int, payload: Any) -> None:
        self.journal("object", t_ns=t_ns, event=payload)

    def item(self, name: str, start_ns: int, end_ns: int, writes: Iterable[Write] | None, **fields: Any) -> None:
        line = {
            "item": name,
            "role": "update",
            "mode": "running",
            "order": [0, 2, 4, 7, 8, 9, 50],
            "start_ns": start_ns,
            "end_ns": end_ns,
            "writes": None if writes is None else [[index, value, 0] for index, value in writes],
            "ok": True,
            "error": None,
            "expect": "any",
            **fields,
        }
        self.append("agent.jsonl", json.dumps(line) + "\n")

    def access(self, stamp_ns: int, register: int, value: int | None) -> None:
        """A write, or a read where there is no value."""
        if value is None:
            self.read(stamp_ns, register)
        else:
            self.write(stamp_ns, register, value)

    def do(self, name: str, start_ns: int, steps: Sequence[Step], **fields: Any) -> int:
        """An item that does these steps; returns the last stamp."""
        for after_ns, register, value in steps:
            self.access(start_ns + after_ns, register, value)
        last_ns = start_ns + (steps[-1][0] if steps else 0)
        self.item(name, start_ns - MS, last_ns + MS, writes_of(steps), **fields)
        return last_ns


def writes_of(steps: Iterable[Step]) -> list[Write]:
    """What the agent reports of such steps."""
    return [(register, value) for _, register, value in steps if value is not None]


def settled(last: int, new: int, delta: int, raw: int, vm: str = "vm0", **more: Any) -> dict[str, Any]:
    """A settled event as the service writes it."""
    return {
        "vm_event": 0,
        "last_time": last,
        "new_time": new,
        "delta_time": delta,
        "raw_events": raw,
        "source": "dm",
        "vm": vm,
        **more,
    }
