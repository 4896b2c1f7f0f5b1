"""Reads what a run directory holds for the second opinion: settled events as received, RTC_CHANGE, the read-backs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RTC_CHANGES = "rtc-change.jsonl"
READ_BACKS = "read-back.jsonl"


@dataclass(frozen=True)
class Settled:
    """A settled event as the listener received it."""

    t_ns: int
    new_time: int | None
    delta_time: int | None
    estimated: bool
    overrun: bool
    source: str


@dataclass(frozen=True)
class RtcChange:
    """QEMU's RTC_CHANGE: seconds between what the guest has set and QEMU's reference clock, and when it was set.

    wall_us: QEMU's own stamp, that of the write, also where the event itself was held back.
    """

    t_ns: int
    wall_us: int
    offset: int


@dataclass(frozen=True)
class RtcChanges:
    """All RTC_CHANGEs that were recorded. ended_ns: until when recording is known to have gone on."""

    changes: tuple[RtcChange, ...]
    ended_ns: int


@dataclass(frozen=True)
class ReadBack:
    """What the guest read, (register, byte) in order, at a moment between the two stamps."""

    item: str
    start_ns: int
    end_ns: int
    reads: tuple[tuple[int, int], ...]


def settled_events(folder: Path) -> list[Settled]:
    """The settled RTC changes among the objects that were received, in order."""
    found = []
    for record in _objects(folder / "events.jsonl"):
        event = record.get("event")
        if record.get("kind") != "object" or not isinstance(event, dict) or event.get("vm_event") != 0:
            continue
        found.append(
            Settled(
                t_ns=_whole(record.get("t_ns")) or 0,
                new_time=_whole(event.get("new_time")),
                delta_time=_whole(event.get("delta_time")),
                estimated=bool(event.get("estimated")),
                overrun=bool(event.get("overrun")) or bool(event.get("lost")),
                source=str(event.get("source")),
            )
        )
    return found


def rtc_changes(folder: Path) -> RtcChanges | None:
    """What QEMU said of its RTC; None where nobody recorded it."""
    path = folder / RTC_CHANGES
    if not path.is_file():
        return None
    found, ended = [], 0
    for record in _objects(path):
        t_ns = _whole(record.get("t_ns")) or 0
        if not (record.get("kind") == "end" and record.get("failure")):
            ended = max(ended, t_ns)
        event = record.get("event")
        if record.get("kind") != "rtc-change" or not isinstance(event, dict):
            continue
        stamp, data = event.get("timestamp"), event.get("data")
        if isinstance(stamp, dict) and isinstance(data, dict):
            seconds, micros = _whole(stamp.get("seconds")), _whole(stamp.get("microseconds"))
            offset = _whole(data.get("offset"))
            if seconds is not None and micros is not None and offset is not None:
                found.append(RtcChange(t_ns, seconds * 1_000_000 + micros, offset))
    return RtcChanges(tuple(found), ended)


def faulted_events(folder: Path) -> set[int]:
    """The arrivals of the events that the judge found wrong by themselves, in whichever revision."""
    found: set[int] = set()
    for record in _objects(folder / "verdicts.jsonl"):
        seen = record.get("seen")
        for each in seen if isinstance(seen, list) else []:
            if isinstance(each, dict) and each.get("faults"):
                found.add(_whole(each.get("t_ns")) or 0)
    return found


def read_backs(folder: Path) -> list[ReadBack]:
    """The read-backs of one guest, in order."""
    found = []
    for record in _objects(folder / READ_BACKS):
        start, end = _whole(record.get("start_ns")), _whole(record.get("end_ns"))
        reads = record.get("reads")
        if start is not None and end is not None and isinstance(reads, list):
            pairs = tuple((int(read[0]), int(read[1])) for read in reads if isinstance(read, list) and len(read) >= 2)
            found.append(ReadBack(str(record.get("item")), start, end, pairs))
    return found


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file that may not be there; what cannot be read is left out (the judge complains)."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


def _whole(value: object) -> int | None:
    return value if type(value) is int else None
