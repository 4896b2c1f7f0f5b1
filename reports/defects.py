"""Known defects of ACRN's in a run: which are no failure, by what run.json says was known, and which are faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reports.rundir import RunDir
from reports.verdicts import ACRN_DM_DEFECT, DEFECT, DEFECTS, Verdict, plain

_WHOSE = {DEFECT: "vRTC", ACRN_DM_DEFECT: "acrn-dm"}


def why_it_counts(run: RunDir, name: str | None, vm: str, word: str = DEFECT) -> str | None:
    """Why a known defect found on this guest is a product fault of the run all the same; None where it is not.

    word: the verdict, which says whose defect it is. It is a fault where the run's file of known defects does not have
    it (for the guest's vRTC), or no longer. A run that had no such file does not say.
    """
    known = run.info.get("known_defects")
    if not isinstance(known, list):
        return None
    vrtc, whose = run.vrtc(vm), _WHOSE.get(word, "vRTC")
    entry = _entry(known, name, vrtc, word)
    if entry is None:
        of = f" of {vrtc}" if word == DEFECT else ""
        return f"the {whose} defect {name} is not among the known ones{of}"
    if entry.get("expired"):
        since, expires = entry.get("since"), entry.get("expires")
        return f"the {whose} defect {name}, known since {since}, had to be mended by {expires}"
    return None


def why_spared_counts(run: RunDir, verdict: Verdict) -> str | None:
    """Why it is a fault that a known defect of acrn-dm did not occur: the list still has it. None where it is none."""
    known = run.info.get("known_defects")
    if verdict.spared is None or not isinstance(known, list) or run.is_rehearsal(verdict.vm):
        return None
    if _entry(known, verdict.spared, run.vrtc(verdict.vm), ACRN_DM_DEFECT) is None:
        return None
    return (
        f"the known acrn-dm defect {verdict.spared} did not occur: the event is right."
        " If acrn-dm has been mended, its entry in the file of known defects has to go"
    )


def why_not_passed(run: RunDir, verdict: Verdict) -> str | None:
    """Why a verdict that is no product fault by itself is one of this run; None where it is not."""
    if verdict.verdict in DEFECTS:
        return why_it_counts(run, verdict.defect, verdict.vm, verdict.verdict)
    return why_spared_counts(run, verdict)


def defect_lines(run: RunDir, verdicts: Sequence[Verdict]) -> list[str]:
    """The summary's lines on the defects that were found, each by its name, with how often; first those that count."""
    lines = _lines_of(run, verdicts, DEFECT, "ACRN's vRTC, shown and counted, no failure")
    lines += _lines_of(run, verdicts, ACRN_DM_DEFECT, "ACRN's event service, shown and counted, no failure")
    spared = Counter((v.spared, why_spared_counts(run, v)) for v in verdicts if v.spared is not None)
    for (name, reason), count in sorted(spared.items(), key=str):
        lines += ["known acrn-dm defects that did not occur" + (" (product faults)" if reason else "")]
        why = plain(reason) if reason else "which the list does not have, or it was a rehearsal"
        lines += [f"  {name} {count}   {why}"]
    return lines


def _lines_of(run: RunDir, verdicts: Sequence[Verdict], word: str, why_none: str) -> list[str]:
    found = Counter((v.defect or "unnamed", run.vrtc(v.vm), v.vm) for v in verdicts if v.verdict == word)
    counts: Counter[tuple[str, str | None]] = Counter()
    reasons: dict[tuple[str, str | None], str | None] = {}
    for (name, vrtc, vm), count in found.items():
        counts[name, vrtc] += count
        reasons[name, vrtc] = why_it_counts(run, name, vm, word)
    lines = []
    for title, counting in (
        (f"{_WHOSE[word]} defects that are not known, or no longer (product faults)", True),
        (f"{word}s ({why_none})", False),
    ):
        these = sorted((key for key in counts if (reasons[key] is not None) == counting), key=str)
        lines += [title] if these else []
        for name, vrtc in these:
            lines.append(f"  {name} {counts[name, vrtc]}{_told(run, name, vrtc, word, reasons[name, vrtc])}")
    return lines


def _told(run: RunDir, name: str, vrtc: str | None, word: str, reason: str | None) -> str:
    known = run.info.get("known_defects")
    entry = _entry(known, name, vrtc, word) if isinstance(known, list) else None
    if reason is not None:
        return f"   {plain(reason)}"
    return "" if entry is None else f"   known until {plain(entry.get('expires'))}: {plain(entry.get('what'))}"


def _entry(known: Sequence[Any], name: str | None, vrtc: str | None, word: str) -> Mapping[str, Any] | None:
    of = "acrn-dm" if word == ACRN_DM_DEFECT else "vrtc"
    on = (vrtc,) if word == DEFECT else (vrtc, None)
    entries = (entry for entry in known if isinstance(entry, Mapping) and entry.get("of", "vrtc") == of)
    return next((entry for entry in entries if entry.get("name") == name and entry.get("vrtc") in on), None)
