"""A guest of its own, apart from the plans: taken to a state by its name, for whoever wants to talk with it there."""

from __future__ import annotations

from pathlib import Path

from harness.deadline import Deadline
from harness.engine.launch import GuestParts
from harness.engine.rundir import RunDirectory
from harness.engine.strategy import State, Strategy
from harness.guests.base import Guest

__all__ = ["Climb"]


class Climb:
    """One guest that goes up and down the states of a bench; for one thread. `close` takes it back to `off`."""

    def __init__(self, parts: GuestParts, rundir: RunDirectory) -> None:
        self._parts = parts
        self._rundir = rundir
        self._strategy = Strategy(parts.launch.steps(lambda: None), parts.launch.failed)

    @property
    def state(self) -> State:
        """Where it is."""
        return self._strategy.state

    @property
    def folder(self) -> Path:
        """Where its logs are."""
        return self._parts.folder

    @property
    def guest(self) -> Guest:
        """The guest, from `guest-booted` on."""
        return self._parts.launch.guest

    def reach(self, state: State) -> None:
        """Go there, up or down; after a failure from the root. Raises the true cause where that fails, a BenchError."""
        self._rundir.add_guest(self._parts.name, self._parts.details)
        self._strategy.reach(state, Deadline(self._parts.boot_timeout))

    def close(self) -> None:
        """Give all back. Raises InfrastructureError naming what is left."""
        self._parts.launch.hush()
        self._strategy.close()
