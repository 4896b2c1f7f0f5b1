"""The values of a second opinion: what each of the two others says to one settled event, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CONSISTENT = "consistent"
INCONSISTENT = "inconsistent"
NO_OPINION = "no opinion"


@dataclass(frozen=True)
class Said:
    """One of the two others to one settled event. why: the reason for no opinion, or what does not fit."""

    opinion: str
    why: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """A part of a line of second-opinion.jsonl."""
        return {"opinion": self.opinion, "why": self.why, **self.evidence}


@dataclass(frozen=True)
class Opinion:
    """All that was said to the settled event that arrived at `t_ns`; read_back is None where nothing was read.

    faulted: the judge found it wrong, too.
    """

    vm: str
    t_ns: int
    new_time: int | None
    qmp: Said
    read_back: Said | None = None
    faulted: bool = False

    @property
    def contradictions(self) -> list[str]:
        """What speaks against the settled event."""
        ways = (("QMP", self.qmp), ("read-back", self.read_back))
        return [f"{way}: {said.why}" for way, said in ways if said is not None and said.opinion == INCONSISTENT]

    def as_json(self) -> dict[str, Any]:
        """The line of second-opinion.jsonl."""
        read_back = None if self.read_back is None else self.read_back.as_json()
        judged = {"faulted": True} if self.faulted else {}
        said = {"qmp": self.qmp.as_json(), "read_back": read_back}
        return {"t_ns": self.t_ns, "new_time": self.new_time, **said, **judged}


@dataclass(frozen=True)
class Totals:
    """The second opinion on a whole run, in numbers."""

    settled: int
    qmp: Counter[str]
    read_back: Counter[str]
    reasons: Counter[str]

    def as_json(self) -> dict[str, Any]:
        """What second-opinion.json holds."""
        counts = {"qmp": self.qmp, "read_back": self.read_back, "reasons": self.reasons}
        return {"settled": self.settled, **{name: dict(count) for name, count in counts.items()}, "line": self.line()}

    def line(self) -> str:
        """`212 of 212 settled events consistent by QMP, 40 by read-back`, and what else there is."""
        if not self.settled:
            return "none: there is no settled event beside which QEMU's RTC was recorded"
        text = f"{self.qmp[CONSISTENT]} of {self.settled} settled events consistent by QMP"
        text += f", {self.read_back[CONSISTENT]} by read-back"
        if wrong := self.qmp[INCONSISTENT] + self.read_back[INCONSISTENT]:
            text += f"; {wrong} INCONSISTENT"
        if unsaid := self.qmp[NO_OPINION]:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common(3))
            text += f"; no opinion on {unsaid} ({reasons})"
        return text


def totals(opinions: Sequence[Opinion]) -> Totals:
    """Counts over all opinions."""
    return Totals(
        settled=len(opinions),
        qmp=Counter(opinion.qmp.opinion for opinion in opinions),
        read_back=Counter(opinion.read_back.opinion for opinion in opinions if opinion.read_back is not None),
        reasons=Counter(opinion.qmp.why for opinion in opinions if opinion.qmp.opinion == NO_OPINION),
    )
