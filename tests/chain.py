"""Runs the scenarios as a user does, in a process of their own, and looks for what is left of it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from tests.command_lines import naming

ROOT = Path(__file__).parents[1]
PATIENCE = 120.0


class Run:
    """One pytest process over the scenarios, its run directory and what it printed."""

    def __init__(self, folder: Path, *options: str, bench: str | None = None) -> None:
        self.directory = folder / "run"
        self._said = folder / "said.txt"
        command = [sys.executable, "-m", "pytest", "scenarios", "-p", "no:cacheprovider", "--no-html"]
        if "-m" not in options:
            command += ["-m", "qemu"]
        if bench is not None:
            (folder / "bench.yaml").write_text(bench, encoding="utf-8")
            command += ["--bench", str(folder / "bench.yaml")]
        if "--attach" not in options:  # where nothing is planned, nothing comes from a seed
            command += ["--rtc-seed", "3"]
        command += ["--run-dir", str(self.directory), *options]
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self._said.read_text(encoding="utf-8", errors="replace")

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(PATIENCE)

    def until(self, condition: Callable[[], object], awaited: str) -> None:
        """Look at what can only be looked at, until it is so or the run is over."""
        deadline = Deadline(PATIENCE)
        while not condition():
            assert not deadline.expired and self.process.poll() is None, f"still no {awaited}:\n{self.said}"
            select.select([], [], [], 0.01)

    def guests(self) -> list[Path]:
        return sorted(path.parent for path in self.directory.glob("*/trace.log"))

    def records(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines of this name of all guests."""
        found: list[dict[str, Any]] = []
        for guest in self.guests():
            path = guest / name
            if path.exists():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                found += [json.loads(line) for line in lines if line.endswith("\n")]
        return found

    def information(self) -> dict[str, Any]:
        found = json.loads((self.directory / "run.json").read_text(encoding="utf-8"))
        assert isinstance(found, dict)
        return found

    def processes(self) -> dict[int, str]:
        """Processes that have this run's directory on their command line, the test's own aside."""
        return naming(self.directory)

    def descendants(self) -> list[int]:
        """Every process below the run's own."""
        found, unseen = [], [self.process.pid]
        while unseen:
            parent = unseen.pop()
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                try:
                    unseen += [int(child) for child in children.read_text(encoding="ascii").split()]
                except OSError:
                    continue
            found.append(parent)
        return found[1:]

    def qemus(self) -> list[int]:
        """QEMU processes whose device model belongs to this run."""
        models = self.processes()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                except OSError:
                    continue
                if "(qemu-system" in stat and int(stat.rpartition(")")[2].split()[1]) in models:
                    found.append(int(entry.name))
        return found

    def assert_nothing_left(self) -> None:
        """No process, no socket, no half-written file; those that are just dying are waited for."""
        deadline = Deadline(20)
        while self.processes() and not deadline.expired:
            select.select([], [], [], 0.02)
        assert not self.processes()
        left = [path for path in self.directory.rglob("*") if path.is_socket() or path.name.endswith(".new")]
        assert not left


@contextmanager
def running(folder: Path, *options: str, bench: str | None = None) -> Iterator[Run]:
    """A run that is killed if the test does not see it to its end."""
    run = Run(folder, *options, bench=bench)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()


def bench_text(**guest: object) -> str:
    """A bench file with one guest that has these keys."""
    lines = ["version: 1", "name: test", "host: {kind: local}", "guests:", "- name: pc"]
    return "\n".join([*lines, *(f"  {key}: {json.dumps(value)}" for key, value in guest.items())]) + "\n"
