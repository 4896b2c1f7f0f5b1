"""Has a guest read its RTC back now and then: a second opinion on the settled event before (harness/opinion)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.engine.rundir import append_line
from harness.guests.steps import AgentReport, Read, Step
from harness.opinion.read_back import STEPS

EVERY = 8
"""One item in so many begins with a read-back."""


class ReadBacks:
    """The read-backs of one guest. They come at the beginning of the next item, in the same command: no item waits.

    on_hv: whether reading disturbs. The hypervisor's vRTC brings its registers up to date when one is read, which
    partial updates and no-ops show: there only the setting right at the end, which writes all registers, begins so.
    """

    def __init__(self, folder: Path, *, on_hv: bool) -> None:
        self._path = folder / "read-back.jsonl"
        self._on_hv = on_hv
        self._items = 0

    def before(self, role: str) -> list[Step]:
        """The reads that an item is to begin with; mostly none."""
        self._items += 1
        wanted = role == "restore" or (not self._on_hv and self._items % EVERY == 0)
        return [Read(register) for register in STEPS] if wanted else []

    def take(self, report: AgentReport, asked: Sequence[Step]) -> AgentReport:
        """Put what was read on disk; returns the report of the item alone.

        Raises InfrastructureError where the disk does not take it.
        """
        if not asked or not report.ok:
            return report
        own, rest = report.reads[: len(asked)], report.reads[len(asked) :]
        record = {
            "item": report.item,
            "start_ns": report.start_ns,
            "end_ns": report.end_ns,
            "reads": [list(read) for read in own],
        }
        append_line(self._path, record)
        return replace(report, reads=rest)
