"""Waits until a guest's event stream is silent, and counts what came before: what nobody here asked for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from harness.bench import QuietSpec
from harness.deadline import Deadline
from harness.errors import InfrastructureError

_TOLD = 5


class Quiet:
    """Silence on one guest's event stream, as its journal has it.

    events: how many came before it was quiet; seconds: how long it took.
    """

    def __init__(self, name: str, journal: Path, spec: QuietSpec) -> None:
        self._name = name
        self._journal = journal
        self._spec = spec
        self._read = 0
        self._lines: list[str] = []
        self._last_ns = 0
        self.events = 0
        self.seconds = 0.0

    def wait(
        self, since_ns: int, stirred: threading.Event, check: Callable[[], object], deadline: Deadline
    ) -> None:
        """Until nothing was heard for as long as the bench says, at least since `since_ns`.

        stirred: set when something was heard. check: raises where something has died.
        Raises InfrastructureError where it is not quiet in time.
        """
        until = deadline.within(self._spec.timeout)
        wanted_ns = round(self._spec.seconds * 1e9)
        while True:
            stirred.clear()
            check()
            self._look()
            missing_ns = max(since_ns, self._last_ns) + wanted_ns - time.monotonic_ns()
            if missing_ns <= 0:
                break
            if until.expired:
                raise InfrastructureError(
                    f"{self._name} is not quiet: {self.events} events came that nobody here asked for",
                    awaited=f"{self._spec.seconds:g} s without an event",
                    waited=until.elapsed,
                    last_lines=self._lines[-_TOLD:],
                    log=self._journal,
                    hint="something in the guest sets its RTC again and again: a time daemon, a script? Stop it",
                )
            stirred.wait(min(missing_ns / 1e9, until.remaining))
        self.seconds = until.elapsed

    def _look(self) -> None:
        """Read what is new in the journal."""
        with self._journal.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for line in whole.splitlines():
            record = json.loads(line)
            if record.get("kind") in {"object", "garbage"}:
                self.events += 1
                self._last_ns = max(self._last_ns, int(record["t_ns"]))
                self._lines.append(line.decode("utf-8", "replace"))
