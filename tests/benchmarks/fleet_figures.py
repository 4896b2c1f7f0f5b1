"""What a fleet achieves: 64 bare guests, every order there is, Linux guests that go on from one saved state."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figures import Figure, Quantity, Runs, latency
from tests.benchmarks.scenario_run import ScenarioRun, all_orders, random_orders

FLEET = 64
FLEET_UPDATES = 640
RESTORED = 16
RESTORED_UPDATES = 160

_UPDATE_S = 1.08
"""A judged update on one guest: the settle window, and what lies between two of them."""

_LOOK_S = 1.0
"""At 130 processes one look takes a tenth of a second, which is then nobody else's."""

_GIB = 1 << 30


class Fleet(Figure):
    """Some updates for each of 64 guests."""

    about = f"{FLEET_UPDATES} updates without pauses on {FLEET} bare guests"

    def __init__(self, folder: Path) -> None:
        options = random_orders(FLEET_UPDATES, "dm", "bare")
        self._runs = Runs(folder / "fleet", options, FLEET, _LOOK_S)
        self.run = self._runs  # type: ignore[method-assign]

    def quantities(self) -> Iterator[Quantity]:
        """Time, with what is more than the windows, and cost."""
        made = self._runs.made
        yield Quantity("pytest start to first verdict", "s", [run.first_verdict for run in made])
        yield Quantity(f"pytest start to {FLEET} guests ready", "s", [run.all_ready for run in made])
        yield Quantity("pytest start to last verdict", "s", [run.last_verdict for run in made])
        windows = [run.updates / FLEET * _UPDATE_S for run in made]
        after = [run.last_verdict - run.all_ready - each for run, each in zip(made, windows, strict=True)]
        yield Quantity("all guests ready to last verdict, beyond the windows", "s", after)
        yield from _cost(made)


class AllOrders(Figure):
    """Each of the 5,040 orders, in each mode that the vRTC knows."""

    def __init__(self, folder: Path, vrtc: str, target: float) -> None:
        self.about = f"all orders on {FLEET} bare guests with vrtc {vrtc}"
        self._target = target
        self._runs = Runs(folder / f"orders-{vrtc}", all_orders(vrtc), FLEET, _LOOK_S)
        self.run = self._runs  # type: ignore[method-assign]

    def quantities(self) -> Iterator[Quantity]:
        """Time and cost."""
        made = self._runs.made
        yield Quantity("updates judged", "", [run.updates for run in made])
        yield Quantity("pytest start to last verdict", "s", [run.last_verdict for run in made], self._target)
        yield Quantity("pytest start to its end", "s", [run.end for run in made], self._target)
        yield Quantity("start to next start, median", "s", [statistics.median(run.starts_apart) for run in made])
        yield from _cost(made, 6.0)


class Restored(Figure):
    """How soon Linux guests are there that need not boot."""

    about = f"{RESTORED_UPDATES} updates without pauses on {RESTORED} Linux guests restored from one state"

    def __init__(self, folder: Path) -> None:
        options = random_orders(RESTORED_UPDATES, "dm", "linux")
        self._runs = Runs(folder / "restored", options, RESTORED, _LOOK_S)
        self.run = self._runs  # type: ignore[method-assign]

    def quantities(self) -> Iterator[Quantity]:
        """From the engine's start, where the state that is there already is proved first, and from pytest's."""
        made = self._runs.made
        ready = [run.all_ready - run.stages["pytest, to the engine"] for run in made]
        yield Quantity(f"engine's start to {RESTORED} guests ready", "s", ready, 4.0)
        yield Quantity(f"pytest start to {RESTORED} guests ready", "s", [run.all_ready for run in made])
        yield Quantity("pytest start to last verdict", "s", [run.last_verdict for run in made])
        yield from _cost(made)


def _cost(made: list[ScenarioRun], target_ms: float | None = None) -> Iterator[Quantity]:
    """target_ms: of a large run, in which no update has a line and evidence of its own in a report."""
    yield Quantity("updates the harness's own stalls made inconclusive", "", [run.inconclusive for run in made])
    yield from latency(made)
    at_work = [run.processor_time_at_work() for run in made]
    ours = [(each.harness + each.device_models) * 1000 for each in at_work]
    yield Quantity("processor time an update, everything but QEMU", "ms", ours, target_ms)
    yield Quantity("- pytest, listener, hypervisor", "ms", [each.harness * 1000 for each in at_work])
    yield Quantity("- device models", "ms", [each.device_models * 1000 for each in at_work])
    yield Quantity("processor time an update, QEMU", "ms", [each.qemu * 1000 for each in at_work])
    weights = [run.footprint for run in made]
    yield Quantity("memory of all processes, most (PSS)", "GiB", [each.memory / _GIB for each in weights], 3.0)
    yield Quantity("processes then", "", [each.processes for each in weights])
    yield Quantity("threads of pytest then", "", [each.threads for each in weights])
    yield Quantity("descriptors of pytest then", "", [each.descriptors for each in weights])
