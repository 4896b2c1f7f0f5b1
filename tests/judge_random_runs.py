"""Random runs of updates, and a tamperer between service and listener, for the judge's tests."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.judge.updates import Chronicle, Timing
from harness.judge.witness import Access, Started
from tests.judge_run import MS, RTC0, SECOND, T0, RunWriter, settled

REGISTERS = (0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32)
Step = tuple[int, int, int]


def bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


def register_values(time: int) -> dict[int, int]:
    """The seven register bytes of a time, BCD and 24 h."""
    at = datetime.fromtimestamp(time, timezone.utc)
    values = (at.second, at.minute, at.hour, at.day, at.month, at.year % 100, at.year // 100)
    return {register: bcd(value) for register, value in zip(REGISTERS, values, strict=True)}


@dataclass
class Sent:
    """A settled event: whose it is, when it comes, what it says; when its update was due and begun."""

    item: str
    t_ns: int
    payload: dict[str, Any]
    due_ns: int
    first_ns: int
    tampered: str = ""


@dataclass
class RandomRun:
    """Items on one guest and the events a faithful service sends for them."""

    rng: random.Random
    items: int
    steps: dict[str, tuple[int, list[Step]]] = field(default_factory=dict)
    events: list[Sent] = field(default_factory=list)
    end_ns: int = 0

    def __post_init__(self) -> None:
        self._chronicle = Chronicle(Timing())
        self._chronicle.start(Started(T0, RTC0, "dm", "vm0", SECOND))
        self._noop_until_ns = 0
        now_ns = T0 + 3 * SECOND + self.rng.randrange(SECOND)
        for number in range(self.items):
            now_ns = self._add_item(f"{self.rng.choice(('random', 'halted'))}-{number:03d}", now_ns)
        self.end_ns = now_ns + 7 * SECOND

    def _add_item(self, name: str, now_ns: int) -> int:
        kind = self.rng.choices((self._running, self._halted, self._noop, self._silent, self._two), (8, 6, 1, 2, 2))[0]
        if kind == self._noop:
            now_ns = max(now_ns, self._noop_until_ns)
        steps = kind()
        self.steps[name] = (now_ns, steps)
        first_update = len(self._chronicle.updates)
        for after_ns, register, value in steps:
            stamp_ns = now_ns + after_ns
            self._chronicle.write(Access(stamp_ns, stamp_ns + 20_000, register, value, False))
        free_ns = now_ns + steps[-1][0] + SECOND + 150 * MS
        for update in self._chronicle.updates[first_update:]:
            (event,) = update.events
            t_ns = event.due_ns + self.rng.randrange(50_000, 3 * MS)
            last = event.last_time
            assert last is not None and event.delta_time is not None
            more: dict[str, Any] = {key: True for key in ("estimated", "lost") if getattr(event, key)}
            payload = settled(last, event.new_time, event.delta_time, event.raw_events) | more
            self.events.append(Sent(name, t_ns, payload, event.due_ns, event.first_ns))
            free_ns = t_ns + self.rng.randrange(MS, 200 * MS)
        if kind == self._noop:
            self._noop_until_ns = free_ns + 7 * SECOND
        return free_ns

    def _target(self) -> dict[int, int]:
        """A time far from the guest's present one and from what neighbours use."""
        return register_values(self.rng.randrange(0, 4_102_444_800, 1))

    def _writes(self, values: dict[int, int], begin_ns: int = 0) -> list[Step]:
        at_ns, steps = begin_ns, []
        pause = self.rng.random() < 0.2
        for register in self.rng.sample(REGISTERS, 7):
            steps.append((at_ns, register, values[register]))
            at_ns += self.rng.randrange(800 * MS) if pause else self.rng.randrange(100_000, 2 * MS)
        return steps

    def _running(self) -> list[Step]:
        return self._writes(self._target())

    def _halted(self) -> list[Step]:
        steps = self._writes(self._target(), MS)
        return [(0, 0x0B, 0x82), *steps, (steps[-1][0] + MS, 0x0B, 0x02)]

    def _noop(self) -> list[Step]:
        """A halt that changes nothing, and the century written as it stands: one raw event, delta 0."""
        return [(0, 0x0B, 0x82), (MS, 0x0B, 0x02), (2 * MS, 0x32, self._century())]

    def _century(self) -> int:
        assert self._chronicle._clock is not None
        return self._chronicle._clock.read(0x32, 0)

    def _silent(self) -> list[Step]:
        return [(0, 0x06, 0x03), (MS, 0x01, 0x22), (2 * MS, 0x40, self.rng.randrange(256))]

    def _two(self) -> list[Step]:
        first = self._writes(self._target())
        gap_ns = self.rng.randrange(1_200 * MS, 1_600 * MS)
        return first + self._writes(self._target(), first[-1][0] + gap_ns)

    # -- writing it down ---------------------------------------------------------------------------------

    def lines(self, events: list[Sent]) -> list[tuple[int, Callable[[RunWriter], None]]]:
        """What to write and when, in the order in which the files would grow."""
        found: list[tuple[int, Callable[[RunWriter], None]]] = [
            (T0, lambda run: run.start()),
            (T0 + 1, lambda run: run.journal("connected", t_ns=T0 + 1)),
            (T0 + 2, lambda run: run.journal("ack", t_ns=T0 + 2, object={"ack": 0})),
            (self.end_ns, lambda run: run.journal("end", t_ns=self.end_ns)),
        ]
        for name, (start_ns, steps) in self.steps.items():
            for after_ns, register, value in steps:
                found.append((start_ns + after_ns, _writer(start_ns + after_ns, register, value)))
            end_ns = start_ns + steps[-1][0] + MS
            found.append((end_ns, _reporter(name, start_ns - 10_000, end_ns, steps)))
        found += [(sent.t_ns, _sender(sent.t_ns, sent.payload)) for sent in events]
        return sorted(found, key=lambda line: line[0])

    def write(self, folder: Path, events: list[Sent]) -> Path:
        run = RunWriter(folder)
        with run.buffered():
            for _, write in self.lines(events):
                write(run)
        return run.dir


def _writer(stamp_ns: int, register: int, value: int) -> Callable[[RunWriter], None]:
    return lambda run: run.write(stamp_ns, register, value)


def _reporter(name: str, start_ns: int, end_ns: int, steps: list[Step]) -> Callable[[RunWriter], None]:
    return lambda run: run.item(name, start_ns, end_ns, [(register, value) for _, register, value in steps])


def _sender(t_ns: int, payload: Any) -> Callable[[RunWriter], None]:
    return lambda run: run.event(t_ns, payload)


ALTERATIONS: dict[str, Callable[[random.Random, dict[str, Any]], None]] = {
    "vm_event": lambda rng, p: p.update(vm_event=rng.choice((1, False, "0", 0.0, None))),
    "last_time": lambda rng, p: p.update(last_time=p["last_time"] + rng.choice((1, -1, 3600, -86400))),
    "new_time": lambda rng, p: p.update(new_time=p["new_time"] + rng.choice((1, -1, 7, 10**9))),
    "delta_time": lambda rng, p: p.update(delta_time=p["delta_time"] + rng.choice((1, -1, 60))),
    "raw_events": lambda rng, p: p.update(raw_events=p["raw_events"] + rng.choice((1, -1, 100))),
    "source": lambda rng, p: p.update(source=rng.choice(("hv", "monitor", "", None, "DM"))),
    "vm": lambda rng, p: p.update(vm=rng.choice(("vm1", "", "vm00", 0))),
    "estimated": lambda rng, p: (
        p.update(estimated=rng.choice((True, False))) if "estimated" not in p else p.pop("estimated")
    ),
    "lost": lambda rng, p: p.update(lost=rng.choice((True, False))) if "lost" not in p else p.pop("lost"),
    "overrun": lambda rng, p: p.update(overrun=rng.choice((0, 3, None))),
    "extra": lambda rng, p: p.update({rng.choice(("note", "type", "")): rng.choice((0, None, [], "x"))}),
    "removed": lambda rng, p: p.pop(rng.choice(sorted(p))),
    "string": lambda rng, p: _retype(rng, p, str),
    "fraction": lambda rng, p: _retype(rng, p, float),
    "swapped": lambda rng, p: (
        p.update(last_time=p["new_time"], new_time=p["last_time"])
        if p["last_time"] != p["new_time"]
        else p.update(new_time=-1)
    ),
}


def _retype(rng: random.Random, payload: dict[str, Any], kind: Callable[[Any], Any]) -> None:
    key = rng.choice(("last_time", "new_time", "delta_time", "raw_events", "vm_event"))
    payload[key] = kind(payload[key])


KINDS = ("drop", "double at once", "double later", "delay", "hasten", "hasten and keep", "alter")
"""What a tamperer does once to an event."""
TWOFOLD = ("alter and delay", "alter and double", "alter and hasten")
"""An alteration of one field, and something else besides."""


def tamper(rng: random.Random, kind: str, sent: Sent) -> list[Sent]:
    """What a tamperer makes of one event; each result names what was done."""
    done = Sent(sent.item, sent.t_ns, copy.deepcopy(sent.payload), sent.due_ns, sent.first_ns, kind)
    plain = Sent(sent.item, sent.t_ns, sent.payload, sent.due_ns, sent.first_ns, kind)
    if kind == "drop":
        return []
    if kind == "double at once":
        done.t_ns += rng.randrange(0, 2 * MS)
        return [plain, done]
    if kind == "double later":
        done.t_ns += rng.randrange(2 * MS, 6 * SECOND)
        return [plain, done]
    if kind == "delay":
        done.t_ns = sent.due_ns + rng.randrange(151 * MS, 6 * SECOND)
        return [done]
    if kind.startswith("hasten"):
        earliest_ns = max(sent.first_ns - 200 * MS, sent.due_ns - 3 * SECOND)
        done.t_ns = rng.randrange(earliest_ns, sent.due_ns - 1_100_000)
        return [done, plain] if "keep" in kind else [done]
    if kind in TWOFOLD:
        ALTERATIONS[rng.choice([name for name in sorted(ALTERATIONS) if name != "swapped"])](rng, done.payload)
        if kind == "alter and double":
            done.t_ns += rng.randrange(0, 6 * SECOND)
            return [plain, done]
        late_ns = rng.randrange(151 * MS, 6 * SECOND)
        early_ns = rng.randrange(1_100_000, 900 * MS)
        done.t_ns = sent.due_ns + (late_ns if kind == "alter and delay" else -early_ns)
        return [done]
    field_name = rng.choice(sorted(ALTERATIONS))
    done.tampered = plain.tampered = f"alter {field_name}"
    ALTERATIONS[field_name](rng, done.payload)
    return [done]
