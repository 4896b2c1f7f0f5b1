"""The states of a bench and its guests: each reached by name from any other; after a failure from the root again."""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from harness.deadline import Deadline
from harness.errors import BenchError, ConfigurationError, InfrastructureError

log = logging.getLogger(__name__)

MOST_RESTARTS = 2
"""How often a run begins again at the root; a bench that fails once more is broken."""


class State(enum.IntEnum):
    """How far up a guest is; each state stands on the one before it."""

    OFF = 0
    HOST_UP = 1
    GUEST_BOOTED = 2
    GUEST_READY = 3
    QUIET = 4

    @property
    def label(self) -> str:
        """The state's name, as people write it."""
        return self.name.lower().replace("_", "-")


Step = Callable[[contextlib.ExitStack, Deadline], None]
"""Goes up to one state from the one below it. What takes it back is left with the stack; raises BenchError."""


class Strategy:
    """One guest's way up and down; for one thread.

    steps: how each state is reached from the one below it. failed: told once of what went wrong, while all that was
    reached is still held; returns the true cause.
    """

    def __init__(
        self, steps: Mapping[State, Step], failed: Callable[[BenchError], BenchError] = lambda problem: problem
    ) -> None:
        self._steps = steps
        self._failed = failed
        self._held: dict[State, contextlib.ExitStack] = {}
        self.state = State.OFF
        self.cause: BenchError | None = None
        """What went wrong, where something has: then nothing of what was reached is worth anything."""

    def reach(self, state: State, deadline: Deadline) -> None:
        """Go there, up or down. After a failure everything is taken back first, and the way begins at the root.

        Raises the true cause of what failed on the way, a BenchError.
        """
        if self.cause is not None:
            self._go_down(State.OFF)
            self.cause = None
        self._go_down(state)
        while self.state < state:
            upper = State(self.state + 1)
            log.info("from %s to %s", self.state.label, upper.label)
            stack = self._held[upper] = contextlib.ExitStack()
            try:
                self._steps[upper](stack, deadline)
            except BenchError as problem:
                cause = self.fail(problem)
                if cause is problem:
                    raise
                raise cause from problem
            self.state = upper

    def fail(self, problem: BenchError) -> BenchError:
        """Something that was reached is lost: the next way up begins at the root. Returns the first, true cause."""
        if self.cause is None:
            self.cause = self._failed(problem)
        return self.cause

    def close(self) -> None:
        """Go back to `off`. Raises BenchError naming what could not be taken back; all is tried even so."""
        self._go_down(State.OFF)

    def _go_down(self, state: State) -> None:
        with contextlib.ExitStack() as rest:  # the upper ones first, and each of them whatever the others raise
            for lower in State:
                if lower > state and lower in self._held:
                    rest.callback(self._held.pop(lower).close)
            self.state = min(self.state, state)


class Use(Protocol):
    """A host in use."""

    @property
    def failure(self) -> BenchError | None:
        """Why nothing can be done there any more; None while all is well."""


HostUse = TypeVar("HostUse", bound=Use)


class Root(Generic[HostUse]):
    """What all guests of a run stand on: taken into use once for all of them, and anew after a failure.

    take: takes the host into use. Its second argument says whether something has failed before, so that it begins
    from the very beginning: power off and on, where that can be done, else a new link.

    It begins anew when the first guest comes up after a failure and no other one is still up there; one that failed
    while others go on begins on the host as it is.
    """

    def __init__(
        self, take: Callable[[contextlib.ExitStack, bool, Deadline], HostUse], most_restarts: int = MOST_RESTARTS
    ) -> None:
        self._take = take
        self._most = most_restarts
        self._changed = threading.Condition()
        self._climbing = threading.Lock()
        self._held: contextlib.ExitStack | None = None
        self._use: HostUse | None = None
        self._users = 0
        self._soiled = False
        self._failures = 0
        self._told: object = None
        self._causes: list[BenchError] = []
        self._given_up: BenchError | None = None
        self.first_cause: BenchError | None = None
        """What failed first in this run."""

    @property
    def is_broken(self) -> bool:
        """Whether it has failed too often to be begun with again, or cannot be had at all."""
        return self._given_up is not None or self._failures > self._most

    def give_up(self, error: BenchError) -> None:
        """It cannot be had at all, for this reason, and nothing is tried."""
        self._given_up = error

    def hold(self, stack: contextlib.ExitStack, deadline: Deadline) -> HostUse:
        """The host in use, until `stack` ends.

        Raises BrokenBench where it has failed too often, and BenchError for what went wrong on the way up, or why it
        cannot be had at all.
        """
        with self._climbing:
            if self.is_broken:
                raise self.broken()
            with self._changed:
                if self._use is not None and self._use.failure is not None:
                    self._soiled = True
                    while self._users and not deadline.expired:  # they are about to find out
                        self._changed.wait(deadline.remaining)
                    if self._users:
                        raise self._use.failure
                anew = self._soiled and self._users == 0
            if anew:
                self._let_go()
            if self._use is None:
                with contextlib.ExitStack() as undo:
                    self._use = self._take(undo, anew, deadline)
                    self._held = undo.pop_all()
                self._soiled = False
            with self._changed:
                self._users += 1
            stack.callback(self._leave)
            return self._use

    def fail(self, error: BenchError, use: HostUse | None) -> None:
        """A guest was lost, or never came up. What one host's end does to many guests counts once.

        use: the host that it was on; None where there was none yet.
        """
        if isinstance(error, (ConfigurationError, BrokenBench)):
            return  # what is wrong with a file does not get right by another try
        with self._changed:
            if any(error is known for known in self._causes):
                return
            self._causes.append(error)
            self.first_cause = self.first_cause or error
            if use is not None:
                if use is not self._use or (use.failure is not None and self._told is use):
                    return
                if use.failure is not None:
                    self._told = use
            self._failures += 1
            self._soiled = True

    def close(self) -> None:
        """Give the host back. Raises InfrastructureError naming what was left."""
        with self._climbing:
            self._let_go()

    def broken(self) -> BenchError:
        """What whoever still wants something of a broken bench is told."""
        if self._given_up is not None:
            return self._given_up
        assert self.first_cause is not None
        return BrokenBench(self.first_cause, self._most)

    def _leave(self) -> None:
        with self._changed:
            self._users -= 1
            self._changed.notify_all()

    def _let_go(self) -> None:
        held, self._held, self._use = self._held, None, None
        if held is not None:
            held.close()


class BrokenBench(InfrastructureError):
    """The bench has failed too often; its first failure is the one to look into."""

    def __init__(self, cause: BenchError, restarts: int) -> None:
        super().__init__(
            f"the bench is broken: {cause.problem} (begun again {restarts} times since)",
            awaited=cause.awaited,
            waited=cause.waited,
            last_lines=cause.last_lines,
            log=cause.log,
            hint=cause.hint,
        )
