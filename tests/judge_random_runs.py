"""Random runs of updates, and a tamperer between service and listener, for the judge's tests."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.judge import GuestJudge, Verdict
from tests.judge_reference import (
    REGISTERS,
    DmReference,
    HvReference,
    ServiceReference,
    Settled,
    register_values,
)
from tests.judge_run import MS, RTC0, SECOND, T0, RunWriter, Step, writes_of


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
    """Items on one guest and the events a faithful service sends for them.

    rtc_time: what the vRTC begins with; a hypervisor's that begins at 0 never runs.
    """

    rng: random.Random
    items: int
    vrtc: str = "dm"
    rtc_time: int = RTC0
    offset_s: int = 0
    steps: dict[str, tuple[int, list[Step]]] = field(default_factory=dict)
    events: list[Sent] = field(default_factory=list)
    end_ns: int = 0

    def __post_init__(self) -> None:
        self._start_ns = T0 + self.rng.randrange(SECOND)
        self._rtc: DmReference | HvReference
        if self.vrtc == "hv":
            self._rtc = HvReference(self.rtc_time, self._start_ns, self.offset_s)
        else:
            self._rtc = DmReference(self.rtc_time, self._start_ns)
        known = None if self.vrtc == "hv" else (self.rtc_time, self._start_ns)
        self._service = ServiceReference(self.vrtc, "vm0", known)
        self._noop_until_ns, self._bits = 0, 0x02
        now_ns = T0 + 3 * SECOND + self.rng.randrange(SECOND)
        for number in range(self.items):
            now_ns = self._add_item(f"{self.rng.choice(('random', 'halted'))}-{number:03d}", now_ns)
        self.end_ns = now_ns + 7 * SECOND

    def _add_item(self, name: str, now_ns: int) -> int:
        kinds: dict[Callable[[], list[Step]], int] = {self._running: 8, self._halted: 6, self._silent: 2, self._two: 2}
        if self.vrtc == "hv":
            kinds |= {
                self._read_first: 4,
                self._hv_noop: 1,
                self._no_date: 1,
                self._silent_move: 2,
                self._format_change: 2,
            }
        else:
            kinds[self._dm_noop] = 1
        kind = self.rng.choices(list(kinds), list(kinds.values()))[0]
        if kind in (self._dm_noop, self._hv_noop):
            now_ns = max(now_ns, self._noop_until_ns)
        self._now_ns = now_ns
        steps = kind()
        self.steps[name] = (now_ns, steps)
        before = len(self._service.events)
        self._carry_out(now_ns, steps)
        free_ns = now_ns + steps[-1][0] + SECOND + 150 * MS
        for event in self._service.events[before:]:
            free_ns = self._send(name, event)
        if kind in (self._dm_noop, self._hv_noop):
            self._noop_until_ns = free_ns + 7 * SECOND
        return free_ns

    def _carry_out(self, now_ns: int, steps: Sequence[Step]) -> None:
        for after_ns, register, value in steps:
            stamp_ns = now_ns + after_ns
            if value is None:
                self._rtc.read(stamp_ns, register)
            elif (raw := self._rtc.write(stamp_ns, register, value)) is not None:
                self._service.add(stamp_ns, *raw)

    def _send(self, name: str, event: Settled) -> int:
        """Sends the event a little after it is due; returns when the guest may go on."""
        t_ns = event.due_ns + self.rng.randrange(50_000, 3 * MS)
        self.events.append(Sent(name, t_ns, event.payload, event.due_ns, event.first_ns))
        return t_ns + self.rng.randrange(MS, 200 * MS)

    # -- what the guest does -----------------------------------------------------------------------------

    def _target(self) -> dict[int, int]:
        """A time far from the guest's present one and from what neighbours use."""
        time = self.rng.randrange(0, 2_145_916_800 if self.vrtc == "hv" else 4_102_444_800)
        if self.rng.random() < 0.2:
            time -= time % 43_200  # 12 o'clock is what 12 and 24 h formats quarrel about
        return register_values(time, self._bits)

    def _writes(self, values: dict[int, int], begin_ns: int = 0) -> list[Step]:
        at_ns, steps = begin_ns, list[Step]()
        pause = self.rng.random() < 0.2
        for register in self.rng.sample(REGISTERS, 7):
            steps.append((at_ns, register, values[register]))
            at_ns += self.rng.randrange(800 * MS) if pause else self.rng.randrange(100_000, 2 * MS)
        return steps

    def _running(self) -> list[Step]:
        return self._writes(self._target())

    def _halted(self) -> list[Step]:
        steps = self._writes(self._target(), MS)
        return [(0, 0x0B, 0x80 | self._bits), *steps, (steps[-1][0] + MS, 0x0B, self._bits)]

    def _silent(self) -> list[Step]:
        return [(0, 0x01, 0x22), (MS, 0x40, self.rng.randrange(256))]

    def _two(self) -> list[Step]:
        first = self._writes(self._target())
        gap_ns = self.rng.randrange(1_200 * MS, 1_600 * MS)
        return first + self._writes(self._target(), first[-1][0] + gap_ns)

    def _dm_noop(self) -> list[Step]:
        """A halt that changes nothing, and the century written as it stands: one raw event, delta 0."""
        century = register_values(self._rtc.now(self._now_ns))[0x32]
        return [(0, 0x0B, 0x82), (MS, 0x0B, 0x02), (2 * MS, 0x32, century)]

    def _hv_noop(self) -> list[Step]:
        """The century written as it stands, often with bytes that no read has brought up to date."""
        century = self._rtc.registers[0x32]
        return [(0, 0x0B, 0x80 | self._bits), (MS, 0x32, century), (2 * MS, 0x0B, self._bits)]

    def _read_first(self) -> list[Step]:
        """A guest that looks before, within and after what it does."""
        steps = [(self.rng.choice(REGISTERS), step) for step in self._writes(self._target())]
        return [each for register, step in steps for each in ((step[0], register, None), step)]

    def _no_date(self) -> list[Step]:
        return self._writes(self._target() | {0x08: self.rng.randrange(0x13, 0x100)})

    def _silent_move(self) -> list[Step]:
        """Takes the clock where the bytes are: where they are old, the next update's chain has a gap."""
        return [(0, self.rng.choice((0x06, 0x0E, 0x31, 0x33, 0x37)), self.rng.randrange(256))]

    def _format_change(self) -> list[Step]:
        """What is written before a read joins old bytes, which mean another date in the new format."""
        self._bits ^= self.rng.choice((0x02, 0x02, 0x04, 0x06))
        steps = self._writes(self._target(), 2 * MS)
        move = [(MS, 0x0F, 0x0A)] if self.rng.random() < 0.7 else []
        return [(0, 0x0B, self._bits), *move, *steps[: self.rng.randrange(len(steps) + 1)]]

    # -- writing it down ---------------------------------------------------------------------------------

    def lines(self, events: list[Sent], *, agent: bool = True) -> list[tuple[int, Callable[[RunWriter], None]]]:
        """What to write and when, in the order in which the files would grow."""
        begin_ns = self._start_ns
        found: list[tuple[int, Callable[[RunWriter], None]]] = [
            (begin_ns, lambda run: run.start(begin_ns, self.rtc_time, vrtc=self.vrtc, offset_s=self.offset_s)),
            (begin_ns + 1, lambda run: run.journal("connected", t_ns=begin_ns + 1)),
            (begin_ns + 2, lambda run: run.journal("ack", t_ns=begin_ns + 2, object={"ack": 0})),
            (self.end_ns, lambda run: run.journal("end", t_ns=self.end_ns)),
        ]
        for name, (start_ns, steps) in self.steps.items():
            for step in steps:
                found.append((start_ns + step[0], _accessor(start_ns, step)))
            end_ns = start_ns + steps[-1][0] + MS
            if agent:
                found.append((end_ns, _reporter(name, start_ns - 10_000, end_ns, steps)))
        found += [(sent.t_ns, _sender(sent.t_ns, sent.payload)) for sent in events]
        return sorted(found, key=lambda line: line[0])

    def write(self, folder: Path, events: list[Sent]) -> Path:
        run = RunWriter(folder)
        with run.buffered():
            for _, write in self.lines(events):
                write(run)
        return run.dir


def _accessor(start_ns: int, step: Step) -> Callable[[RunWriter], None]:
    return lambda run: run.access(start_ns + step[0], *step[1:])


def _reporter(name: str, start_ns: int, end_ns: int, steps: list[Step]) -> Callable[[RunWriter], None]:
    return lambda run: run.item(name, start_ns, end_ns, writes_of(steps))


def _sender(t_ns: int, payload: Any) -> Callable[[RunWriter], None]:
    return lambda run: run.event(t_ns, payload)


ALTERATIONS: dict[str, Callable[[random.Random, dict[str, Any]], None]] = {
    "vm_event": lambda rng, p: p.update(vm_event=rng.choice((1, False, "0", 0.0, None))),
    "last_time": lambda rng, p: p.update(last_time=_moved(p["last_time"], rng.choice((1, -1, 3600, -86400)))),
    "new_time": lambda rng, p: p.update(new_time=p["new_time"] + rng.choice((1, -1, 7, 10**9))),
    "delta_time": lambda rng, p: p.update(delta_time=_moved(p["delta_time"], rng.choice((1, -1, 60)))),
    "raw_events": lambda rng, p: p.update(raw_events=p["raw_events"] + rng.choice((1, -1, 100))),
    "source": lambda rng, p: p.update(source=rng.choice(sorted({"dm", "hv", "monitor", "", "DM"} - {p["source"]}))),
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


def _moved(value: int | None, by: int) -> int:
    """Another value: a number where there must be none is one, too."""
    return (0 if value is None else value) + by


def _retype(rng: random.Random, payload: dict[str, Any], kind: Callable[[Any], Any]) -> None:
    key = rng.choice(("last_time", "new_time", "delta_time", "raw_events", "vm_event"))
    payload[key] = kind(0 if payload[key] is None else payload[key])


KINDS = ("drop", "double at once", "double later", "delay", "hasten", "hasten and keep", "alter")
"""What a tamperer does once to an event."""
TWOFOLD = ("alter and delay", "alter and double", "alter and hasten")
"""An alteration of one field, and something else besides."""
FAULT_OF_TIMES = {
    "drop": {"missing"},
    "double at once": {"duplicate"},
    "double later": {"duplicate"},
    "delay": {"late"},
    "hasten": {"early"},
    "hasten and keep": {"early", "duplicate"},
}
"""What comes of an event that is there too rarely, too often, or not when it should be; whatever it says."""
FAULT_OF = {
    **FAULT_OF_TIMES,
    "alter and delay": {"late", "payload"},
    "alter and double": {"duplicate", "payload"},
    "alter and hasten": {"early", "payload"},
}
"""What the judge must call it; an alteration of a field is a fault of the payload."""


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


def judged(folder: Path) -> dict[str, Verdict]:
    """The last word on each item of a guest whose evidence is without fault."""
    with GuestJudge(folder) as judge:
        judge.refresh()
        verdicts = judge.decide(judge.last_known_ns, final=True)
        assert judge.errors == []
    return {verdict.item: verdict for verdict in verdicts}
