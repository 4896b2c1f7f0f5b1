"""The service's status for people: who sends, what became of it, who is told, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .source import COUNTS
from .typed import Any
from .watch import describe, printable

#: What is told of a source besides its counts, where it is worth telling.
_TOLD_APART = ("last_event", "error", "pending")


def describe_status(status: Mapping[str, Any]) -> str:
    """Several lines. What an older or a newer service says is shown as well as it can be."""
    return "\n".join(map(printable, _lines(status)))


def _lines(status: Mapping[str, Any]) -> Iterator[str]:
    state = "running" if status.get("running") else "not running"
    uptime = f" for {_duration(status['uptime'])}" if "uptime" in status else ""
    yield f"{status.get('vm')}: {state}{uptime}, settle window {status.get('window')} s"
    if status.get("about"):
        yield f"about: {_pairs(status['about'])}"
    if status.get("error"):
        yield f"the service failed: {status['error']}"
    yield f"last event: {describe(status['last_event']) if status.get('last_event') else 'none'}"
    yield ""
    sources: Mapping[str, Mapping[str, Any]] = status.get("sources") or {}
    yield from _table(status, sources)
    if status.get("unheeded"):
        yield f"{status['unheeded']} of those dropped were sent while the service was not running"
    for name, source in sources.items():
        yield from _about(name, source)
    yield ""
    if monitor := status.get("monitor"):
        yield f"monitor socket: {_pairs(monitor)}"
    if "subscribers" in status:
        yield f"listeners: {_pairs({key: status.get(key) for key in ('subscribers', 'behind', 'missed')})}"
    for name, action in (status.get("actions") or {}).items():
        yield f"action {name}: {_pairs(action)}"


def _table(status: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("source", *COUNTS)]
    for name, source in (*sources.items(), ("sum", status)):
        rows.append((name, *(_count(source.get(key)) for key in COUNTS)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *counts in rows:
        cells = (cell.rjust(width) for cell, width in zip(counts, widths[1:], strict=True))
        yield "  ".join((name.ljust(widths[0]), *cells))


def _about(name: str, source: Mapping[str, Any]) -> Iterator[str]:
    if source.get("error"):
        yield f"{name}: disabled: {source['error']}"
    if source.get("pending"):
        yield f"{name}: an update is pending"
    if others := {key: value for key, value in source.items() if key not in (*COUNTS, *_TOLD_APART)}:
        yield f"{name}: {_pairs(others)}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in values.items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _count(value: object) -> str:
    """A source that does not know a count does not show 0."""
    return "-" if value is None else str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    while not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{number} {unit}" for number, unit in parts[:2])
