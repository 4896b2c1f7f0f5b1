"""Measures the whole chain: first verdict, speed, latency, processor time; each figure beside its target.

`python -m tests.benchmarks.chain [--runs N] [FIGURE ...]` on a machine with a warm cache (one `./lab qemu` before).
Median and worst of the runs, and the machine's load before each of them. It measures and judges nothing: its exit
status is 0 whatever the figures are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_figures import Rehearsal
from tests.benchmarks.figures import Command, Figure, FirstVerdict, Many, Quantity, Steady
from tests.benchmarks.fleet_figures import AllOrders, Fleet, Restored
from tests.benchmarks.machine import Load, load_now, this_machine

FIGURES: dict[str, Callable[[Path], Figure]] = {
    "first": lambda folder: FirstVerdict(folder, "bare", 1, 2.0),
    "first-linux": lambda folder: FirstVerdict(folder, "linux", None, 4.5),
    "steady": Steady,
    "steady-hv": lambda folder: Steady(folder, "hv"),
    "many": Many,
    "restored": Restored,
    "fleet": Fleet,
    "orders-dm": lambda folder: AllOrders(folder, "dm", 240),
    "orders-hv": lambda folder: AllOrders(folder, "hv", 150),
    "loopback": lambda folder: Rehearsal(folder, "rehearsal-loopback", 5.0),
    "machine": lambda folder: Rehearsal(folder, "rehearsal-machine", 120.0),
    "tests": lambda folder: Command("./lab tests", 300, "./lab", "tests", "-q"),
    "ci": lambda folder: Command(".ci/run", 900, ".ci/run"),
}
LONG = ("orders-dm", "orders-hv", "tests", "ci")
"""Minutes each: run once unless told otherwise, and `ci` only when named."""


def main() -> None:
    """Make the runs, print a table a figure, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.chain", description=__doc__)
    parser.add_argument("figures", metavar="FIGURE", nargs="*", help=f"of {', '.join(FIGURES)}; default: all but ci")
    parser.add_argument("--runs", type=int, default=5, help="runs a figure (%(default)s)")
    parser.add_argument("--long-runs", type=int, default=1, help=f"runs of {' and '.join(LONG)} (%(default)s)")
    parser.add_argument("--ci", action="store_true", help="measure ci too")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything there, values of all runs too")
    options = parser.parse_args()
    names = options.figures or [name for name in FIGURES if name != "ci"]
    if options.ci and "ci" not in names:
        names.append("ci")
    if unknown := [name for name in names if name not in FIGURES]:
        parser.error(f"no figure is called {', '.join(unknown)}: {', '.join(FIGURES)}")

    machine = this_machine()
    print(machine, flush=True)
    document: dict[str, Any] = {"machine": asdict(machine), "figures": {}}
    with tempfile.TemporaryDirectory(prefix="rtc-benchmark-") as folder:
        for name in names:
            figure = FIGURES[name](Path(folder))
            runs = options.long_runs if name in LONG else options.runs
            loads = _measure(figure, runs)
            quantities = list(figure.quantities()) if loads else []
            _print(name, figure, loads, quantities)
            document["figures"][name] = _as_json(figure, loads, quantities)
            if options.json is not None:  # after each figure: what was measured is not lost by an interruption
                options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _measure(figure: Figure, runs: int) -> list[Load]:
    loads = []
    for _ in range(runs):
        load = load_now()
        try:
            figure.run()
        except RuntimeError as error:
            print(f"a run gave no figures: {error}", flush=True)
        else:
            loads.append(load)
    return loads


def _print(name: str, figure: Figure, loads: Sequence[Load], quantities: Sequence[Quantity]) -> None:
    print(f"\n{name}: {figure.about}; {len(loads)} run{'s'[: len(loads) != 1]}")
    print(f"  load before each run: {', '.join(map(str, loads))}")
    print(f"  {'':52}{'median':>9}{'worst':>9}{'target':>9}")
    for each in quantities:
        target = "" if each.target is None else f"{each.target:g}"
        label = f"{each.name}, {each.unit}".rstrip(", ")
        print(f"  {label:52}{each.median:9.3f}{each.worst:9.3f}{target:>9}  {each.word}".rstrip())
    print(end="", flush=True)


def _as_json(figure: Figure, loads: Sequence[Load], quantities: Sequence[Quantity]) -> dict[str, Any]:
    return {
        "about": figure.about,
        "loads": [asdict(load) for load in loads],
        "quantities": [
            {**asdict(each), "median": each.median, "worst": each.worst, "against_target": each.word}
            for each in quantities
        ],
    }


if __name__ == "__main__":
    main()
