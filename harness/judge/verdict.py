"""The value the judge hands out: one decision on one item, with its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.judge.payload import Payload
from harness.judge.updates import ExpectedEvent

PASS = "pass"
PRODUCT_FAULT = "product fault"
KNOWN_DEFECT = "known vRTC defect"
KNOWN_ACRN_DM_DEFECT = "known acrn-dm defect"
KNOWN = frozenset((KNOWN_DEFECT, KNOWN_ACRN_DM_DEFECT))
"""What ACRN's own code is known for, by whose code it is."""
INCONCLUSIVE = "inconclusive"

MOST_INCONCLUSIVE = 0.01
"""More than this part of inconclusive verdicts is an infrastructure error of the run (rule 5)."""

FAULTS = ("missing", "duplicate", "early", "late", "payload", "unexplained", "garbage", "closed")


@dataclass(frozen=True)
class Seen:
    """One received object that belongs to the item; after_due_ms is None where nothing was due."""

    t_ns: int
    event: Payload
    after_due_ms: float | None
    faults: tuple[str, ...]
    uncertainty_ns: int = 0

    def as_json(self) -> dict[str, object]:
        """The object as verdicts.jsonl holds it."""
        line: dict[str, object] = {
            "t_ns": self.t_ns,
            "event": self.event,
            "after_due_ms": self.after_due_ms,
            "faults": list(self.faults),
        }
        if self.uncertainty_ns:
            line["uncertainty_ns"] = self.uncertainty_ns
        return line


@dataclass(frozen=True)
class Verdict:
    """One decision. A later one on the same item has a higher revision and replaces it."""

    item: str
    vm: str
    verdict: str
    role: str
    mode: str | None = None
    order: tuple[int, ...] | None = None
    diagnosis: str = ""
    faults: tuple[str, ...] = ()
    defect: str | None = None
    expected: tuple[ExpectedEvent, ...] = ()
    seen: tuple[Seen, ...] = ()
    writes: tuple[tuple[int, int, int, bool], ...] = ()
    latency_ms: float | None = None
    ambiguous: bool = False
    cut: bool = False
    """Inconclusive for no other reason than that listening began, or was ended on purpose, in the middle of it."""

    uncertainty_ms: float | None = None
    """How far latency_ms may be wrong, where clocks of several machines are compared."""

    spared: str | None = None
    """A known defect of acrn-dm that did not occur though it would have: of a list of defects it has to go."""

    uncovered: bool = False
    """An event that came while no witness told what the guest did: it is shown and not judged."""

    extras: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 1
    decided_ns: int = 0

    def same_finding(self, other: Verdict) -> bool:
        """Whether the other says the same, whenever it was decided."""
        return self == replace(other, revision=self.revision, decided_ns=self.decided_ns)

    def as_json(self) -> dict[str, object]:
        """The line of verdicts.jsonl; `ambiguous`, `cut` and the item's own extra fields stand where they apply."""
        line: dict[str, object] = {
            "item": self.item,
            "revision": self.revision,
            "vm": self.vm,
            "verdict": self.verdict,
            "role": self.role,
            "mode": self.mode,
            "order": None if self.order is None else list(self.order),
            "diagnosis": self.diagnosis,
            "faults": list(self.faults),
            "defect": self.defect,
            "expected": [event.as_json() for event in self.expected],
            "seen": [seen.as_json() for seen in self.seen],
            "writes": [list(write) for write in self.writes],
            "latency_ms": self.latency_ms,
            "decided_ns": self.decided_ns,
        }
        line.update({name: True for name in ("ambiguous", "cut", "uncovered") if getattr(self, name)})
        for name, value in (("uncertainty_ms", self.uncertainty_ms), ("spared", self.spared)):
            if value is not None:
                line[name] = value
        return {**self.extras, **line}


def ordered_faults(faults: Sequence[str]) -> tuple[str, ...]:
    """Each fault once, in the order of FAULTS."""
    return tuple(fault for fault in FAULTS if fault in faults)
