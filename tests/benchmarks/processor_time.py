"""Samples processor time and memory of a running pytest and its helpers, of its device models, and of their QEMUs."""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_MEMORY_EVERY_S = 3.0
"""Seconds between two looks at memory: the kernel walks the pages of every process for one."""

_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds of processor time used up to a moment, by who used them."""

    t_ns: int
    harness: float
    device_models: float
    qemu: float


@dataclass(frozen=True)
class Footprint:
    """What processes took at a look. memory: their proportional share of it, in bytes; pytest's own below."""

    memory: int = 0
    processes: int = 0
    threads: int = 0
    descriptors: int = 0


class ProcessorClock:
    """A thread that looks into /proc every so many seconds, until the process has ended.

    footprint: the most memory at any look; threads and descriptors are those of pytest itself then.
    """

    def __init__(self, pid: int, period: float = 0.2) -> None:
        self._pid = pid
        self._period = period
        self._memory_at = time.monotonic() + _MEMORY_EVERY_S
        self.footprint = Footprint()
        self._last: dict[int, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="processor-clock", daemon=True)
        self.samples: list[ProcessorTime] = []

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop; `samples` is complete then."""
        self._stop.set()
        self._thread.join()

    def between(self, begin_ns: int, end_ns: int) -> ProcessorTime:
        """What was used between two moments, by the samples next to them; t_ns is the time between those."""
        first = min(self.samples, key=lambda each: abs(each.t_ns - begin_ns))
        last = min(self.samples, key=lambda each: abs(each.t_ns - end_ns))
        return ProcessorTime(
            last.t_ns - first.t_ns,
            last.harness - first.harness,
            last.device_models - first.device_models,
            last.qemu - first.qemu,
        )

    def _run(self) -> None:
        while True:
            self._sample()
            if self._stop.wait(self._period):
                return
            if time.monotonic() >= self._memory_at:
                self._weigh()
                self._memory_at = time.monotonic() + _MEMORY_EVERY_S

    def _sample(self) -> None:
        for pid in self._family():
            seconds = _own_time(pid)
            if seconds is not None:
                self._last[pid] = _who(pid), seconds
        # A process that has ended keeps the time it had used when it was last seen.
        used = {"qemu": 0.0, "harness": 0.0, "device model": 0.0}
        for who, seconds in self._last.values():
            used[who] += seconds
        self.samples.append(ProcessorTime(time.monotonic_ns(), used["harness"], used["device model"], used["qemu"]))

    def _weigh(self) -> None:
        family = self._family()
        memory = sum(map(_share_of_memory, family))
        if memory > self.footprint.memory:
            threads, descriptors = (_entries(f"/proc/{self._pid}/{what}") for what in ("task", "fd"))
            self.footprint = Footprint(memory, len(family), threads, descriptors)

    def _family(self) -> list[int]:
        found, at = [self._pid], 0
        while at < len(found):
            for children in Path(f"/proc/{found[at]}/task").glob("*/children"):
                try:
                    found += map(int, children.read_text(encoding="ascii").split())
                except OSError:
                    continue  # that thread has ended meanwhile
            at += 1
        return found


def _own_time(pid: int) -> float | None:
    """Seconds of processor time of all threads of a process, without its children's; None: it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _share_of_memory(pid: int) -> int:
    try:
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_bytes())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _entries(folder: str) -> int:
    try:
        return len(list(Path(folder).iterdir()))
    except OSError:
        return 0


def _who(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "harness"
    if b"qemu-system" in command.partition(b"\0")[0]:
        return "qemu"
    return "device model" if b"harness.devicemodel" in command else "harness"
