"""The same timeline as a self-contained SVG: no script, no font, no library."""

from __future__ import annotations

import math
from html import escape
from itertools import pairwise

from reports.reads import NO_READS, Reads
from reports.timeline import Moment, moments
from reports.verdicts import Verdict

_LEFT, _RIGHT = 40, 60
_AXIS = 92
_HEIGHT = 180
_LEGEND = "ms after the first write; blue writes announce, what is grey says nothing; green: the event is in time"
_COLOURS = {
    "write": "#2563a8",
    "quiet": "#9aa3ad",
    "due": "#5b4a9c",
    "late": "#8a8f98",
    "event": "#1a7f4b",
    "wrong": "#c62828",
}


def svg_timeline(verdict: Verdict, window_ns: int = 1_000_000_000, reads: Reads = NO_READS) -> str:
    """An `<svg>` element. Gaps are drawn by their logarithm, so that 30 us and 1 s can both be seen.

    Empty where nothing is known of the update.
    """
    rows = moments(verdict, window_ns, reads)
    origin = verdict.origin_ns
    if not rows or origin is None:
        return ""
    xs = _positions(rows)
    width = xs[-1] + _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {_HEIGHT}" width="{width:.0f}" '
        f'height="{_HEIGHT}" role="img" style="max-width:100%;height:auto;min-width:{min(800, width):.0f}px" '
        'font-family="sans-serif" font-size="11">',
        f"<title>{escape(verdict.item)}: timeline, gaps drawn by their logarithm</title>",
        *_zones(rows, xs),
        f'<line x1="{_LEFT - 20}" y1="{_AXIS}" x2="{width - 30:.0f}" y2="{_AXIS}" stroke="#444"/>',
        *_gaps(rows, xs),
        f'<text x="{_LEFT - 20}" y="172" fill="#555" font-size="10">{_LEGEND}</text>',
    ]
    for number, (row, x) in enumerate(zip(rows, xs, strict=True)):
        parts += _mark(row, x, (row.at_ns - origin) / 1e6, low=number % 2 == 1)
    return "".join([*parts, "</svg>"])


def _positions(rows: list[Moment]) -> list[float]:
    xs = [float(_LEFT)]
    for before, row in pairwise(rows):
        gap_us = (row.at_ns - before.at_ns) / 1000
        xs.append(xs[-1] + 40 + 26 * math.log10(1 + gap_us / 100))
    return xs


def _zones(rows: list[Moment], xs: list[float]) -> list[str]:
    """The settle window after each announcing write, and the 150 ms in which the event may come."""
    parts: list[str] = []
    opened: float | None = None
    due: float | None = None
    for row, x in zip(rows, xs, strict=True):
        if row.kind in ("write", "due") and row.window:
            if opened is not None:
                parts.append(_bar(opened, x, "#d9e5f3", last=row.kind == "due"))
            opened = x if row.kind == "write" else None
        if row.kind == "due":
            due = x
        elif row.kind == "late" and due is not None:
            parts.append(f'<rect x="{due:.0f}" y="62" width="{x - due:.0f}" height="60" fill="#dff2e5"/>')
            due = None
    return parts


def _bar(start: float, end: float, colour: str, *, last: bool) -> str:
    bar = f'<rect x="{start:.0f}" y="62" width="{end - start - 1:.0f}" height="60" fill="{colour}"/>'
    if last and end - start > 100:
        middle = (start + end) / 2
        bar += f'<text x="{middle:.0f}" y="76" text-anchor="middle" fill="#2563a8">settle window</text>'
    return bar


def _gaps(rows: list[Moment], xs: list[float]) -> list[str]:
    """The length of each gap that is long enough to matter, between its ends."""
    parts = []
    for (before, row), (left, right) in zip(pairwise(rows), pairwise(xs), strict=True):
        gap_ms = (row.at_ns - before.at_ns) / 1e6
        if right - left > 70:
            text = f"{gap_ms / 1000:.3f} s" if gap_ms >= 1000 else f"{gap_ms:.0f} ms"
            middle = (left + right) / 2
            parts.append(f'<text x="{middle:.0f}" y="110" text-anchor="middle" fill="#555">{text}</text>')
    return parts


def _mark(row: Moment, x: float, at_ms: float, *, low: bool) -> list[str]:
    quiet = row.kind == "read" or (row.kind == "write" and not row.window)
    kind = "wrong" if row.wrong else "quiet" if quiet else row.kind
    colour = _COLOURS[kind]
    head, below = row.label
    y = 146 if low else 132
    return [
        f'<line x1="{x:.0f}" y1="44" x2="{x:.0f}" y2="{y - 10}" stroke="{colour}" stroke-width="1.5"/>',
        f'<circle cx="{x:.0f}" cy="{_AXIS}" r="{5 if row.kind == "event" else 3}" fill="{colour}"/>',
        f'<g text-anchor="middle" font-size="10" fill="{colour}">',
        f'<text x="{x:.0f}" y="26" font-size="11" font-weight="bold">{escape(head)}</text>',
        f'<text x="{x:.0f}" y="39">{escape(below)}</text>',
        f'<text x="{x:.0f}" y="{y}" fill="#333">{at_ms:.3f}</text></g>',
    ]
