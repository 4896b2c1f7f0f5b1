"""Writes the run directory of a guest on a bench, line by line, as the engine does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.judge import GuestJudge, Verdict
from tests.judge_run import MS, RTC0, SECOND, T0

VM = "guest-7"
"""How events call the guest; its folder is vm0."""
START = T0 - 300 * MS
AT = T0 + 5 * SECOND
DUE = AT + SECOND
END = AT + 60 * SECOND


class BenchWriter:
    """One guest's folder. Stamps are the harness's; uncertainty_ns holds for all of them unless said otherwise."""

    def __init__(self, run: Path, *, service: str = "project", vrtc: str = "dm", uncertainty_ns: int = 0) -> None:
        self.dir = run / "vm0"
        self.dir.mkdir(parents=True)
        self.service, self.vrtc, self.uncertainty_ns = service, vrtc, uncertainty_ns
        self._lines: dict[str, list[str]] = {}
        self.line("events.jsonl", kind="connected", t_ns=1)
        self.line("events.jsonl", kind="ack", t_ns=2, object={"ack": 0})

    def line(self, name: str, **fields: Any) -> None:
        with (self.dir / name).open("a", encoding="utf-8") as out:
            out.write(json.dumps(fields) + "\n")

    def start(self, stamp_ns: int = START, rtc_time: int = RTC0, **fields: Any) -> None:
        told: dict[str, Any] = {
            "event": "start",
            "format": 1,
            "vm": VM,
            "vrtc": self.vrtc,
            "window_ns": SECOND,
            "service": self.service,
            "stamp_ns": stamp_ns,
            "uncertainty_ns": self.uncertainty_ns,
            "rtc_time": rtc_time,
            "register_a": 0x26 if self.vrtc == "hv" else 0x20,
            "register_b": 0x02,
            "tolerance_s": 1,
        }
        self.line("witness.jsonl", **{**told, **fields})

    def record(self, event: str, stamp_ns: int, **fields: Any) -> None:
        self.line("witness.jsonl", event=event, stamp_ns=stamp_ns, **fields)

    def access(self, stamp_ns: int, register: int, value: int | None, **fields: Any) -> None:
        told: dict[str, Any] = {
            "event": "read" if value is None else "write",
            "stamp_ns": stamp_ns,
            "uncertainty_ns": self.uncertainty_ns,
            "guest_ns": stamp_ns - 99,
            "register": register,
            "value": 0 if value is None else value,
        }
        self.line("witness.jsonl", **{**told, **fields})

    def item(self, name: str, start_ns: int, end_ns: int, writes: Sequence[tuple[int, int]] | None) -> None:
        self.line(
            "agent.jsonl",
            item=name,
            role="update",
            mode="running",
            order=None,
            start_ns=start_ns,
            end_ns=end_ns,
            writes=None if writes is None else [[index, value, 0] for index, value in writes],
            ok=True,
            error=None,
        )

    def do(self, name: str, start_ns: int, writes: Sequence[tuple[int, int]], *, apart_ns: int = MS) -> int:
        """An item that writes these; returns the last stamp."""
        for number, (register, value) in enumerate(writes):
            self.access(start_ns + number * apart_ns, register, value)
        last_ns = start_ns + (len(writes) - 1) * apart_ns
        self.item(name, start_ns - MS, last_ns + MS, writes)
        return last_ns

    def event(self, t_ns: int, payload: Any, **fields: Any) -> None:
        told = {"uncertainty_ns": self.uncertainty_ns, **fields}
        self.line("events.jsonl", kind="object", t_ns=t_ns, host_ns=t_ns + 5, event=payload, **told)

    def worded(self, last: int, new: int, delta: int, raw: int, **more: Any) -> dict[str, Any]:
        """A settled event in the form of the service."""
        if self.service == "acrn-dm":
            return {"vm_event": 0, "delta_time": delta, "last_time": last}
        if self.service == "behind-acrn-dm":
            unknown = last == -1
            times = {"last_time": None, "delta_time": None} if unknown else {"last_time": last, "delta_time": delta}
            told = {"vm_event": 0, "new_time": last + delta, "raw_events": None, "source": "monitor", "vm": VM}
            return {**told, **times, **({"estimated": True} if unknown else {})}
        source = "hv" if self.service == "hsm" else self.vrtc
        settled = {"vm_event": 0, "last_time": last, "new_time": new, "delta_time": delta, "raw_events": raw}
        return {**settled, "source": source, "vm": VM, **more}

    def final(self, *, end_ns: int = END) -> dict[str, Verdict]:
        self.line("events.jsonl", kind="end", t_ns=end_ns)
        with GuestJudge(self.dir) as judge:
            judge.refresh()
            verdicts = {verdict.item: verdict for verdict in judge.decide(end_ns, final=True)}
            self.errors = [str(error) for error in judge.errors]
        return verdicts

    def only(self) -> Verdict:
        (verdict,) = self.final().values()
        return verdict
