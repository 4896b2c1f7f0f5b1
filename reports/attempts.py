"""Attempts that could not be judged though their events were wrong: a repetition that passes hides no evidence."""

from __future__ import annotations

from collections.abc import Sequence

from reports.verdicts import ACRN_DM_DEFECT, DEFECT, FAULT, INCONCLUSIVE, PASS, Verdict

_MOST = 20
_MADE_GOOD = {
    PASS: "passed",
    DEFECT: "was a known vRTC defect",
    ACRN_DM_DEFECT: "was a known acrn-dm defect",
    FAULT: "was a product fault",
}
_OF_THE_EVENT = frozenset({"payload", "duplicate", "unexplained"})
"""What is wrong with an event itself; when it came is what a stall puts in question."""


def deviation(verdict: Verdict) -> str:
    """What was wrong with the events of an update that could not be judged; "" where nothing was, or none came."""
    if verdict.verdict != INCONCLUSIVE or verdict.cut or not verdict.seen:
        return ""
    found = []
    if len(verdict.seen) != len(verdict.expected):
        plural = "" if len(verdict.seen) == 1 else "s"
        found.append(f"{len(verdict.seen)} event{plural} where {len(verdict.expected)} had to come")
    wrong = {fault for seen in verdict.seen for fault in seen.faults} & _OF_THE_EVENT
    found += [f"wrong {fault}" if fault == "payload" else fault for fault in sorted(wrong)]
    return ", ".join(found)


def deviating_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """The paragraph of the summary; [] where there is nothing to tell."""
    found = [(v, why) for v in verdicts if (why := deviation(v))]
    if not found:
        return []
    last: dict[str, Verdict] = {}
    for verdict in verdicts:
        plan, attempt = _attempt(verdict.item)
        if plan not in last or attempt > _attempt(last[plan].item)[1]:
            last[plan] = verdict
    lines = [f"not judged, though the events were wrong: {len(found)} (a stall may have made them so, or not)"]
    for verdict, why in found[:_MOST]:
        lines.append(f"  {verdict.vm} {verdict.item}: {why}; {_came_of_it(verdict, last)}")
        lines.append(f"      {verdict.diagnosis or 'no diagnosis'}")
    return lines + ([f"  and {len(found) - _MOST} more"] if len(found) > _MOST else [])


def _came_of_it(verdict: Verdict, last: dict[str, Verdict]) -> str:
    repetition = last[_attempt(verdict.item)[0]]
    if repetition.item == verdict.item:
        return "not repeated"
    return f"{repetition.item} {_MADE_GOOD.get(repetition.verdict, 'was ' + repetition.verdict)}"


def _attempt(item: str) -> tuple[str, int]:
    """A plan's name, and which attempt at it an item is."""
    plan, _, number = item.partition("~")
    return plan, int(number) if number.isdecimal() else 1
