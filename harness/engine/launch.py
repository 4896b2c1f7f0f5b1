"""How a lane's guest comes up and goes: what is the same wherever it runs, and the way of a guest on this machine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.deadline import Deadline
from harness.engine.cause import end_is_told, true_cause
from harness.engine.hypervisor import Hypervisor
from harness.engine.strategy import State, Step
from harness.errors import BenchError, InfrastructureError
from harness.guests.base import Guest
from harness.guests.steps import AgentReport
from harness.guests.system import SystemGuest
from harness.hosts.base import Host, HostProcess
from harness.listener import EventListener, ListenerProcess

CLOSE_TIMEOUT = 10.0


class Launch(Protocol):
    """One guest from nothing to its agent's greeting, and back. From the lane's thread; `close` from any."""

    @property
    def guest(self) -> Guest:
        """The guest that is up."""

    def steps(self, changed: Callable[[], None]) -> Mapping[State, Step]:
        """How each state is reached: the last one is where plans begin.

        changed: called from any thread when there is something to look at.
        """

    def tend(self, deadline: Deadline, *, whole: bool) -> None:
        """Between two items: whatever has to be seen to now and then. Raises as a command to the guest.

        whole: whether the RTC was last set as a whole, so that it is known what it shows.
        """

    def reported(self, report: AgentReport) -> None:
        """What the agent says that it did, before the judge looks. Raises InfrastructureError for a full disk."""

    def check(self) -> None:
        """Raises InfrastructureError when something that the guest needs, or itself, has died."""

    def failed(self, problem: BenchError) -> BenchError:
        """A state was not reached, or is lost: why really. May wait a moment for it to be known."""

    def hush(self) -> None:
        """Listen no more; all that was heard is on disk then."""

    def end_is_told(self) -> bool:
        """Whether what is to be judged is on disk: else the end of a device model would be the service's fault."""

    def give_back(self, deadline: Deadline) -> None:
        """All is judged: the guest gets back what was taken from it, and is ended in order."""

    def close(self) -> None:
        """Cut short what is under way: a wait for the guest ends at once."""


@dataclass(frozen=True)
class GuestParts:
    """What the lane needs to run its guest: built by the engine from the bench."""

    name: str
    folder: Path
    launch: Launch
    boot_timeout: float
    window_ns: int
    estimate_tolerance: int
    details: Mapping[str, Any] = field(default_factory=dict)
    """What run.json says of the guest."""

    hypervisor: Hypervisor | None = None
    """The process of this run that the guest's vRTC is in, if it is not the device model."""

    witness: str = "trace.log"
    """The file in `folder` that has what the guest really did."""

    read_backs: bool = True
    """Whether what the guest reads of its RTC is a second opinion on the service's events."""


@dataclass(frozen=True)
class LocalCommand:
    """The device model of one guest on this machine, and where things of it are."""

    name: str
    command: Sequence[str]
    service_socket: Path
    event_socket: Path
    folder: Path
    make_guest: Callable[[HostProcess, Path], Guest]
    hypervisor: Hypervisor | None = None


class LocalLaunch:
    """A guest in QEMU on this machine, below our device model."""

    def __init__(self, host: Host, listening: ListenerProcess, about: LocalCommand) -> None:
        self._host = host
        self._listening = listening
        self._about = about
        self._closed = threading.Event()
        self._process: HostProcess | None = None
        self._listener: EventListener | None = None
        self._guest: Guest | None = None

    @property
    def guest(self) -> Guest:
        """The guest that is up."""
        assert self._guest is not None
        return self._guest

    def steps(self, changed: Callable[[], None]) -> Mapping[State, Step]:
        """This machine is up, and in a guest whose every access is traced nothing has to be quiet."""
        return {
            State.HOST_UP: lambda stack, deadline: None,
            State.GUEST_BOOTED: lambda stack, deadline: self._boot(stack, deadline, changed),
            State.GUEST_READY: self._greet,
            State.QUIET: lambda stack, deadline: None,
        }

    def _boot(self, stack: contextlib.ExitStack, deadline: Deadline, changed: Callable[[], None]) -> None:
        """Start the device model and listen to its service."""
        about = self._about
        if about.hypervisor is not None:
            about.hypervisor.on_death(changed)
            self._check_hypervisor()
        process = self._host.start(about.command, log=about.folder / "device-model.log")
        self._process = process
        stack.callback(about.service_socket.unlink, missing_ok=True)  # a killed device model leaves it
        stack.callback(lambda: process.close(Deadline(CLOSE_TIMEOUT)))
        process.on_exit(changed)
        self._listener = self._listening.listener(about.event_socket, about.folder / "events.jsonl", changed)
        self._listener.connect(deadline, lambda: process.exit_status() is not None or self._closed.is_set())
        self._guest = about.make_guest(process, about.folder)
        stack.callback(self._guest.close)

    def _greet(self, stack: contextlib.ExitStack, deadline: Deadline) -> None:
        """Wait for the agent."""
        assert self._guest is not None
        if not self._closed.is_set():  # else whoever stopped us found no guest to close
            self._guest.boot(deadline)

    def tend(self, deadline: Deadline, *, whole: bool) -> None:
        """Nothing: QEMU's trace has one clock with us."""

    def reported(self, report: AgentReport) -> None:
        """Nothing: QEMU's trace is the witness, and the report is compared with it."""

    def check(self) -> None:
        """Raises InfrastructureError when the hypervisor, the listener, the device model or the guest has died."""
        assert self._process is not None and self._guest is not None and self._listener is not None
        self._check_hypervisor()
        if self._listener.failure is not None:
            raise InfrastructureError(f"{self._about.name}: {self._listener.failure}")
        if self._process.exit_status() is not None:
            raise InfrastructureError(f"the device model of {self._about.name} has ended")
        self._guest.check()

    def _check_hypervisor(self) -> None:
        hypervisor = self._about.hypervisor
        if hypervisor is not None and hypervisor.failure is not None:
            raise hypervisor.failure

    def failed(self, problem: BenchError) -> BenchError:
        """As the device model says of its own end."""
        if self._process is None:
            return problem
        return true_cause(problem, self._process, self._about.name, self._about.folder, self._about.hypervisor)

    def hush(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.close()

    def end_is_told(self) -> bool:
        """Whether the device model lives, or said why it does not."""
        ended = self._process is not None and self._process.exit_status() is not None
        return not ended or end_is_told(self._about.folder)

    def give_back(self, deadline: Deadline) -> None:
        """A system of the user's gets its RTC back, and its time daemons, whose writes nobody judges any more."""
        if isinstance(self._guest, SystemGuest):
            self._guest.leave(deadline)

    def close(self) -> None:
        """Close the guest's console, if there is one."""
        self._closed.set()
        guest = self._guest
        if guest is not None:
            guest.close()
