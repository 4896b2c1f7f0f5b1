"""Reads what the engine asked of the guest's agent and what the agent says it did: one item a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.judge.witness import Access

_OWN_FIELDS = {"item", "role", "mode", "order", "start_ns", "end_ns", "writes", "ok", "error"}


@dataclass(frozen=True)
class Item:
    """One plan item as carried out.

    start_ns is before the command was sent, end_ns after the answer was there. writes: (index, value)
    pairs the agent reports, or None where it cannot know them (a program of the guest wrote).
    extras: fields the judge hands through into the verdict.
    """

    item: str
    role: str
    mode: str | None
    order: tuple[int, ...] | None
    start_ns: int
    end_ns: int
    writes: tuple[tuple[int, int], ...] | None
    ok: bool
    error: str | None
    extras: dict[str, Any] = field(default_factory=dict)


def read_item(line: str) -> Item:
    """The item of one line of agent.jsonl. Raises ValueError for a line that is none."""
    try:
        record = json.loads(line)
        writes, order = record.get("writes"), record.get("order")
        return Item(
            item=str(record["item"]),
            role=str(record.get("role", "update")),
            mode=record.get("mode"),
            order=None if order is None else tuple(order),
            start_ns=int(record["start_ns"]),
            end_ns=int(record["end_ns"]),
            writes=None if writes is None else tuple((int(write[0]), int(write[1])) for write in writes),
            ok=bool(record.get("ok", True)),
            error=record.get("error"),
            extras={key: value for key, value in record.items() if key not in _OWN_FIELDS},
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"no plan item: {error!r}") from error


def disagreement(item: Item, witnessed: Sequence[Access], *, final: bool) -> str | None:
    """How agent and witness contradict each other, both lists named; None where they do not.

    While the witness may still grow (not final), a witness that only lacks the last writes agrees so far;
    so does a witness that goes beyond the report of an agent that died.
    """
    if item.writes is None:
        return None
    reported, seen = list(item.writes), [(access.register, access.value) for access in witnessed]
    common = min(len(reported), len(seen))
    lacks_some = len(seen) < len(reported)
    may_differ = not item.ok or len(seen) == len(reported) or (lacks_some and not final)
    if may_differ and reported[:common] == seen[:common]:
        return None
    return f"agent and witness disagree: the agent reports {_listed(reported)}, the trace holds {_listed(seen)}"


def _listed(writes: Sequence[tuple[int, int]]) -> str:
    shown = ", ".join(f"{index:#04x}={value:#04x}" for index, value in writes)
    return f"{len(writes)} writes [{shown}]"
