"""A guest of its own, apart from the plans: taken to a state by its name, for whoever wants to talk with it there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.deadline import Deadline
from harness.engine.launch import GuestParts
from harness.engine.rundir import RunDirectory
from harness.engine.strategy import State, Strategy
from harness.guests.base import Guest

__all__ = ["Climb"]


class Climb:
    """One guest at a time that goes up and down the states of a bench; for one thread. `close` takes it to `off`.

    make: the parts of a new guest, with a name and a folder of its own; whoever went down has another one on the way
    up.
    """

    def __init__(self, make: Callable[[], GuestParts], rundir: RunDirectory) -> None:
        self._make = make
        self._rundir = rundir
        self._new()

    def _new(self) -> None:
        self._parts = self._make()
        self._strategy = Strategy(self._parts.launch.steps(lambda: None), self._parts.launch.failed)
        self._booted = False

    @property
    def state(self) -> State:
        """Where it is."""
        return self._strategy.state

    @property
    def folder(self) -> Path:
        """Where the guest's logs are."""
        return self._parts.folder

    @property
    def guest(self) -> Guest:
        """The guest, from `guest-booted` on."""
        return self._parts.launch.guest

    def reach(self, state: State) -> None:
        """Go there, up or down; after a failure from the root. Raises the true cause where that fails, a BenchError."""
        if self._booted and (state < State.GUEST_BOOTED or self._strategy.cause is not None):
            self.close()
            self._new()
        if state >= State.GUEST_BOOTED:
            self._rundir.add_guest(self._parts.name, self._parts.details)
            self._booted = True
        self._strategy.reach(state, Deadline(self._parts.boot_timeout))

    def close(self) -> None:
        """Give all back. Raises InfrastructureError naming what is left."""
        if self._booted:
            self._parts.launch.hush()
        self._strategy.close()
