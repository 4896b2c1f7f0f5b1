"""What is measured: each figure's runs, and the targets that the project has set itself."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.machine import ROOT
from tests.benchmarks.scenario_run import ScenarioRun, random_orders

MANY_UPDATES = 200
MANY_GUESTS = 8
STEADY_UPDATES = 24
FIRST_UPDATES = 8


@dataclass(frozen=True)
class Quantity:
    """One line of the table. values: one of each run. target: what the worst run must not exceed."""

    name: str
    unit: str
    values: Sequence[float]
    target: float | None = None

    @property
    def median(self) -> float:
        """Of the runs."""
        return statistics.median(self.values)

    @property
    def worst(self) -> float:
        """Of the runs; nan, a value that was not to be had, is worse than any other."""
        return max(self.values, key=lambda value: math.inf if math.isnan(value) else value)

    @property
    def word(self) -> str:
        """How it stands against the target."""
        if self.target is None:
            return ""
        if self.worst <= self.target:
            return "ok"
        return "ok, worst MISSED" if self.median <= self.target else "MISSED"


@dataclass
class Runs:
    """Runs of one kind, made one at a time so that others can look at the machine in between."""

    folder: Path
    options: Sequence[str]
    guests: int | None
    look_s: float = 0.2
    made: list[ScenarioRun] = field(default_factory=list)

    def __call__(self) -> None:
        """One more run."""
        folder = self.folder / str(len(self.made) + 1)
        try:
            run = ScenarioRun(folder, self.options, self.guests, look_s=self.look_s)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.made.append(run)
        if run.exit_status:
            print(f"a run ended with {run.exit_status}, {run.inconclusive} updates inconclusive", flush=True)


class Figure:
    """A kind of run and the quantities that come of it; `run` makes one run, `quantities` tells of all."""

    about: str = ""

    def run(self) -> None:
        """Make one run."""
        raise NotImplementedError

    def quantities(self) -> Iterator[Quantity]:
        """What the runs tell."""
        raise NotImplementedError


class FirstVerdict(Figure):
    """How long a user waits."""

    def __init__(self, folder: Path, system: str, guests: int | None, target: float) -> None:
        count = "the default bench's" if guests is None else str(guests)
        self.about = f"{FIRST_UPDATES} updates without pauses on {count} {system} guest{'s'[: guests != 1]}"
        self._target = target
        self._runs = Runs(folder / f"first-{system}", random_orders(FIRST_UPDATES, "dm", system), guests)
        self.run = self._runs  # type: ignore[method-assign]

    def quantities(self) -> Iterator[Quantity]:
        """From exec to the verdict, and to its line."""
        yield from first_verdict(self._runs.made, self._target)
        yield Quantity("pytest start to its end", "s", [run.end for run in self._runs.made])


class Steady(Figure):
    """What one guest achieves."""

    def __init__(self, folder: Path, vrtc: str = "dm") -> None:
        self.about = f"{STEADY_UPDATES} updates without pauses on 1 Linux guest with vrtc {vrtc}"
        self._runs = Runs(folder / f"steady-{vrtc}", random_orders(STEADY_UPDATES, vrtc, "linux"), 1)
        self.run = self._runs  # type: ignore[method-assign]

    def quantities(self) -> Iterator[Quantity]:
        """Speed, latency and cost."""
        made = self._runs.made
        yield from first_verdict(made, 4.5)
        yield Quantity("a judged update", "s", [run.seconds_per_update for run in made], 1.25)
        yield Quantity("start to next start, median", "s", [statistics.median(run.starts_apart) for run in made])
        yield Quantity("start to next start, longest", "s", [max(run.starts_apart) for run in made])
        yield from latency(made)
        yield from _processor_time(made)


class Many(Figure):
    """What many guests achieve."""

    about = f"{MANY_UPDATES} updates without pauses on {MANY_GUESTS} Linux guests"

    def __init__(self, folder: Path) -> None:
        self._runs = Runs(folder / "many", random_orders(MANY_UPDATES, "dm", "linux"), MANY_GUESTS)
        self.run = self._runs  # type: ignore[method-assign]

    def quantities(self) -> Iterator[Quantity]:
        """Wall time with the boot, latency and cost."""
        made = self._runs.made
        yield from first_verdict(made, 4.5)
        yield Quantity("pytest start to last verdict", "s", [run.last_verdict for run in made], 60)
        yield Quantity("pytest start to its end", "s", [run.end for run in made])
        yield from latency(made)
        yield from _processor_time(made)


class Command(Figure):
    """Wall time of a command of the project's; Raises RuntimeError where it fails."""

    def __init__(self, name: str, target: float, *command: str) -> None:
        self.about = " ".join(command)
        self._name, self._target, self._command = name, target, command
        self._took: list[float] = []
        self._used: list[float] = []

    def run(self) -> None:
        """Run it to its end."""
        before, began = os.times(), time.monotonic()
        done = subprocess.run(
            self._command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self._took.append(time.monotonic() - began)
        after = os.times()
        self._used.append(after.children_user + after.children_system - before.children_user - before.children_system)
        if done.returncode:
            print(f"{self.about} ended with {done.returncode}:\n{done.stdout[-2000:]}")

    def quantities(self) -> Iterator[Quantity]:
        """From its exec to its end."""
        yield Quantity(self._name, "s", self._took, self._target)
        yield Quantity("processor time", "s", self._used)


def first_verdict(made: Sequence[ScenarioRun], target: float) -> Iterator[Quantity]:
    """How long the first one took, and what of that took how long."""
    yield Quantity("updates the harness's own stalls made inconclusive", "", [run.inconclusive for run in made])
    yield Quantity("pytest start to first verdict", "s", [run.first_verdict for run in made], target)
    yield Quantity("pytest start to first verdict line", "s", [run.first_line for run in made], target)
    for stage in made[0].stages:
        yield Quantity(f"- {stage}", "s", [run.stages[stage] for run in made])


def latency(made: Sequence[ScenarioRun]) -> Iterator[Quantity]:
    """How late the service was."""
    late = [sorted(run.latencies_ms) for run in made]
    yield Quantity("service latency after due, p50", "ms", [_quantile(each, 0.5) for each in late], 0.4)
    yield Quantity("service latency after due, p99", "ms", [_quantile(each, 0.99) for each in late], 5.0)
    yield Quantity("service latency after due, longest", "ms", [each[-1] for each in late])
    pooled = sorted(itertools.chain(*late))
    yield Quantity(f"service latency, p99 of all {len(pooled)}", "ms", [_quantile(pooled, 0.99)], 5.0)


def _processor_time(made: Sequence[ScenarioRun]) -> Iterator[Quantity]:
    at_work = [run.processor_time_at_work() for run in made]
    for name in ("harness", "device_models", "qemu"):
        values = [getattr(each, name) * 1000 for each in at_work]
        yield Quantity(f"processor time an update, {name.replace('_', ' ')}", "ms", values)
    before = [run.processor_time_before() for run in made]
    for name in ("harness", "device_models", "qemu"):
        yield Quantity(
            f"processor time to first verdict, {name.replace('_', ' ')}", "s", [getattr(each, name) for each in before]
        )
    yield Quantity("processor time of the whole run", "s", [run.processor_time for run in made])


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
