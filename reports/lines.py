"""The live line per update: what was done, what came of it, in columns that line up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TextIO

from reports.verdicts import (
    ACRN_DM_DEFECT,
    DEFECT,
    DEFECTS,
    FAULT,
    INCONCLUSIVE,
    PASS,
    Verdict,
    order_text,
    parse_verdict,
)

_LABELS = {
    PASS: "pass",
    FAULT: "product fault",
    DEFECT: "known defect",
    ACRN_DM_DEFECT: "known defect",
    INCONCLUSIVE: "inconclusive",
}
_COLOURS = {PASS: "32", FAULT: "1;31", DEFECT: "33", ACRN_DM_DEFECT: "33", INCONCLUSIVE: "35"}
_LABEL_WIDTH = 13


def verdict_line(
    verdict: Mapping[str, Any] | Verdict, *, vrtc: str | None = None, colour: bool = False
) -> str:
    """One line, without its end. `colour` paints the verdict (see `colour_wanted`).

    vrtc: the guest's; it is told where it is the hypervisor's and no name says so.
    """
    v = parse_verdict(verdict)
    untold = vrtc == "hv" and "hv" not in [*v.vm.split("-"), *v.item.split("-")]
    label = _LABELS.get(v.verdict, v.verdict).ljust(_LABEL_WIDTH)
    if colour and v.verdict in _COLOURS:
        label = f"\x1b[{_COLOURS[v.verdict]}m{label}\x1b[0m"
    columns = (
        label,
        f"{v.vm + ' hv' if untold else v.vm:<7}",
        f"{v.item:<26}",
        f"{v.mode:<7}",
        f"order {order_text(v.order):<20}",
        _delta(v),
        f"{_events(len(v.seen)):<8}",
        _outcome(v),
    )
    return "  ".join(columns).rstrip()


def colour_wanted(stream: TextIO, environment: Mapping[str, str] | None = None) -> bool:
    """Colour only for a person: on a terminal, unless NO_COLOR (no-color.org) or TERM=dumb says no."""
    environment = os.environ if environment is None else environment
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def _delta(v: Verdict) -> str:
    """The change asked for; `?` where an estimate was not to be had."""
    if not v.expected:
        return f"{'no event expected':<19}"
    deltas = [e.delta_time for e in v.expected]
    text = "?" if None in deltas else f"{sum(d for d in deltas if d is not None):+d}"
    return f"delta {text:>11} s"


def _events(count: int) -> str:
    return f"{count} event" if count == 1 else f"{count} events"


def _outcome(v: Verdict) -> str:
    if v.verdict in DEFECTS and v.defect:
        return f"{v.defect}: {v.diagnosis}" if v.diagnosis else v.defect
    if v.verdict != PASS or v.diagnosis:
        return v.diagnosis or ", ".join(v.faults) or "no diagnosis"
    if v.latency_ms is not None:
        return f"{v.latency_text} after the window" + ("  in the background" if v.role == "background" else "")
    return "silent, as it should be" if not v.seen else ""
