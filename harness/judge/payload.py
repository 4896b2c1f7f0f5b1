"""Compares a received object with a settled event that must come, field by field and type by type."""

from __future__ import annotations

import json
from typing import Any, Protocol

Payload = Any
"""Whatever JSON value came; an event is an object, but what is judged may be anything."""
IDENTIFYING = ("last_time", "new_time", "delta_time")
"""The fields by which one update's event is told from another's; most updates have the same raw_events."""
_TIMES = frozenset(IDENTIFYING)


class Settled(Protocol):
    """What is known of a settled event."""

    @property
    def last_time(self) -> int | None: ...  # noqa: D102
    @property
    def new_time(self) -> int: ...  # noqa: D102
    @property
    def delta_time(self) -> int | None: ...  # noqa: D102
    @property
    def raw_events(self) -> int: ...  # noqa: D102
    @property
    def estimated(self) -> bool: ...  # noqa: D102
    @property
    def lost(self) -> bool: ...  # noqa: D102


def payload_of(expected: Settled, source: str, vm: str) -> dict[str, object]:
    """The JSON object that must come for this expectation, key by key."""
    payload: dict[str, object] = {
        "vm_event": 0,
        "last_time": expected.last_time,
        "new_time": expected.new_time,
        "delta_time": expected.delta_time,
        "raw_events": expected.raw_events,
        "source": source,
        "vm": vm,
    }
    if expected.estimated:
        payload["estimated"] = True
    if expected.lost:
        payload["lost"] = True
    return payload


def is_exact(wanted: dict[str, object], got: Payload) -> bool:
    """Whether the object is the wanted one: same keys, values and JSON types (1 is neither true nor 1.0)."""
    return bool(wanted == got) and all(type(got[key]) is type(value) for key, value in wanted.items())


def likeness(wanted: dict[str, object], got: Payload) -> int:
    """How many of the identifying fields are equal, from 0 to 3."""
    if not isinstance(got, dict):
        return 0
    return sum(1 for key in IDENTIFYING if _same(wanted[key], got.get(key, _ABSENT)))


def differences(wanted: dict[str, object], got: Payload, tolerance: int = 0, extra: int = 0) -> list[str]:
    """One sentence for each field that is wrong; empty where the object is as it must be.

    tolerance: seconds by which last_time and delta_time of an estimated event may differ. extra: seconds by which all
    times may, besides.
    """
    if not isinstance(got, dict):
        return [f"not a JSON object but {_shown(got)}"]
    found = []
    slack = tolerance if wanted.get("estimated") else 0
    for key, value in wanted.items():
        if key not in got:
            found.append(f"{key} is missing, expected {_shown(value)}")
        elif not _same(value, got[key], _slack(key, slack, extra)):
            found.append(_difference(key, value, got[key]))
    found += [f"unexpected key {key} = {_shown(got[key])}" for key in got if key not in wanted]
    return found


_ABSENT = object()


def _slack(key: str, estimates: int, extra: int) -> int:
    if key not in _TIMES:
        return 0
    return extra if key == "new_time" else extra + estimates


def _same(value: object, got: object, slack: int = 0) -> bool:
    if type(value) is not type(got):
        return False
    if slack and isinstance(value, int) and isinstance(got, int):
        return abs(value - got) <= slack
    return value == got


def _difference(key: str, value: object, got: object) -> str:
    text = f"{key} is {_shown(got)}, expected {_shown(value)}"
    if type(value) is int and type(got) is int:
        unit = " s" if key in _TIMES else ""
        return f"{text} ({got - value:+d}{unit})"
    if type(value) is not type(got) and value is not None and got is not None:
        return f"{text} (JSON type {_json_type(got)} instead of {_json_type(value)})"
    return text


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = ((int, "integer"), (float, "fraction"), (str, "string"), (list, "array"), (dict, "object"))
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
