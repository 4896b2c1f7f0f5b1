"""One update's timeline in plain text: each write, what it does to the window, due, and what arrived."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass

from reports.reads import NO_READS, Reads, RtcAccess
from reports.verdicts import RegisterWrite, Seen, Verdict, plain


@dataclass(frozen=True)
class Moment:
    """One row of a timeline: `at_ns` in monotonic ns, `kind` is write, read, due, late or event.

    `label` is what a picture has room for, on two short lines; `window` what happens to the settle window.
    """

    at_ns: int
    kind: str
    text: str
    window: str = ""
    wrong: bool = False
    label: tuple[str, str] = ("", "")


_RANK = {"write": 0, "read": 0, "due": 1, "event": 2, "late": 3}


def moments(verdict: Verdict, window_ns: int = 1_000_000_000, reads: Reads = NO_READS) -> list[Moment]:
    """Everything that happened to the update, in order of time."""
    rows = [*_write_moments(verdict, window_ns), *_read_moments(verdict, reads.later)]
    for expected in verdict.expected:
        if expected.due_ns is not None:
            rows.append(
                Moment(
                    expected.due_ns,
                    "due",
                    "the window has passed in silence: due",
                    "is over",
                    label=("due", ""),
                )
            )
        late_ns = expected.late_ns()
        if late_ns is not None:
            rows.append(
                Moment(late_ns, "late", "last moment in time (due + 150 ms)", label=("late", "after this"))
            )
    for seen in verdict.seen:
        if seen.t_ns is not None:
            after = "" if seen.after_due_ms is None else f", {seen.after_due_ms:+.2f} ms after due"
            after += f" (+- {seen.uncertainty_ns / 1e6:.2f})" if after and seen.uncertainty_ns else ""
            wrong = f"  <-- {', '.join(seen.faults)}" if seen.faults else ""
            text = f"event arrives{after}{wrong}"
            rows.append(Moment(seen.t_ns, "event", text, wrong=bool(seen.faults), label=_event_label(seen)))
    return sorted(rows, key=lambda row: (row.at_ns, _RANK[row.kind]))


def plain_timeline(verdict: Verdict, window_ns: int = 1_000_000_000, reads: Reads = NO_READS) -> list[str]:
    """Lines of ASCII; times are ms after the first write.

    reads: what the guest read meanwhile, where that matters (the hypervisor's vRTC).
    """
    origin = verdict.origin_ns
    rows = moments(verdict, window_ns, reads)
    if origin is None or not rows:
        return ["nothing was written and nothing arrived"]
    lines = [f"{'ms':>10}  {'what':<48}  settle window"]
    if reads.as_of is not None:
        text = f"{reads.as_of.text}: what is not written since stands as of here"
        lines.append(f"{(reads.as_of.at_ns - origin) / 1e6:>10.3f}  {text}")
    before: Moment | None = None
    waiting = False
    for row in rows:
        if waiting and before is not None and row.at_ns - before.at_ns >= 10_000_000:
            silence = f"... {(row.at_ns - before.at_ns) / 1e6:.2f} ms of silence"
            lines.append(f"{'':>10}  {silence:<48}  |")
        waiting = row.kind != "due" and (waiting or bool(row.window))
        mark = row.window or ("|" if waiting and row.kind != "event" else "")
        lines.append(f"{(row.at_ns - origin) / 1e6:>10.3f}  {row.text:<48}  {mark}".rstrip())
        before = row
    if verdict.expected and not verdict.seen:
        lines.append(f"{'':>10}  no event arrived  <-- missing")
    return lines


def write_text(write: RegisterWrite) -> str:
    """`32 century      = 0x20`."""
    return f"{write.index:02x} {write.name:<12} = 0x{write.value:02x}"


def _write_moments(verdict: Verdict, window_ns: int) -> list[Moment]:
    rows = []
    announced_before: int | None = None
    for write in sorted(verdict.writes, key=lambda write: write.stamp_ns):
        text = f"write {plain(write_text(write))}"
        label = (f"{write.index:02x} = {write.value:02x}", write.name)
        if not write.announced:
            rows.append(Moment(write.stamp_ns, "write", f"{text}  says nothing", label=label))
            continue
        fresh = announced_before is None or write.stamp_ns - announced_before >= window_ns
        rows.append(
            Moment(
                write.stamp_ns,
                "write",
                f"{text}  announces",
                "starts" if fresh else "starts again",
                label=label,
            )
        )
        announced_before = write.stamp_ns
    return rows


def _read_moments(verdict: Verdict, reads: tuple[RtcAccess, ...]) -> list[Moment]:
    """Reads with no write between them are one row: a driver reads all registers, several times over."""
    rows = []
    stamps = sorted(write.stamp_ns for write in verdict.writes)
    for _, group in itertools.groupby(reads, lambda read: bisect.bisect(stamps, read.at_ns)):
        first, *others = group
        more = f" and {len(others)} more" if others else ""
        text = f"{first.text}{more}: registers refreshed"
        rows.append(Moment(first.at_ns, "read", text, label=(f"read {first.index:02x}", more.strip())))
    return rows


def _event_label(seen: Seen) -> tuple[str, str]:
    delta = seen.event.get("delta_time")
    change = f"{delta:+d} s" if isinstance(delta, int) else ""
    return ("event", ", ".join(seen.faults) or change)
