"""What a figure was measured on: without it no two figures can be compared."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from harness.qemu.accelerator import choose_accelerator

ROOT = Path(__file__).parents[2]
QEMU = "qemu-system-x86_64"
_BUSY_SAMPLE = 0.25


@dataclass(frozen=True)
class Machine:
    """What does not change between two runs."""

    cpu: str
    cores: int
    qemu: str
    accelerator: str
    python: str
    commit: str

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores; QEMU {self.qemu} ({self.accelerator}); Python {self.python};"
            f" commit {self.commit}"
        )


def this_machine() -> Machine:
    """The machine this runs on, and the commit of this checkout (`+` where files of it were changed)."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    version = re.search(r"version (\S+)", _said(QEMU, "--version"))
    commit = _said("git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*").strip()
    return Machine(
        cpu=model[1] if model else platform.machine(),
        cores=os.cpu_count() or 1,
        qemu=version[1] if version else "not found",
        accelerator=choose_accelerator("auto"),
        python=platform.python_version(),
        commit=commit or "unknown",
    )


def _said(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@dataclass(frozen=True)
class Load:
    """How busy the machine is.

    average: of the last minute, as `uptime` says, so it remembers the run before. busy: share of all cores
    that others used during the last quarter of a second.
    """

    average: float
    busy: float

    def __str__(self) -> str:
        return f"{self.average:.2f} ({self.busy:.0%} busy)"


def load_now() -> Load:
    """Look at the machine for a quarter of a second."""
    before = _cpu_times()
    time.sleep(_BUSY_SAMPLE)
    after = _cpu_times()
    passed = [late - early for early, late in zip(before, after, strict=True)]
    idle = passed[3] + passed[4]  # waiting for the disk is idle too
    return Load(os.getloadavg()[0], 1 - idle / (sum(passed) or 1))


def _cpu_times() -> list[int]:
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    return [int(word) for word in first.split()[1:9]]
