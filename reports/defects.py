"""Known vRTC defects of a run: which are no failure, by what run.json says was known, and which are product faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reports.rundir import RunDir
from reports.verdicts import DEFECT, Verdict, plain


def why_it_counts(run: RunDir, name: str | None, vm: str) -> str | None:
    """Why a known vRTC defect found on this guest is a product fault of the run all the same; None where it is not.

    It is one where the run's file of known defects does not have it for the guest's vRTC, or no longer. A run that
    had no such file does not say.
    """
    known = run.info.get("known_defects")
    if not isinstance(known, list):
        return None
    vrtc = run.vrtc(vm)
    entry = _entry(known, name, vrtc)
    if entry is None:
        return f"the vRTC defect {name} is not among the known ones of {vrtc}"
    if entry.get("expired"):
        return f"the vRTC defect {name}, known since {entry.get('since')}, had to be mended by {entry.get('expires')}"
    return None


def defect_lines(run: RunDir, verdicts: Sequence[Verdict]) -> list[str]:
    """The summary's lines on the defects that were found, each by its name, with how often; first those that count."""
    found = Counter((v.defect or "unnamed", run.vrtc(v.vm), v.vm) for v in verdicts if v.verdict == DEFECT)
    counts: Counter[tuple[str, str | None]] = Counter()
    reasons: dict[tuple[str, str | None], str | None] = {}
    for (name, vrtc, vm), count in found.items():
        counts[name, vrtc] += count
        reasons[name, vrtc] = why_it_counts(run, name, vm)
    lines = []
    for title, counting in (
        ("vRTC defects that are not known, or no longer (product faults)", True),
        (f"{DEFECT}s (ACRN's vRTC, shown and counted, no failure)", False),
    ):
        these = sorted((key for key in counts if (reasons[key] is not None) == counting), key=str)
        lines += [title] if these else []
        lines += [f"  {name} {counts[name, vrtc]}{_told(run, name, vrtc, reasons[name, vrtc])}" for name, vrtc in these]
    return lines


def _told(run: RunDir, name: str, vrtc: str | None, reason: str | None) -> str:
    known = run.info.get("known_defects")
    entry = _entry(known, name, vrtc) if isinstance(known, list) else None
    if reason is not None:
        return f"   {plain(reason)}"
    return "" if entry is None else f"   known until {plain(entry.get('expires'))}: {plain(entry.get('what'))}"


def _entry(known: Sequence[Any], name: str | None, vrtc: str | None) -> Mapping[str, Any] | None:
    entries = (entry for entry in known if isinstance(entry, Mapping))
    return next((entry for entry in entries if (entry.get("name"), entry.get("vrtc")) == (name, vrtc)), None)
