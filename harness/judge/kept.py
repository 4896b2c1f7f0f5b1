"""Reads verdicts back from a run directory, as values of the kind in which they were given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from harness.judge.expected import ExpectedEvent, PossibleEvent, Timing
from harness.judge.verdict import Seen, Verdict

_OWN = frozenset(each.name for each in fields(Verdict))


def kept_verdicts(path: Path, window_ns: int) -> list[Verdict]:
    """The latest verdict on each item of a guest, in the order in which the items were first decided.

    path: its verdicts.jsonl; there need not be one. Lines that are none are left out: the last one may have been cut.
    Raises OSError.
    """
    latest: dict[str, Verdict] = {}
    for record in _records(path):
        try:
            verdict = verdict_of(record, window_ns)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        before = latest.get(verdict.item)
        if before is None or verdict.revision >= before.revision:
            latest[verdict.item] = verdict
    return list(latest.values())


def verdict_of(record: Mapping[str, Any], window_ns: int) -> Verdict:
    """The verdict of one line of verdicts.jsonl.

    Raises KeyError, TypeError, ValueError or AttributeError where the line is of another kind.
    """
    timing = Timing(window_ns)
    return Verdict(
        item=str(record["item"]),
        vm=str(record["vm"]),
        verdict=str(record["verdict"]),
        role=str(record["role"]),
        mode=record["mode"],
        order=None if record["order"] is None else tuple(record["order"]),
        diagnosis=str(record["diagnosis"]),
        faults=tuple(record["faults"]),
        defect=record["defect"],
        expected=tuple(_expected(each, timing) for each in record["expected"]),
        seen=tuple(
            Seen(
                each["t_ns"],
                each["event"],
                each["after_due_ms"],
                tuple(each["faults"]),
                each.get("uncertainty_ns", 0),
            )
            for each in record["seen"]
        ),
        writes=tuple((stamp, index, value, announced) for stamp, index, value, announced in record["writes"]),
        latency_ms=record["latency_ms"],
        ambiguous=record.get("ambiguous") is True,
        cut=record.get("cut") is True,
        uncertainty_ms=record.get("uncertainty_ms"),
        spared=record.get("spared"),
        uncovered=record.get("uncovered") is True,
        extras={name: value for name, value in record.items() if name not in _OWN},
        revision=int(record["revision"]),
        decided_ns=int(record["decided_ns"]),
    )


def last_heard_ns(path: Path) -> int:
    """Until when a guest's event stream was listened to; 0 where nobody did. path: its events.jsonl."""
    return max((t_ns for record in _records(path) if isinstance(t_ns := record.get("t_ns"), int)), default=0)


def _expected(record: Mapping[str, Any], timing: Timing) -> ExpectedEvent:
    arrival_ns = max(record["last_ns"], record["last_arrival_ns"])
    told = {name: value for name, value in record.items() if name != "or"}
    kind = PossibleEvent if "or" in record else ExpectedEvent
    return kind(**told, latest_ns=arrival_ns + timing.grace_ns + record.get("uncertainty_ns", 0))


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return
    for line in text.split("\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record
