"""Reads witness.jsonl: what the guest's agent did to the RTC on a bench, with stamps that have an uncertainty."""

from __future__ import annotations

import json
from typing import Any

from harness.judge.witness import Access, Ended, Problem, Record, ServiceRestart, Started, SystemReset

SERVICES = ("project", "hsm", "behind-acrn-dm", "acrn-dm")
"""The forms of events: our own, its own on the hypervisor's ring, its own behind acrn-dm, and acrn-dm's."""
VRTCS = ("dm", "hv")
FORMAT = 1
BACKWARDS_NS = 5_000_000
"""By so much may a stamp lie before the one before it, beside what they may be wrong by: the lines' order counts."""


class AgentWitnessParser:
    """Turns the lines of a witness.jsonl into records, in their order."""

    def __init__(self) -> None:
        self.line = 0
        self.last_arrival_ns = 0

    def feed(self, line: str) -> list[Record]:
        """The records of one complete line; an event of a kind that is not known is none."""
        self.line += 1
        before_ns = self.last_arrival_ns
        try:
            record = json.loads(line)
            event, stamp_ns = record["event"], _number(record, "stamp_ns")
            found = self._record(event, stamp_ns, record)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            text = f"witness.jsonl line {self.line} cannot be read ({error!r}): {line[:120]!r}"
            return [Problem(before_ns, before_ns, text)]
        self.last_arrival_ns = max(stamp_ns, before_ns)
        uncertainty_ns = record.get("uncertainty_ns", 0)
        if found is not None and stamp_ns + 2 * uncertainty_ns + BACKWARDS_NS < before_ns:
            text = f"witness.jsonl line {self.line}: its stamp {stamp_ns} lies before the one before it"
            return [Problem(stamp_ns, before_ns, text), found]
        return [] if found is None else [found]

    def _record(self, event: str, stamp_ns: int, record: dict[str, Any]) -> Record | None:
        if event in ("write", "read"):
            register, value = _byte(record, "register"), _byte(record, "value")
            uncertainty_ns = _uncertainty(record)
            stamp_ns = max(stamp_ns, self.last_arrival_ns)
            return Access(stamp_ns, stamp_ns, register, value, event == "read", uncertainty_ns)
        if event in ("start", "anchor"):
            return _start(event, stamp_ns, record)
        stamp_ns = max(stamp_ns, self.last_arrival_ns)
        if event == "system-reset":
            return SystemReset(stamp_ns)
        if event == "service-restart":
            return ServiceRestart(stamp_ns)
        if event == "end":
            return Ended(stamp_ns, str(record.get("reason", "")))
        return None


def _start(event: str, stamp_ns: int, record: dict[str, Any]) -> Started:
    """What the guest read of its RTC. Raises ValueError, KeyError."""
    if event == "start" and record["format"] != FORMAT:
        raise ValueError(f"format {record['format']!r}; this judge reads format {FORMAT}")
    vrtc, service = record.get("vrtc"), record.get("service")
    if event == "start" and vrtc not in VRTCS:
        raise ValueError(f"vrtc {vrtc!r}")
    if event == "start" and service not in SERVICES:
        raise ValueError(f"service {service!r}")
    return Started(
        stamp_ns=stamp_ns,
        rtc_time=_number(record, "rtc_time"),
        vrtc=str(vrtc),
        vm=str(record["vm"]) if event == "start" else "",
        window_ns=record.get("window_ns"),
        register_a=None if record.get("register_a") is None else _byte(record, "register_a"),
        register_b=None if record.get("register_b") is None else _byte(record, "register_b"),
        service=str(service),
        uncertainty_ns=_uncertainty(record),
        tolerance_s=max(0, int(record.get("tolerance_s", 1))),
        anchor=event == "anchor",
    )


def _number(record: dict[str, Any], name: str) -> int:
    value = record[name]
    if type(value) is not int:
        raise ValueError(f"{name} is {value!r}, which is no whole number")
    return value


def _uncertainty(record: dict[str, Any]) -> int:
    uncertainty_ns = _number(record, "uncertainty_ns")
    if uncertainty_ns < 0:
        raise ValueError(f"uncertainty_ns is {uncertainty_ns}")
    return uncertainty_ns


def _byte(record: dict[str, Any], name: str) -> int:
    value = _number(record, name)
    if not 0 <= value <= 0xFF:
        raise ValueError(f"{name} is {value!r}, which is no byte")
    return value
