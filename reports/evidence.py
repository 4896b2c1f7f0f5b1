"""One attachment per update with everything about it: an HTML document that needs nothing beside itself.

Everything from outside (events, trace lines, names) is escaped; the document has no script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from reports.failure import compare, headline, judged_of
from reports.reads import reads_of
from reports.rundir import RunDir, open_run
from reports.timeline import plain_timeline
from reports.timeline_svg import svg_timeline
from reports.verdicts import (
    ACRN_DM_DEFECT,
    DEFECT,
    FAULT,
    INCONCLUSIVE,
    PASS,
    Verdict,
    order_text,
    pair_events,
    parse_verdict,
    plain,
)

MIME = "text/html"

_MOST_LINES = 400
SERVICES = {
    "project": "this project's, in the device model",
    "hsm": "this project's, on the hypervisor's ring",
    "behind-acrn-dm": "this project's, behind acrn-dm's monitor socket",
    "acrn-dm": "acrn-dm's own",
}
"""Which event service was judged, by what run.json calls it."""
_BADGES = {PASS: "#1a7f4b", FAULT: "#c62828", DEFECT: "#b26a00", ACRN_DM_DEFECT: "#b26a00", INCONCLUSIVE: "#6b4fa0"}
_STYLE = (
    "body{font:14px/1.45 sans-serif;color:#1c2126;background:#fff;margin:16px;max-width:1100px}"
    "h1{font-size:18px;margin:0 0 4px}h2{font-size:14px;margin:18px 0 4px}"
    "table{border-collapse:collapse}td,th{padding:2px 12px 2px 0;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #e6e8eb;font-variant-numeric:tabular-nums}th{color:#5a636d;font-weight:600}"
    ".d td{background:#fdecea}.d td:last-child{color:#c62828;font-weight:600}"
    "pre{background:#f5f6f8;padding:8px;overflow-x:auto;font-size:12px;line-height:1.4;margin:0}"
    ".b{color:#fff;border-radius:4px;padding:1px 8px;margin-right:8px}.p{overflow-x:auto}"
    "details{margin-top:12px}summary{cursor:pointer;font-weight:600}"
)


def bundle(run_dir: Path | str | RunDir, verdict: Mapping[str, Any] | Verdict) -> tuple[str, bytes, str]:
    """Name, body and MIME type of the update's attachment. Raises as `open_run` does."""
    run = open_run(run_dir)
    v = parse_verdict(verdict)
    body = "".join(_document(run, v))
    return (f"evidence {v.vm} {v.item}", body.encode("utf-8", "replace"), MIME)


def _document(run: RunDir, v: Verdict) -> Iterable[str]:
    title = escape(headline(v, run.vrtc(v.vm)))
    yield f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f"<style>{_STYLE}</style></head><body>"
    badge = _BADGES.get(v.verdict, "#555")
    yield f'<h1><span class="b" style="background:{badge}">{escape(v.verdict)}</span>'
    yield f"{escape(v.vm)} {escape(v.item)}</h1>"
    yield f"<p>{escape(v.diagnosis or _all_well(v))}</p>"
    yield f"<h2>Replay</h2><pre>{escape(run.replay_command(v))}</pre><br>"
    yield from _facts(run, v)
    yield from _events(run, v)
    reads = reads_of(run, v)
    picture = svg_timeline(v, run.window_ns, reads)
    if picture:
        yield f'<h2>Timeline</h2><div class="p">{picture}</div>'
    yield from _folded("Timeline as text", plain_timeline(v, run.window_ns, reads))
    raw = "Raw trace lines of the update: arrival ns, stamp ns, line"
    yield from _folded("The agent's own record" if run.has_agents_record(v.vm) else raw, run.trace_lines(v))
    yield from _folded("Event stream as received", run.event_lines(v))
    report = run.agent_report(v)
    yield from _folded(
        "What the agent said", [f"{key}: {value}" for key, value in report.items()] if report else []
    )
    yield from _folded("Plan", run.plan_text(v).splitlines())
    yield "</body></html>"


def _all_well(v: Verdict) -> str:
    if v.verdict == PASS and not v.expected:
        return "No event was expected and none came."
    if v.verdict == PASS:
        return "One event per update, in time, with the right payload."
    return ", ".join(v.faults)


def _facts(run: RunDir, v: Verdict) -> Iterable[str]:
    versions = run.info.get("versions")
    facts = [
        ("mode", v.mode),
        ("vRTC", {"dm": "the device model's (dm)", "hv": "the hypervisor's (hv)"}.get(run.vrtc(v.vm) or "", "")),
        ("order", order_text(v.order)),
        ("after due", v.latency_text),
        ("service", SERVICES.get(run.service(v.vm) or "", "")),
        ("host", run.host(v.vm) or ""),
        ("defect", v.defect or ""),
        ("faults", ", ".join(v.faults)),
        ("role", v.role if v.role != "update" else ""),
        ("revision", str(v.revision) if v.revision > 1 else ""),
        ("seed", run.seed),
        ("bench", run.bench),
        (
            "versions",
            ", ".join(f"{k} {w}" for k, w in versions.items()) if isinstance(versions, Mapping) else "",
        ),
    ]
    rows = "".join(
        f"<tr><th>{name}</th><td>{escape(plain(value))}</td></tr>" for name, value in facts if value
    )
    yield f"<table>{rows}</table>"


def _events(run: RunDir, v: Verdict) -> Iterable[str]:
    yield f"<h2>Expected {len(v.expected)}, seen {len(v.seen)}</h2>"
    for expected, seen in pair_events(v):
        wanted = "expected" if expected else "one too many"
        yield f"<table><tr><th></th><th>{wanted}</th><th>{'seen' if seen else 'missing'}</th><th></th></tr>"
        for row in compare(v, expected, seen, run.vrtc(v.vm), judged_of(run, v)):
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
            mark = ' class="d"' if row[3] else ""
            yield f"<tr{mark}>{cells}</tr>"
        yield "</table><br>"


def _folded(title: str, lines: Sequence[str]) -> Iterable[str]:
    if not lines:
        return
    shown = list(lines[:_MOST_LINES])
    if len(lines) > _MOST_LINES:
        shown.append(f"... and {len(lines) - _MOST_LINES} more lines; all are in the run directory")
    text = escape("\n".join(plain(line) for line in shown))
    yield f"<details><summary>{escape(title)} ({len(lines)})</summary><pre>{text}</pre></details>"
