"""The end of a run on one screen: counts, latencies, defects by name, errors, and where everything lies."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from reports.allure_results import MOST_SINGLE
from reports.attempts import deviating_lines
from reports.defects import defect_lines
from reports.rundir import RunDir, RunError, open_run, shown_path
from reports.verdicts import DEFECTS, FAULT, INCONCLUSIVE, PASS, VERDICTS, Verdict, plain

JUNIT_NAME = "junit.xml"
HTML_NAME = "html/index.html"
SECOND_OPINION = "second-opinion.json"
MOST_INCONCLUSIVE = 0.01
MOST_UNCERTAIN_MS = 20.0
"""The judge calls no event early or late whose stamps may be wrong by more."""

_MOST_FAULTS = 20


@dataclass(frozen=True)
class Totals:
    """A summary's numbers. Latencies in ms after due; `seconds` from the first write to the last event."""

    verdicts: tuple[Verdict, ...]
    latencies: tuple[float, ...]
    raw_events: int | None
    settled_events: int
    seconds: float | None
    beside: int
    uncovered: int = 0

    @property
    def uncertainties(self) -> list[float]:
        """How far each latency may be wrong, in ms, where two machines' clocks are compared."""
        return sorted(v.uncertainty_ms for v in self.verdicts if v.uncertainty_ms is not None)

    def count(self, verdict: str, mode: str | None = None, vms: Collection[str] | None = None) -> int:
        """How many updates have this verdict (in this mode, on one of these guests)."""
        return sum(
            v.verdict == verdict and mode in (None, v.mode) and (vms is None or v.vm in vms) for v in self.verdicts
        )

    @property
    def defects(self) -> Counter[str]:
        """Known defects by name."""
        return Counter(v.defect or "unnamed" for v in self.verdicts if v.verdict in DEFECTS)

    @property
    def inconclusive_share(self) -> float:
        """Share of inconclusive updates; above 1 % it is an infrastructure error (judge's rule 5).

        Those that the beginning or the end of listening cut off say nothing about the run.
        """
        whole = len(self.verdicts) - self.cut
        return (self.count(INCONCLUSIVE) - self.cut) / whole if whole else 0.0

    @property
    def cut(self) -> int:
        """How many updates were cut off by the beginning or the end of listening."""
        return sum(v.cut for v in self.verdicts)


def totals(
    verdicts: Sequence[Verdict], *, attached: bool = False, session_of: Callable[[str], int] = lambda vm: 1
) -> Totals:
    """Counts over `verdicts`. Restores and background writes count only where something is wrong.

    attached: the guest was only watched, and all that it did in the background is what the run is about.
    session_of: in which session of the run a guest was; the time between two of them is nobody's.
    """
    everything = verdicts
    judged = [v for v in everything if not v.uncovered]
    verdicts = [v for v in judged if attached or v.role == "update" or v.verdict != PASS or v.spared is not None]
    # neighbours that were judged together both name their events: each counts once
    events = list({(v.vm, seen.t_ns): seen for v in verdicts for seen in v.seen}.values())
    raw = [seen.event.get("raw_events") for seen in events]
    span = sum(_span(each) for each in _by_session(verdicts, session_of))
    return Totals(
        verdicts=tuple(verdicts),
        latencies=tuple(sorted(v.latency_ms for v in verdicts if v.latency_ms is not None)),
        raw_events=None if raw and not any(raw) else sum(count for count in raw if isinstance(count, int)),
        settled_events=len(events),
        seconds=span if span > 0 else None,
        beside=len(judged) - len(verdicts),
        uncovered=len(everything) - len(judged),
    )


def _by_session(verdicts: Sequence[Verdict], session_of: Callable[[str], int]) -> Collection[list[Verdict]]:
    sessions: dict[int, list[Verdict]] = {}
    for verdict in verdicts:
        sessions.setdefault(session_of(verdict.vm), []).append(verdict)
    return sessions.values()


def _span(verdicts: Sequence[Verdict]) -> float:
    """Seconds from the first write to the last event."""
    starts = [v.origin_ns for v in verdicts if v.origin_ns is not None]
    ends = [seen.t_ns for v in verdicts for seen in v.seen if seen.t_ns is not None]
    ends += [e.due_ns for v in verdicts for e in v.expected if e.due_ns is not None]
    return max(0, max(ends) - min(starts)) / 1e9 if starts and ends else 0.0


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank: a value that really occurred. `ordered` must be sorted and not empty."""
    rank = max(1, math.ceil(percent / 100 * len(ordered)))
    return ordered[rank - 1]


def summary(
    run_dir: Path | str | RunDir,
    *,
    html: Path | None = None,
    html_reason: str = "",
    junit: Path | None = None,
) -> str:
    """The summary as text. `html` and `junit`: where these reports are, if not at their usual place.

    `html_reason`: why there is no HTML report, and how to get it. Raises as `open_run` does.
    """
    run = open_run(run_dir)
    verdicts = run.verdicts()
    numbers = totals(verdicts, attached=run.attached, session_of=run.session)
    lines = _head(run, numbers)
    lines += ["", *_counts(run, numbers)]
    lines += ["", *_figures(numbers), *_second_opinion(run)]
    found = _faults(run, numbers), deviating_lines(verdicts), defect_lines(run, numbers.verdicts)
    for block in (*found, _errors(run.errors), _former(run), _notes(run), _damage(run)):
        lines += ["", *block] if block else []
    lines += ["", *_places(run, numbers, html, html_reason, junit)]
    return "\n".join(lines)


def duration(run: RunDir) -> float | None:
    """Seconds from run.json's start to its end; None while it is not finished."""
    try:
        started = datetime.fromisoformat(str(run.info["started"]).replace("Z", "+00:00"))
        ended = datetime.fromisoformat(str(run.info["ended"]).replace("Z", "+00:00"))
        return (ended - started).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None


def _head(run: RunDir, numbers: Totals) -> list[str]:
    took = duration(run)
    again = f" (resumed; session {len(run.former_sessions) + 1})" if run.former_sessions else ""
    end = f"took {took:.1f} s{again}" if took is not None else "NOT FINISHED: what follows is as far as it got"
    updates = len(numbers.verdicts)
    speed = ""
    if numbers.seconds and updates:
        speed = f" in {numbers.seconds:.1f} s, {updates / numbers.seconds:.1f} a second"
    beside = f"; {numbers.beside} restores and background writes passed" if numbers.beside else ""
    guests = f"{len(run.guests)} guest" if len(run.guests) == 1 else f"{len(run.guests)} guests"
    return [
        f"RTC run   seed {run.seed}   bench {run.bench}   {guests}   {end}",
        f"          {updates} update{'s' if updates != 1 else ''} judged{speed}{beside}",
    ]


def _counts(run: RunDir, numbers: Totals) -> list[str]:
    """Updates by verdict and mode; where both vRTCs were at work, by these too."""
    guests: dict[str, set[str]] = {}
    for verdict in numbers.verdicts:
        guests.setdefault(run.vrtc(verdict.vm) or "?", set()).add(verdict.vm)
    modes = sorted({v.mode or "-" for v in numbers.verdicts})
    names = [*VERDICTS, *sorted({v.verdict for v in numbers.verdicts} - set(VERDICTS))]
    width = max(len(name) for name in names) + 1
    lines = [f"{'verdict':<{width}}" + "".join(f"{mode:>9}" for mode in modes) + f"{'all':>9}"]
    for name in names:
        lines.append(_row(numbers, name, modes, f"{name:<{width}}", None))
        if len(guests) > 1 and numbers.count(name):
            lines += [
                _row(numbers, name, modes, f"{'  ' + vrtc:<{width}}", guests[vrtc]) for vrtc in sorted(guests)
            ]
    return lines


def _row(numbers: Totals, verdict: str, modes: Sequence[str], title: str, vms: Collection[str] | None) -> str:
    cells = [numbers.count(verdict, "" if mode == "-" else mode, vms) for mode in modes]
    return title + "".join(f"{cell:>9}" for cell in [*cells, numbers.count(verdict, None, vms)])


def _figures(numbers: Totals) -> list[str]:
    lines = []
    if numbers.latencies:
        parts = [f"p{p} {percentile(numbers.latencies, p):.2f}" for p in (50, 90, 99)]
        parts.append(f"max {numbers.latencies[-1]:.2f}")
        lines.append(f"after due        {'   '.join(parts)} ms   ({len(numbers.latencies)} events)")
    # acrn-dm does not tell how many it put together.
    raw = "not told" if numbers.raw_events is None else numbers.raw_events
    lines.append(f"raw events       {raw} in {numbers.settled_events} settled events")
    ambiguous = sum(v.ambiguous for v in numbers.verdicts)
    if ambiguous:
        lines.append(
            f"ambiguous        {ambiguous} (a gap within 50 ms of the window: both readings admitted)"
        )
    share = numbers.inconclusive_share
    note = "   more than 1 % : an infrastructure error" if share > MOST_INCONCLUSIVE else ""
    lines.append(f"inconclusive     {numbers.count(INCONCLUSIVE) - numbers.cut} ({share:.1%}){note}")
    if numbers.uncertainties:
        p50, worst = percentile(numbers.uncertainties, 50), numbers.uncertainties[-1]
        beyond = sum(ms > MOST_UNCERTAIN_MS for ms in numbers.uncertainties)
        note = f"   {beyond} beyond {MOST_UNCERTAIN_MS:.0f} ms: early and late cannot be told" if beyond else ""
        lines.append(f"uncertainty      p50 +- {p50:.2f}   max +- {worst:.2f} ms (of two machines' clocks){note}")
    if numbers.uncovered:
        lines.append(f"background       {numbers.uncovered} events came while no witness told what the guest did")
    if numbers.cut:
        lines.append(f"not judged       {numbers.cut} (listening began, or was ended, in the middle of it)")
    return lines


def _second_opinion(run: RunDir) -> list[str]:
    """What QEMU's own RTC says to the settled events, where that was asked (harness/opinion)."""
    try:
        found = json.loads((run.path / SECOND_OPINION).read_text("utf-8", "replace"))
    except (OSError, ValueError, RecursionError):
        return []
    line = found.get("line") if isinstance(found, dict) and found.get("settled") else None
    first, *rest = plain(line or "").split("; ")
    return [f"second opinion   {first}", *(f"                 {more}" for more in rest)] if line else []


def _faults(run: RunDir, numbers: Totals) -> list[str]:
    faulty = [v for v in numbers.verdicts if v.is_fault]
    if not faulty:
        return []
    lines = [f"{FAULT}s"]
    for v in faulty[:_MOST_FAULTS]:
        lines.append(f"  {v.vm} {v.item}: {v.diagnosis or ', '.join(v.faults) or 'no diagnosis'}")
        lines.append(f"      {run.replay_command(v)}")
    if len(faulty) > _MOST_FAULTS:
        lines.append(f"  and {len(faulty) - _MOST_FAULTS} more; each is in the reports below")
    first = faulty[0]
    lines.append(f"  explain one:  python -m reports {shown_path(run.path)} explain {first.item}")
    return lines


def _errors(errors: Sequence[RunError]) -> list[str]:
    lines: list[str] = []
    kinds = {"infrastructure": "infrastructure errors (nothing is known about the product from these)"}
    for kind in sorted({error.kind for error in errors}):
        lines.append(kinds.get(kind, f"{kind} errors"))
        for error in errors:
            if error.kind == kind:
                first, *rest = error.text.splitlines() or ["(no text)"]
                lines.append(f"  {error.vm + ': ' if error.vm else ''}{first}")
                lines += [f"    {line}" for line in rest]
    return lines


def _notes(run: RunDir) -> list[str]:
    notes = run.info.get("notes")
    return [f"note: {plain(note)}" for note in notes] if isinstance(notes, list) else []


def _former(run: RunDir) -> list[str]:
    """Why earlier sessions were lost counts no more: what they left undone has been done since, or is undone still."""
    if not run.former_errors:
        return []
    lines = ["errors of earlier sessions (what was lost by them was done again)"]
    return lines + [f"  {e.vm + ': ' if e.vm else ''}{(e.text.splitlines() or ['?'])[0]}" for e in run.former_errors]


def _damage(run: RunDir) -> list[str]:
    if not run.problems:
        return []
    return ["damaged records (the rest was read)", *(f"  {problem}" for problem in run.problems[:20])]


def _places(run: RunDir, numbers: Totals, html: Path | None, reason: str, junit: Path | None) -> list[str]:
    html = html or _if_there(run.path / HTML_NAME)
    junit = junit or _if_there(run.path / JUNIT_NAME)
    lines = [f"run directory    {shown_path(run.path)}"]
    if html is not None:
        lines.append(f"HTML report      {shown_path(html)}")
        if len(numbers.verdicts) > MOST_SINGLE:
            one = f"python -m reports {shown_path(run.path)} evidence ITEM"
            lines.append(f"                 passes are gathered in it; one by one:  {one}")
    elif reason:
        first, *rest = reason.splitlines()
        lines += [f"HTML report      none: {first}", *(f"                 {line}" for line in rest)]
    if junit is not None:
        lines.append(f"JUnit            {shown_path(junit)}")
    return lines


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None
