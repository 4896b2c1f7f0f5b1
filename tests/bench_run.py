"""Random runs on a bench: a witness whose stamps are wrong within what they say, clocks whose ticks nobody knows."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.judge_random_runs import FAULT_OF_TIMES, RandomRun, Sent
from tests.judge_reference import INVALID, REGISTERS, DmReference, HvReference, Raw, register_values
from tests.judge_run import MS, SECOND, Step, writes_of

FORMS = ("project", "hsm", "behind-acrn-dm", "acrn-dm")
NAMED = "guest-7"
"""How events call the guest, which is not how its folder is called."""


def vrtc_of(form: str, vrtc: str) -> str:
    """The hypervisor's ring has only the hypervisor's events."""
    return "hv" if form == "hsm" else vrtc


class CService:
    """acrn-dm's own service: the first last_time that is not -1, and the sum of all deltas."""

    def __init__(self) -> None:
        self.events: list[list[int]] = []
        self._last_ns = -10 * SECOND

    def add(self, stamp_ns: int, last: int, delta: int) -> None:
        if stamp_ns - self._last_ns >= SECOND:
            self.events.append([-1, 0])
        self._last_ns = stamp_ns
        event = self.events[-1]
        event[0] = last if event[0] == -1 else event[0]
        event[1] += delta


class KeepsBrokenUnhalt(DmReference):
    """With ACRN's known defect: no event for an un-halt after the clock was broken. A halt then keeps the bytes."""

    withheld = 0

    def write(self, stamp_ns: int, register: int, value: int) -> Raw | None:
        bytes_before = dict(self.registers)
        halts = register == 0x0B and value & 0x80 and self.remembered is None
        raw = super().write(stamp_ns, register, value)
        if halts and self.remembered == INVALID:
            self.registers = bytes_before
        if raw is not None and register == 0x0B and raw[0] == INVALID:
            self.withheld += 1
            return None
        return raw


@dataclass
class BenchRun(RandomRun):
    """A random run of which the judge sees the agent's record.

    off_ns: by how much the harness's clock is ahead of the one that the RTC ticks by; it is what makes the phase
    unknown. uncertainty_ns: how wrong stamps say that they may be; they are.
    """

    form: str = "project"
    uncertainty_ns: int = 500_000
    off_ns: int = 0
    defects: set[str] = field(default_factory=set)
    withheld: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.off_ns = self.rng.randrange(SECOND)
        self._by_c = CService()
        self._read: tuple[int, int] | None = None
        super().__post_init__()
        for number, sent in enumerate(self.events):
            sent.payload = self._worded(number, sent)

    def _add_item(self, name: str, now_ns: int) -> int:
        """An event may come before the last of the writes, where that leaves no date: the guest is not done then."""
        free_ns = super()._add_item(name, now_ns)
        begin_ns, steps = self.steps[name]
        return max(free_ns, begin_ns + steps[-1][0] + 60 * MS)

    def _carry_out(self, now_ns: int, steps: Sequence[Step]) -> None:
        if self._read is None:
            if isinstance(self._rtc, DmReference):
                self._rtc = KeepsBrokenUnhalt(self.rtc_time, self._start_ns)
            read_ns = self._start_ns + self.rng.randrange(1_900 * MS)
            self._read = read_ns, self._rtc.now(read_ns)
            self._rtc.read(read_ns, 0)
        add = self._service.add

        def both(stamp_ns: int, last: int, delta: int) -> None:
            add(stamp_ns, last, delta)
            self._by_c.add(stamp_ns, last, delta)

        self._service.add = both  # type: ignore[method-assign]
        before = self._rtc.withheld if isinstance(self._rtc, KeepsBrokenUnhalt) else 0
        super()._carry_out(now_ns, steps)
        self._service.add = add  # type: ignore[method-assign]
        if isinstance(self._rtc, KeepsBrokenUnhalt) and self._rtc.withheld > before:
            self.withheld.add(list(self.steps)[-1])

    def _running(self) -> list[Step]:
        """Also such as meet the end of a minute, or of a month: to it, and then something while it passes."""
        kind = self.rng.random()
        if kind < 0.5:
            return super()._running()
        if kind < 0.7:
            return self._writes(self._to_a_rollover())
        steps = super()._running()
        values = register_values(self._rtc.now(self._now_ns), self._bits) if self._rtc.now(self._now_ns) > 0 else {}
        own = [(at, register, values.get(register, value)) for at, register, value in steps]
        if kind < 0.85 or not values or self._now_ns < self._noop_until_ns:
            return sorted(self.rng.sample(steps, self.rng.randrange(1, 5)))
        self._noop_until_ns = self._now_ns + 12 * SECOND
        return sorted(self.rng.sample(own, self.rng.randrange(1, 5)))

    def _to_a_rollover(self) -> dict[int, int]:
        """The end of some minute, hour, day or month, a few seconds from now."""
        month_s = [1_706_745_600, 1_709_251_200, 1_735_689_600, 1_740_787_200, 1_714_521_600]
        ends = (60, 3_600, 86_400)
        time = self.rng.randrange(1_000_000_000, 2_000_000_000)
        at = self.rng.choice([time - time % self.rng.choice(ends), self.rng.choice(month_s)])
        return register_values(at - self.rng.randrange(1, 5), self._bits)

    def _halted(self) -> list[Step]:
        if self.rng.random() < 0.7 or self._now_ns < self._noop_until_ns:
            return super()._halted()
        self._noop_until_ns = self._now_ns + 12 * SECOND
        time = self._rtc.now(self._now_ns)
        if time < 0:
            return super()._halted()
        values = register_values(time + self.rng.choice((0, 0, 0, 1, -1)), self._bits)
        registers = self.rng.sample(REGISTERS, self.rng.choice((7, 7, 3)))
        steps: list[Step] = [((n + 1) * MS, register, values[register]) for n, register in enumerate(registers)]
        return [(0, 0x0B, 0x80 | self._bits), *steps, (steps[-1][0] + MS, 0x0B, self._bits)]

    def _worded(self, number: int, sent: Sent) -> dict[str, Any]:
        right = dict(sent.payload)
        last, delta = self._by_c.events[number]
        if self.form in ("project", "hsm"):
            return right | {"vm": NAMED}
        in_full = right["last_time"], right["delta_time"]
        if in_full == (None, None):
            self.unknown.add(sent.item)
        elif in_full != (last, delta):
            self.defects.add(sent.item)
        if self.form == "acrn-dm":
            return {"vm_event": 0, "delta_time": delta, "last_time": last}
        unknown = last == -1
        payload = {
            "vm_event": 0,
            "last_time": None if unknown else last,
            "new_time": last + delta,
            "delta_time": None if unknown else delta,
            "raw_events": None,
            "source": "monitor",
            "vm": NAMED,
        }
        return payload | ({"estimated": True} if unknown else {})

    # -- writing it down ---------------------------------------------------------------------------------

    def told(self, true_ns: int) -> tuple[int, int]:
        """A stamp as the harness has it, and how wrong it may be."""
        wrong_ns = self.rng.randrange(-self.uncertainty_ns, self.uncertainty_ns + 1)
        return true_ns + self.off_ns + wrong_ns, self.uncertainty_ns

    def start_record(self, stamp_ns: int, time: int) -> dict[str, Any]:
        ns, uncertainty_ns = self.told(stamp_ns)
        return {
            "event": "start", "format": 1, "vm": NAMED, "vrtc": self.vrtc, "window_ns": SECOND, "service": self.form,
            "stamp_ns": ns, "uncertainty_ns": uncertainty_ns, "rtc_time": time, "register_a": 0x26,
            "register_b": 0x02, "tolerance_s": 1,
        }  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        """witness.jsonl."""
        assert self._read is not None
        found = [self.start_record(*self._read)]
        for start_ns, steps in self.steps.values():
            for after_ns, register, value in steps:
                stamp_ns, uncertainty_ns = self.told(start_ns + after_ns)
                found.append(
                    {
                        "event": "read" if value is None else "write",
                        "stamp_ns": max(stamp_ns, found[-1]["stamp_ns"]),
                        "uncertainty_ns": uncertainty_ns,
                        "guest_ns": start_ns + after_ns - 77,
                        "register": register,
                        "value": 0x55 if value is None else value,
                    }
                )
        return [*found, {"event": "end", "stamp_ns": self.end_ns + self.off_ns, "reason": "guest-shutdown"}]

    def write(self, folder: Path, events: list[Sent]) -> Path:
        """The run directory of guest vm0."""
        guest = folder / "vm0"
        guest.mkdir(parents=True)
        self._dump(guest / "witness.jsonl", self.records())
        begin_ns = self._start_ns + self.off_ns
        journal: list[dict[str, Any]] = [
            {"kind": "connected", "t_ns": begin_ns},
            {"kind": "ack", "t_ns": begin_ns, "object": {"ack": 0}},
        ]
        for sent in events:
            t_ns, uncertainty_ns = self.told(sent.t_ns)
            journal.append({"kind": "object", "t_ns": t_ns, "uncertainty_ns": uncertainty_ns, "event": sent.payload})
        journal.sort(key=lambda line: line["t_ns"])
        journal.append({"kind": "end", "t_ns": self.end_ns + self.off_ns})
        self._dump(guest / "events.jsonl", journal)
        items = []
        for name, (start_ns, steps) in self.steps.items():
            items.append(
                {
                    "item": name,
                    "role": "update",
                    "mode": "running",
                    "order": None,
                    "start_ns": start_ns - 10_000 + self.off_ns,
                    "end_ns": start_ns + steps[-1][0] + MS + self.off_ns,
                    "writes": [[index, value, 0] for index, value in writes_of(steps)],
                    "ok": True,
                    "error": None,
                }
            )
        self._dump(guest / "agent.jsonl", items)
        return guest

    @staticmethod
    def _dump(path: Path, lines: Sequence[dict[str, Any]]) -> None:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


BY = (2, -2, 3, -3, 60, 3_600, -86_400)
"""Seconds by which a time is altered."""


def _times(rng: random.Random, payload: dict[str, Any]) -> None:
    key = rng.choice([key for key in ("last_time", "new_time", "delta_time") if isinstance(payload.get(key), int)])
    payload[key] += rng.choice(BY)


def _other(rng: random.Random, payload: dict[str, Any]) -> None:
    """What tells whose event it is."""
    keys = [key for key in ("source", "vm", "vm_event", "raw_events") if key in payload]
    key = rng.choice(keys)
    payload[key] = {"source": rng.choice(("", "DM", "dm0")), "vm": rng.choice(("vm0", "", 0))}.get(key, 77)


def _removed(rng: random.Random, payload: dict[str, Any]) -> None:
    payload.pop(rng.choice(sorted(payload)))


ALTERATIONS: dict[str, Callable[[random.Random, dict[str, Any]], None]] = {
    "times": _times,
    "other": _other,
    "removed": _removed,
}
KINDS = (*FAULT_OF_TIMES, *ALTERATIONS)


def tamper(run: BenchRun, kind: str, sent: Sent) -> list[Sent]:
    """What a tamperer makes of one event."""
    rng, u_ns = run.rng, run.uncertainty_ns
    done, plain = copy.deepcopy(sent), copy.deepcopy(sent)
    done.tampered = plain.tampered = kind
    if kind == "drop":
        return []
    if kind.startswith("double"):
        done.t_ns += rng.randrange(0, 2 * MS) if kind == "double at once" else rng.randrange(2 * MS, 5 * SECOND)
        return [plain, done]
    if kind == "delay":
        done.t_ns = sent.due_ns + rng.randrange(151 * MS + 4 * u_ns, 5 * SECOND)
        return [done]
    if kind.startswith("hasten"):
        earliest_ns = max(sent.first_ns - 200 * MS, sent.due_ns - 3 * SECOND)
        done.t_ns = rng.randrange(earliest_ns, sent.due_ns - 1_100_000 - 4 * u_ns)
        return [done, plain] if "keep" in kind else [done]
    ALTERATIONS[kind](rng, done.payload)
    return [done]


def is_hv(run: BenchRun) -> bool:
    return isinstance(run._rtc, HvReference)
