"""Why a device model ended, told across the process boundary: a JSON file and a line on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from harness.errors import EXIT_CONFIGURATION, EXIT_INFRASTRUCTURE

FaultClass = Literal["infrastructure", "configuration"]
HYPERVISOR_LOST = "hypervisor-lost"
STDERR_MARK = "exit record: "


@dataclass(frozen=True)
class ExitRecord:
    """How a device model's life ended.

    fault: whose fault it was; None for an end that somebody asked for (destroy, guest power-off, SIGTERM,
    console closed). reason: a short name (`destroyed`, `terminated`, `console-closed`, `guest-shutdown`,
    `guest-reset`, `guest-panic`, `qemu-died`, `qemu-refused`, `trace-lost`, `trace-blocked`, `trace-log`,
    `vrtc`, `hypervisor-lost`, `not-started`). problem: a sentence for people. last_trace_ns: monotonic stamp of
    the last traced line.
    """

    fault: FaultClass | None
    reason: str
    problem: str
    exit_code: int | None = None
    stderr: Sequence[str] = field(default=())
    console: Sequence[str] = field(default=())
    command: Sequence[str] = field(default=())
    last_trace_ns: int | None = None
    ended_ns: int | None = None

    @property
    def status(self) -> int:
        """The process exit status that goes with the record."""
        return {None: 0, "infrastructure": EXIT_INFRASTRUCTURE, "configuration": EXIT_CONFIGURATION}[self.fault]

    def as_json(self) -> str:
        """The record as one line of JSON."""
        return json.dumps({"class": self.fault, **{k: v for k, v in asdict(self).items() if k != "fault"}})

    def write(self, path: Path | None) -> None:
        """Leave the record in the file, if one was asked for, and in any case on stderr (the disk may be full)."""
        text = self.as_json()
        print(f"{STDERR_MARK}{text}", file=sys.stderr, flush=True)
        if path is not None:
            try:
                path.write_text(text + "\n", encoding="utf-8")
            except OSError as error:
                print(f"exit record not written to {path}: {error}", file=sys.stderr, flush=True)


def parse_exit_record(text: str) -> ExitRecord | None:
    """The record in a file's text or on a line of stderr; None where there is none."""
    try:
        found = json.loads(text.removeprefix(STDERR_MARK))
        fault = found.pop("class")
        return ExitRecord(fault=fault, **found)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
