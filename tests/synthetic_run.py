"""Builds run directories as the harness writes them, so that reports are tested without a guest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BASE = 1_718_452_800
WINDOW = 1_000_000_000
BOOT = 5_000_000_000_000
ORDER = (0x32, 0x09, 0x08, 0x07, 0x04, 0x02, 0x00)
VALUES = {0x32: 0x20, 0x09: 0x24, 0x08: 0x06, 0x07: 0x16, 0x04: 0x12, 0x02: 0x00, 0x00: 0x00}
WRITE_GAP = 31_000


class SyntheticRun:
    """A run directory under construction; every method writes what the harness would have written by then."""

    def __init__(
        self, path: Path, *, guests: tuple[str, ...] = ("vm0",), on_hv: tuple[str, ...] = (), seed: int = 42
    ) -> None:
        self.path = path
        self.guests = guests
        self.info: dict[str, Any] = {
            "format": 1,
            "seed": seed,
            "started": "2026-11-24T11:00:00Z",
            "ended": None,
            "command": ["pytest", "scenarios"],
            "versions": {"harness": "0.1.0", "python": "3.11.7", "qemu": "7.2.22", "kernel": "6.1.0"},
            "bench": {"file": "fixtures/benches/qemu.yaml", "name": "qemu-only"},
            "rtc_base": BASE,
            "clock": {"monotonic_ns": BOOT, "wall_ns": 1_795_000_000_000_000_000},
            "window_ns": WINDOW,
            "estimate_tolerance": 0,
            "guests": {
                name: {"machine": "pc", "vrtc": "hv" if name in on_hv else "dm"} for name in guests
            },
            "errors": [],
        }
        for name in guests:
            (path / name).mkdir(parents=True)
            self._line(name, "trace.log", f'# {{"event":"start","format":1,"vm":"{name}","stamp_ns":{BOOT}}}')
        self.save()

    def save(self) -> None:
        (self.path / "run.json").write_text(json.dumps(self.info))

    def end(self, *errors: dict[str, str]) -> None:
        self.info["ended"] = "2026-11-24T11:01:30Z"
        self.info["errors"] = list(errors)
        self.save()

    def update(
        self,
        item: str,
        *,
        vm: str = "vm0",
        number: int = 0,
        mode: str = "running",
        delta: int = 86_400,
        latency_ms: float | None = 0.31,
        **changes: Any,
    ) -> dict[str, Any]:
        """One judged update with all its records; `changes` alter the verdict."""
        first = BOOT + 10_000_000_000 + number * 1_300_000_000
        writes = [[first + i * WRITE_GAP, index, VALUES[index], True] for i, index in enumerate(ORDER)]
        last = writes[-1][0]
        due = last + WINDOW
        event = self.event(vm=vm, delta=delta)
        seen = []
        if latency_ms is not None:
            arrival = due + int(latency_ms * 1e6)
            seen = [{"t_ns": arrival, "event": event, "after_due_ms": latency_ms, "faults": []}]
        verdict: dict[str, Any] = {
            "item": item,
            "revision": 1,
            "vm": vm,
            "verdict": "pass",
            "role": "update",
            "mode": mode,
            "order": list(ORDER),
            "diagnosis": "",
            "faults": [],
            "defect": None,
            "expected": [self.expected(writes, delta=delta)],
            "seen": seen,
            "writes": writes,
            "latency_ms": latency_ms,
            "decided_ns": due + 200_000_000,
            **changes,
        }
        self._records(vm, verdict, first, last)
        self._line(vm, "verdicts.jsonl", json.dumps(verdict))
        return verdict

    @staticmethod
    def event(*, vm: str = "vm0", delta: int = 86_400, **changes: Any) -> dict[str, Any]:
        return {
            "vm_event": 0,
            "last_time": BASE,
            "new_time": BASE + delta,
            "delta_time": delta,
            "raw_events": 7,
            "source": "dm",
            "vm": vm,
            **changes,
        }

    @staticmethod
    def expected(writes: list[list[Any]], *, delta: int = 86_400, **changes: Any) -> dict[str, Any]:
        return {
            "last_time": BASE,
            "new_time": BASE + delta,
            "delta_time": delta,
            "raw_events": 7,
            "estimated": False,
            "first_ns": writes[0][0],
            "last_ns": writes[-1][0],
            "due_ns": writes[-1][0] + WINDOW,
            "last_arrival_ns": writes[-1][0] + 20_000,
            **changes,
        }

    def access(self, vm: str, stamp: int, index: int, value: int, kind: str = "write") -> None:
        """One register access as the trace has it: the index port's write, then the data port."""
        for how, addr, byte, region in (("write", 0x70, index, "rtc-index"), (kind, 0x71, value, "rtc")):
            raw = f"77@1795511679.603286:memory_region_ops_{how} cpu 0 mr 0x55 addr {addr:#x}"
            raw += f" value {byte:#x} size 1 name '{region}'"
            self._line(vm, "trace.log", f"{stamp + 20_000} {stamp} {raw}")

    def append(self, vm: str, name: str, text: str) -> None:
        with (self.path / vm / name).open("a", encoding="utf-8") as file:
            file.write(text)

    def _line(self, vm: str, name: str, text: str) -> None:
        self.append(vm, name, text + "\n")

    def _records(self, vm: str, verdict: dict[str, Any], first: int, last: int) -> None:
        for stamp, index, value, _ in verdict["writes"]:
            self.access(vm, stamp, index, value)
        for seen in verdict["seen"]:
            journal = {"t_ns": seen["t_ns"], "kind": "object", "event": seen["event"]}
            self._line(vm, "events.jsonl", json.dumps(journal))
        report = {
            "item": verdict["item"],
            "role": verdict["role"],
            "mode": verdict["mode"],
            "order": verdict["order"],
            "start_ns": first - 1_000_000,
            "end_ns": last + 2_000_000,
            "writes": [[index, value, 0] for _, index, value, _ in verdict["writes"]],
            "ok": True,
            "error": None,
            "expect": "any",
        }
        self._line(vm, "agent.jsonl", json.dumps(report))
        self._line(vm, "plans.yaml", f"- item: {verdict['item']}\n  mode: {verdict['mode']}\n  pauses: none")
        if verdict["verdict"] == "product fault":
            replay = self.path / vm / "replay"
            replay.mkdir(exist_ok=True)
            (replay / f"{verdict['item']}.yaml").write_text(f"- item: {verdict['item']}\n  replayed: true\n")
