"""What run.json says to whoever judges a kept run again: parameters, sessions, which of ACRN's defects were known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import ConfigurationError
from harness.judge.verdict import INCONCLUSIVE, KNOWN, KNOWN_ACRN_DM_DEFECT, PRODUCT_FAULT, Verdict

_PARAMETERS = ("window_ns", "estimate_tolerance")


@dataclass(frozen=True)
class RunRecord:
    """The parts of run.json; without it nothing is known, and everything counts.

    session: the last one of a run that was cut and resumed, from 1 on. known: the known defects; None: not told.
    """

    parameters: Mapping[str, int] = field(default_factory=dict)
    guests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    session: int = 1
    known: Sequence[Mapping[str, Any]] | None = None

    def is_former(self, vm: str) -> bool:
        """Whether the guest was of a session that was cut, and another one has gone on from there."""
        return self._session(vm) < self.session

    def _session(self, vm: str) -> int:
        return int(self.guests.get(vm, {}).get("session", 1))

    def superseded(self, verdicts: Sequence[Verdict]) -> set[int]:
        """The verdicts, by id, that count no more: what was cut with a session, and what a later one did again.

        A product fault counts whatever came after it.
        """
        if self.session == 1:
            return set()
        last: dict[str, int] = {}
        for verdict in verdicts:
            if (plan := _plan(verdict)) is not None:
                last[plan] = max(last.get(plan, 0), self._session(verdict.vm))
        gone = set()
        for verdict in verdicts:
            cut = verdict.verdict == INCONCLUSIVE and self.is_former(verdict.vm)
            plan = _plan(verdict)
            again = plan is not None and self._session(verdict.vm) < last[plan]
            if (cut or again) and verdict.verdict != PRODUCT_FAULT:
                gone.add(id(verdict))
        return gone

    def why_a_fault(self, verdict: Verdict) -> str:
        """Why a defect that ACRN's code is known for is a product fault of this run all the same; "" where it is not.

        So is one of acrn-dm's that was known and did not occur, but in a rehearsal, where nothing is acrn-dm.
        """
        if self.known is None:
            return ""
        about = self.guests.get(verdict.vm, {})
        if verdict.verdict not in KNOWN:
            spared = verdict.spared is not None and about.get("rehearsal") is not True
            listed = spared and self._entry(verdict.spared, about.get("vrtc"), of_acrn_dm=True) is not None
            return f"the known acrn-dm defect {verdict.spared} did not occur" if listed else ""
        of_acrn_dm = verdict.verdict == KNOWN_ACRN_DM_DEFECT
        entry = self._entry(verdict.defect, about.get("vrtc"), of_acrn_dm=of_acrn_dm)
        if entry is None:
            return f"{verdict.defect} is not among the known defects of the run"
        return f"{verdict.defect} had to be mended by {entry.get('expires')}" if entry.get("expired") else ""

    def _entry(self, name: str | None, vrtc: object, *, of_acrn_dm: bool) -> Mapping[str, Any] | None:
        on = (vrtc, None) if of_acrn_dm else (vrtc,)
        of = "acrn-dm" if of_acrn_dm else "vrtc"
        for entry in self.known or ():
            if (entry.get("name"), entry.get("of", "vrtc")) == (name, of) and entry.get("vrtc") in on:
                return entry
        return None


def read_record(run_dir: Path) -> RunRecord:
    """What run.json of the run says. Raises ConfigurationError where it cannot be read."""
    path = run_dir / "run.json"
    if not path.exists():
        return RunRecord()
    try:
        run = json.loads(path.read_bytes())
        known = run.get("known_defects")
        return RunRecord(
            {key: int(run[key]) for key in _PARAMETERS if key in run},
            {str(vm): dict(about) for vm, about in run.get("guests", {}).items()},
            1 + len(run.get("former_sessions", ())),
            None if known is None else [dict(entry) for entry in known],
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _plan(verdict: Verdict) -> str | None:
    """The plan of which a verdict is; None where nobody planned it."""
    planned = verdict.role == "update" or verdict.mode == "ntp"
    return verdict.item.partition("~")[0] if planned else None
