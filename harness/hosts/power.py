"""Power of a bench's host: switched by the user's commands, by labgrid's drivers, or by somebody at the terminal."""

from __future__ import annotations

import os
import select
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from harness.bench import Bench, CommandPowerSpec, LabgridReservationSpec, ManualPowerSpec
from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.cool_down import CoolDown
from harness.hosts.program import run_program, shown, status_of
from harness.secrets import read_secret

_LOOK_EVERY = 0.25
"""Seconds between two questions for the status, after switching: a switch may take a moment."""


class Power(Protocol):
    """A switch of a host's power. All raise InfrastructureError where it does not do as it is told."""

    def on(self, deadline: Deadline) -> None:
        """Switch on, once the host has been off for its cool-down."""

    def off(self, deadline: Deadline) -> None:
        """Switch off."""

    def is_on(self) -> bool | None:
        """Whether it is on; None where nobody can tell."""


def power_for(bench: Bench) -> Power:
    """What switches the bench's host.

    Raises ConfigurationError where its file names nothing (`bench.power` is None), or what cannot be used here.
    """
    spec = bench.power
    if spec is None:
        raise ConfigurationError(f"the bench {bench.name} names nothing that switches its host", hint="give it a power")
    cool_down = CoolDown(spec.cool_down, bench.lock_folder / f"{bench.name}.power")
    if isinstance(spec, CommandPowerSpec):
        return CommandPower(spec, cool_down, bench.file.absolute().parent if bench.file else Path.cwd())
    if isinstance(spec, ManualPowerSpec):
        return ManualPower(bench.name, cool_down)
    from harness.hosts.labgrid_bench import LabgridPower

    reservation = bench.reservation
    coordinator = reservation.coordinator if isinstance(reservation, LabgridReservationSpec) else None
    return LabgridPower(spec, cool_down, coordinator)


class CommandPower:
    """Commands of the user's. They run in `folder`, the bench file's, with this process's environment.

    Raises ConfigurationError where an environment variable with a secret of theirs is not set.
    """

    def __init__(self, spec: CommandPowerSpec, cool_down: CoolDown, folder: Path) -> None:
        self._spec = spec
        self._cool_down = cool_down
        self._folder = folder
        for name in spec.secrets_env:
            read_secret(name, None)

    def on(self, deadline: Deadline) -> None:
        """Raises InfrastructureError with the command and its output where it fails, hangs, or has no effect."""
        self._cool_down.wait(deadline)
        self._switch(self._spec.on, True, deadline)
        self._cool_down.switched_on()

    def off(self, deadline: Deadline) -> None:
        """Raises as `on`."""
        try:
            self._switch(self._spec.off, False, deadline)
        finally:
            self._cool_down.switched_off()  # perhaps: a command that failed may have switched all the same

    def is_on(self) -> bool | None:
        """What the status command says: 0 on, 1 off, anything else nothing; None without one."""
        if self._spec.status is None:
            return None
        status, _ = self._run(self._spec.status, Deadline(self._spec.timeout))
        return {0: True, 1: False}.get(status)

    def _switch(self, command: Sequence[str], wanted: bool, deadline: Deadline) -> None:
        deadline = deadline.within(self._spec.timeout)
        status, lines = self._run(command, deadline)
        if status != 0:
            raise InfrastructureError(
                f"the power command {shown(command)} ended with {status_of(status)}", last_lines=lines
            )
        if self._spec.status is not None:
            self._await_status(self._spec.status, wanted, deadline)

    def _await_status(self, command: Sequence[str], wanted: bool, deadline: Deadline) -> None:
        while True:
            status, lines = self._run(command, deadline)
            if status == (0 if wanted else 1):
                return
            if deadline.remaining <= _LOOK_EVERY:
                said = {0: "on", 1: "off"}.get(status, status_of(status))
                raise InfrastructureError(
                    f"the power was switched {'on' if wanted else 'off'}, and {shown(command)} says {said}",
                    awaited=f"power {'on' if wanted else 'off'}",
                    waited=deadline.elapsed,
                    last_lines=lines,
                    hint="a status command exits with 0 where the power is on, with 1 where it is off",
                )
            time.sleep(_LOOK_EVERY)  # a switch tells nobody when it has switched

    def _run(self, command: Sequence[str], deadline: Deadline) -> tuple[int, list[str]]:
        """Exit status, negative for a signal, and the last lines of what it printed."""
        hint = "`timeout` in the bench file's power says how long it may take"
        return run_program("the power command", command, self._folder, deadline, hint=hint)


class ManualPower:
    """Somebody at the terminal of this run, who is asked and presses Enter.

    terminal: opens it; the process's own unless a test has another.
    """

    def __init__(self, name: str, cool_down: CoolDown, terminal: Callable[[], int] | None = None) -> None:
        self._name = name
        self._cool_down = cool_down
        self._terminal = terminal or _own_terminal
        self._is_on: bool | None = None

    def on(self, deadline: Deadline) -> None:
        """Raises InfrastructureError where nobody answers, ConfigurationError where there is no terminal."""
        self._cool_down.wait(deadline)
        self._ask("on", deadline)
        self._cool_down.switched_on()
        self._is_on = True

    def off(self, deadline: Deadline) -> None:
        """Raises as `on`."""
        self._ask("off", deadline)
        self._cool_down.switched_off()
        self._is_on = False

    def is_on(self) -> bool | None:
        """What was last done in this run; None before that."""
        return self._is_on

    def _ask(self, wanted: str, deadline: Deadline) -> None:
        terminal = self._terminal()
        try:
            termios.tcflush(terminal, termios.TCIFLUSH)  # an Enter from before is no answer
            question = f"\r\nbench {self._name}: switch its power {wanted.upper()} now, then press Enter (q: give up) "
            os.write(terminal, question.encode())
            answer = b""
            while not answer.endswith((b"\n", b"\r")):
                if not select.select([terminal], [], [], deadline.remaining)[0]:
                    os.write(terminal, b"\r\nnobody did\r\n")
                    raise InfrastructureError(
                        f"nobody switched the power of {self._name} {wanted}",
                        awaited="Enter at the terminal",
                        waited=deadline.elapsed,
                    )
                piece = os.read(terminal, 100)
                answer += piece
                if not piece or (answer.strip().lower() == b"q" and answer.endswith((b"\n", b"\r"))):
                    raise InfrastructureError(
                        f"the power of {self._name} was not switched {wanted}: whoever was asked gave up"
                    )
        except OSError as error:
            raise InfrastructureError(f"the terminal was lost while power {wanted} was asked for: {error}") from error
        finally:
            os.close(terminal)


def _own_terminal() -> int:
    """The terminal that this process was started from, whatever its standard input is (pytest takes that away)."""
    hint = "start the run from a terminal, in its foreground; or use `power: {kind: commands, ...}`"
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        raise ConfigurationError(
            "power: {kind: manual} asks somebody at the terminal, and this run has none", hint=hint
        ) from None
    if os.tcgetpgrp(terminal) != os.getpgrp():
        os.close(terminal)
        raise ConfigurationError(
            "power: {kind: manual} asks somebody at the terminal, and this run is in its background", hint=hint
        )
    return terminal
