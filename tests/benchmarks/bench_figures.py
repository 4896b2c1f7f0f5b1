"""What a run on a bench takes, measured where there is none: on the rehearsals (docs/rehearsals.md)."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figures import Figure, Quantity, Runs, first_verdict
from tests.benchmarks.machine import ROOT

UPDATES_PER_MODE = 10
WINDOW_S = 1.0
OVERHEAD_S = 0.3
"""What a judged update may take beyond the window."""


class Rehearsal(Figure):
    """A run of the bare guest of one of the project's rehearsal benches, from nothing to its end."""

    def __init__(self, folder: Path, name: str, target: float) -> None:
        self.about = f"random orders without pauses on the bare guest of {name}.yaml, host switched on and off"
        self._target = target
        options = (
            *("scenarios/test_random_orders.py", "-m", "hw", "--bench", str(ROOT / f"fixtures/benches/{name}.yaml")),
            *("-k", "not pauses and dm and bare", "--rtc-updates", str(UPDATES_PER_MODE)),
        )
        self._runs = Runs(folder / name, options, 1)
        self.run = self._runs  # type: ignore[method-assign]

    def quantities(self) -> Iterator[Quantity]:
        """From exec to the first verdict, and what an update takes."""
        made = self._runs.made
        yield from first_verdict(made, self._target)
        beyond = [run.seconds_per_update - WINDOW_S for run in made]
        yield Quantity("a judged update, beyond the window", "s", beyond, OVERHEAD_S)
        yield Quantity("start to next start, median", "s", [statistics.median(run.starts_apart) for run in made])
        yield Quantity("pytest start to its end", "s", [run.end for run in made])
