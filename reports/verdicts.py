"""One line of `verdicts.jsonl` as typed values, and the few readings of it that every report shares."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

_DATE_REGISTERS = frozenset({0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32})
PASS = "pass"
FAULT = "product fault"
DEFECT = "known vRTC defect"
ACRN_DM_DEFECT = "known acrn-dm defect"
DEFECTS = (DEFECT, ACRN_DM_DEFECT)
"""What is wrong as ACRN's own code is known to be."""
INCONCLUSIVE = "inconclusive"
VERDICTS = (PASS, FAULT, DEFECT, INCONCLUSIVE)
"""Those that every run counts; acrn-dm's defects are told where there are any."""

EARLY_NS = 1_000_000
LATE_NS = 150_000_000

REGISTERS = {
    0x00: "second",
    0x02: "minute",
    0x04: "hour",
    0x06: "day of week",
    0x07: "day",
    0x08: "month",
    0x09: "year",
    0x0A: "A",
    0x0B: "B",
    0x0C: "C",
    0x0D: "D",
    0x32: "century",
    0x01: "alarm second",
    0x03: "alarm minute",
    0x05: "alarm hour",
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Expected:
    """One event the judge expects: RTC times in s since 1970 UTC, moments in monotonic ns.

    On a bench: uncertainty_ns, by how much due may be wrong; others, what else it may say (last, new, delta), since
    nobody knows at which fraction of a second the RTC ticks; optional, that none at all would be right as well.
    """

    last_time: int | None
    new_time: int | None
    delta_time: int | None
    raw_events: int | None
    estimated: bool
    lost: bool
    first_ns: int | None
    last_ns: int | None
    due_ns: int | None
    last_arrival_ns: int | None
    uncertainty_ns: int = 0
    others: tuple[tuple[Any, ...], ...] = ()
    optional: bool = False

    def late_ns(self) -> int | None:
        """The last moment in time: due + 150 ms, counted from the trace line's arrival (judge's rule 2)."""
        if self.due_ns is None:
            return None
        lag = 0
        if self.last_ns is not None and self.last_arrival_ns is not None:
            lag = max(0, self.last_arrival_ns - self.last_ns)
        return self.due_ns + lag + LATE_NS + self.uncertainty_ns


@dataclass(frozen=True)
class Seen:
    """One event as received, with its arrival in monotonic ns and the judge's findings."""

    t_ns: int | None
    event: Mapping[str, Any]
    after_due_ms: float | None
    faults: tuple[str, ...]
    uncertainty_ns: int = 0


@dataclass(frozen=True)
class RegisterWrite:
    """One write of the witness; `announced` says whether the vRTC sent a raw event for it."""

    stamp_ns: int
    index: int
    value: int
    announced: bool

    @property
    def name(self) -> str:
        """The register's name, or its index where it has none."""
        return REGISTERS.get(self.index, f"byte 0x{self.index:02x}")


@dataclass(frozen=True)
class Verdict:
    """One decision of the judge. A field missing or of a wrong type reads as empty, never as an error."""

    item: str
    revision: int
    vm: str
    verdict: str
    role: str
    mode: str
    order: tuple[int, ...]
    diagnosis: str
    faults: tuple[str, ...]
    defect: str | None
    expected: tuple[Expected, ...]
    seen: tuple[Seen, ...]
    writes: tuple[RegisterWrite, ...]
    latency_ms: float | None
    ambiguous: bool
    cut: bool
    decided_ns: int | None
    uncertainty_ms: float | None = None
    spared: str | None = None
    uncovered: bool = False

    @property
    def latency_text(self) -> str:
        """`+0.32 ms`, and how far it may be wrong where two machines' clocks are compared: `+0.32 ms +- 0.8`."""
        if self.latency_ms is None:
            return ""
        uncertain = "" if self.uncertainty_ms is None else f" +- {self.uncertainty_ms:.1f}"
        return f"{self.latency_ms:+.2f} ms{uncertain}"

    @property
    def is_fault(self) -> bool:
        """Whether the product misbehaved here."""
        return self.verdict == FAULT

    @property
    def origin_ns(self) -> int | None:
        """The moment that timelines call 0 ms: the first write, or whatever else is known first."""
        known = [write.stamp_ns for write in self.writes]
        known += [e.first_ns for e in self.expected if e.first_ns is not None]
        known += [s.t_ns for s in self.seen if s.t_ns is not None] if not known else []
        return min(known) if known else None


def parse_verdict(raw: Mapping[str, Any] | Verdict) -> Verdict:
    """The typed form of a verdict line; a `Verdict` comes back as it is."""
    if isinstance(raw, Verdict):
        return raw
    order = tuple(i for i in _items(raw.get("order")) if isinstance(i, int) and not isinstance(i, bool))
    if not order:  # nobody planned it (hwclock, drivers): what the witness saw of the date registers
        written = (write[1] for write in _items(raw.get("writes")) if isinstance(write, list) and len(write) > 1)
        order = tuple(index for index in written if isinstance(index, int) and index in _DATE_REGISTERS)
    return Verdict(
        item=plain(raw.get("item") or "?"),
        revision=_int(raw.get("revision")) or 0,
        vm=plain(raw.get("vm") or "?"),
        verdict=plain(raw.get("verdict") or "?"),
        role=plain(raw.get("role") or "update"),
        mode=plain(raw.get("mode") or ""),
        order=order,
        diagnosis=plain(raw.get("diagnosis") or ""),
        faults=_texts(raw.get("faults")),
        defect=plain(raw["defect"]) if raw.get("defect") else None,
        expected=tuple(_expected(e) for e in _items(raw.get("expected")) if isinstance(e, Mapping)),
        seen=tuple(_seen(s) for s in _items(raw.get("seen")) if isinstance(s, Mapping)),
        writes=tuple(w for w in map(_write, _items(raw.get("writes"))) if w is not None),
        latency_ms=_float(raw.get("latency_ms")),
        ambiguous=raw.get("ambiguous") is True,
        cut=raw.get("cut") is True,
        decided_ns=_int(raw.get("decided_ns")),
        uncertainty_ms=_float(raw.get("uncertainty_ms")),
        spared=plain(raw["spared"]) if raw.get("spared") else None,
        uncovered=raw.get("uncovered") is True,
    )


def pair_events(verdict: Verdict) -> list[tuple[Expected | None, Seen | None]]:
    """Each expected event beside the seen one that answers it, by payload, then time; leftovers alone."""
    left = list(verdict.seen)
    pairs: list[tuple[Expected | None, Seen | None]] = []
    for expected in verdict.expected:
        best = min(left, key=lambda seen: _distance(expected, seen), default=None)
        if best is not None:
            left.remove(best)
        pairs.append((expected, best))
    return pairs + [(None, seen) for seen in left]


def plain(text: object) -> str:
    """`text` on one line and without control characters: garbage from a stream must not drive a terminal."""
    return _CONTROL.sub("?", str(text).replace("\r\n", " ").replace("\n", " ").replace("\t", " "))


def order_text(order: Sequence[int]) -> str:
    """Registers by their CMOS index in hex, as data sheets name them: `32 09 08 07 04 02 00`."""
    return " ".join(f"{index:02x}" for index in order)


def date_text(seconds: object) -> str:
    """An RTC time as `2024-06-15 12:00:00`; empty where there is none, or none that a calendar knows."""
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        return ""
    try:
        moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)
    except OverflowError:
        return ""
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _distance(expected: Expected, seen: Seen) -> tuple[int, int]:
    same = all(
        seen.event.get(field) == getattr(expected, field)
        for field in ("last_time", "new_time", "delta_time", "raw_events")
    )
    if seen.t_ns is None or expected.due_ns is None:
        return (0 if same else 1, 0)
    return (0 if same else 1, abs(seen.t_ns - expected.due_ns))


def _expected(raw: Mapping[str, Any]) -> Expected:
    return Expected(
        last_time=_int(raw.get("last_time")),
        new_time=_int(raw.get("new_time")),
        delta_time=_int(raw.get("delta_time")),
        raw_events=_int(raw.get("raw_events")),
        estimated=bool(raw.get("estimated")),
        lost=bool(raw.get("lost")),
        first_ns=_int(raw.get("first_ns")),
        last_ns=_int(raw.get("last_ns")),
        due_ns=_int(raw.get("due_ns")),
        last_arrival_ns=_int(raw.get("last_arrival_ns")),
        uncertainty_ns=_int(raw.get("uncertainty_ns")) or 0,
        others=tuple(tuple(other) for other in _items(raw.get("or")) if isinstance(other, list) and len(other) == 3),
        optional=raw.get("optional") is True,
    )


def _seen(raw: Mapping[str, Any]) -> Seen:
    event = raw.get("event")
    return Seen(
        t_ns=_int(raw.get("t_ns")),
        event=event if isinstance(event, Mapping) else {},
        after_due_ms=_float(raw.get("after_due_ms")),
        faults=_texts(raw.get("faults")),
        uncertainty_ns=_int(raw.get("uncertainty_ns")) or 0,
    )


def _write(raw: object) -> RegisterWrite | None:
    fields = _items(raw)
    if len(fields) < 3 or not all(isinstance(field, int) for field in fields[:3]):
        return None
    return RegisterWrite(fields[0], fields[1], fields[2], bool(fields[3]) if len(fields) > 3 else False)


def _items(raw: object) -> Sequence[Any]:
    return raw if isinstance(raw, (list, tuple)) else ()


def _texts(raw: object) -> tuple[str, ...]:
    return tuple(plain(text) for text in _items(raw))


def _int(raw: object) -> int | None:
    return raw if isinstance(raw, int) and not isinstance(raw, bool) else None


def _float(raw: object) -> float | None:
    return float(raw) if isinstance(raw, (int, float)) and not isinstance(raw, bool) else None
