"""A failed update explained: expected against seen, the timeline, the diagnosis, the one replay command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.reads import reads_of
from reports.rundir import AGENTS_RECORD, RunDir, open_run, shown_path
from reports.timeline import plain_timeline
from reports.verdicts import (
    LATE_NS,
    Expected,
    Seen,
    Verdict,
    date_text,
    order_text,
    pair_events,
    parse_verdict,
    plain,
)

FIELDS = (
    "vm_event",
    "last_time",
    "new_time",
    "delta_time",
    "raw_events",
    "estimated",
    "lost",
    "source",
    "vm",
)


def explain(run_dir: Path | str | RunDir, verdict: Mapping[str, Any] | Verdict) -> str:
    """The whole explanation as text, several lines. Raises as `open_run` does."""
    run = open_run(run_dir)
    v = parse_verdict(verdict)
    source = run.vrtc(v.vm)  # each vRTC has a source of its own, called like it
    lines = [headline(v, source)]
    if v.diagnosis:
        lines.append(f"  {v.diagnosis}")
    lines += ["", f"expected {_count(len(v.expected))}, seen {_count(len(v.seen))}"]
    for number, (expected, seen) in enumerate(pair_events(v), 1):
        lines += _side_by_side(number, v, expected, seen, source, judged_of(run, v))
    lines += ["", "timeline"]
    lines += [f"  {line}" for line in plain_timeline(v, run.window_ns, reads_of(run, v))]
    lines += ["", f"replay:   {run.replay_command(v)}"]
    witness = AGENTS_RECORD if run.has_agents_record(v.vm) else "trace.log"
    lines.append(
        f"records:  {shown_path(run.guest(v.vm))}/ ({witness}, events.jsonl, agent.jsonl, console.log)"
    )
    return "\n".join(lines)


def headline(v: Verdict, vrtc: str | None = None) -> str:
    """`product fault: vm0 random_order_running-007 (running, order 32 09 08 07 04 02 00)`; `vrtc` where it is hv."""
    on = "on the hypervisor's vRTC" if vrtc == "hv" else ""
    about = [part for part in (v.mode, f"order {order_text(v.order)}" if v.order else "", on) if part]
    defect = f" {v.defect}" if v.defect else ""
    return f"{v.verdict}{defect}: {v.vm} {v.item}" + (f" ({', '.join(about)})" if about else "")


def compare(
    v: Verdict, expected: Expected | None, seen: Seen | None, source: str | None, judged: Judged | None = None
) -> list[tuple[str, str, str, str]]:
    """Rows of field, expected, seen, difference ("" where they agree) for one event of either side.

    judged: which service, on a bench: it says what the event has to say.
    """
    wanted = worded(_wanted(v, expected, source), judged)
    others = _other_values(expected, judged)
    got: Mapping[str, Any] = seen.event if seen is not None else {}
    fields = [field for field in FIELDS if field in wanted or field in got]
    fields += [field for field in got if field not in FIELDS]
    rows = []
    for field in fields:
        may_be = [_value(field, value) for value in others.get(field, ())]
        left = " or ".join([_value(field, wanted[field]), *may_be]) if field in wanted else "-"
        right = _value(field, got[field]) if field in got else "-"
        both = expected is not None and seen is not None
        alike = got.get(field) in others.get(field, ())
        rows.append((plain(field), left, right, _difference(field, wanted, got) if both and not alike else ""))
    rows.append(_arrival(expected, seen))
    return rows


def _side_by_side(
    number: int,
    v: Verdict,
    expected: Expected | None,
    seen: Seen | None,
    source: str | None,
    judged: Judged | None,
) -> list[str]:
    rows = compare(v, expected, seen, source, judged)
    title = f"event {number}"
    if seen is None:
        title += ": none, as may be" if expected is not None and expected.optional else ": missing"
    elif expected is None:
        title += ": one too many"
    header = ("", "expected" if expected else "not expected", "seen" if seen else "not seen", "")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(3)]
    lines = [title]
    for row in [header, *rows]:
        mark = f"  <-- {row[3]}" if row[3] else ""
        lines.append(f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}{mark}".rstrip())
    return lines


def _wanted(v: Verdict, expected: Expected | None, source: str | None) -> dict[str, Any]:
    if expected is None:
        return {}
    wanted: dict[str, Any] = {
        "vm_event": 0,
        "last_time": expected.last_time,
        "new_time": expected.new_time,
        "delta_time": expected.delta_time,
        "raw_events": expected.raw_events,
        "vm": v.vm,
    }
    for flag in ("estimated", "lost"):
        if getattr(expected, flag):
            wanted[flag] = True
    if source is not None:
        wanted["source"] = source
    return wanted


@dataclass(frozen=True)
class Judged:
    """Which event service was judged on a bench, and the name by which its events call the guest."""

    service: str
    vm: str


def judged_of(run: RunDir, v: Verdict) -> Judged | None:
    """What run.json says of that; None where nothing is said, as in QEMU mode."""
    service = run.service(v.vm)
    return None if service is None else Judged(service, run.vm_name(v.vm))


def worded(wanted: dict[str, Any], judged: Judged | None) -> dict[str, Any]:
    """What an event of that service has of the fields, as the judge has it (harness/judge/forms.py)."""
    if not wanted or judged is None:
        return wanted
    wanted, service = {**wanted, "vm": judged.vm}, judged.service
    if service in ("project", "hsm"):
        return wanted
    last, delta = wanted["last_time"], wanted["delta_time"]
    if service == "acrn-dm":
        return {"vm_event": 0, "last_time": last, "delta_time": delta}
    if last is not None and delta is not None:
        wanted["new_time"] = last + delta
    wanted = {key: value for key, value in wanted.items() if key not in ("estimated", "lost")}
    return {**wanted, "raw_events": None, "source": "monitor"}


def _other_values(expected: Expected | None, judged: Judged | None) -> dict[str, list[object]]:
    """What else the times may be, where nobody knows at which fraction of a second the RTC ticks."""
    found: dict[str, list[object]] = {}
    if expected is None:
        return found
    nominal = (expected.last_time, expected.new_time, expected.delta_time)
    for place, field in enumerate(("last_time", "new_time", "delta_time")):
        values = {other[place] for other in expected.others}
        if field == "new_time" and judged is not None and judged.service == "behind-acrn-dm":
            values = {other[0] + other[2] for other in expected.others if None not in other}
        found[field] = [*sorted(v for v in values if v != nominal[place] and isinstance(v, int))]
    return found


def _difference(field: str, wanted: Mapping[str, Any], got: Mapping[str, Any]) -> str:
    left, right = wanted.get(field), got.get(field)
    if field not in wanted:
        return "not expected" if field in ("lost", "overrun", "estimated") else ""
    if field not in got:
        return "not in the event"
    if left == right and isinstance(left, bool) == isinstance(right, bool):
        return ""
    if isinstance(left, int) and isinstance(right, int) and not isinstance(right, bool):
        return f"{right - left:+d}{' s' if field.endswith('_time') else ''}"
    return "differs"


def _arrival(expected: Expected | None, seen: Seen | None) -> tuple[str, str, str, str]:
    left = "-" if expected is None else f"0 to {LATE_NS // 1_000_000} ms after due"
    if expected is not None and expected.last_ns is not None and expected.last_arrival_ns is not None:
        lag = (expected.last_arrival_ns - expected.last_ns) / 1e6
        left += f" (trace lag {lag:.2f} ms)" if lag >= 0.5 else ""
    if seen is None:
        return ("arrival", left, "never", "missing")
    after = seen.after_due_ms
    if after is None and expected is not None and expected.due_ns is not None and seen.t_ns is not None:
        after = (seen.t_ns - expected.due_ns) / 1e6
    right = "?" if after is None else f"{after:+.2f} ms"
    uncertain_ns = seen.uncertainty_ns + (0 if expected is None else expected.uncertainty_ns)
    right += f" +- {uncertain_ns / 1e6:.2f}" if after is not None and uncertain_ns else ""
    return ("arrival", left, right, ", ".join(fault for fault in seen.faults if fault != "payload"))


def _value(field: str, value: object) -> str:
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else plain(value)
    date = date_text(value) if field in ("last_time", "new_time") else ""
    shown = f"{value:+d}" if field == "delta_time" and isinstance(value, int) else shown
    return f"{shown}  {date}" if date else shown


def _count(number: int) -> str:
    return f"{number} event" if number == 1 else f"{number} events"
