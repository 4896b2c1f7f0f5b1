"""What the engine asks of a host: start a program, hold its console, end it and prove that it is gone."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from harness.deadline import Deadline


class HostProcess(Protocol):
    """A device model on a host, or the hypervisor process. Its console is its standard input and output, as
    acrn-dm's is.
    """

    @property
    def console(self) -> socket.socket:
        """A stream both ways; its end is the end of the process."""

    @property
    def last_lines(self) -> list[str]:
        """The last lines of its standard error."""

    def exit_status(self) -> int | None:
        """Exit status; None while it runs."""

    def on_exit(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, from a thread, once the process is dead (at once if it is already)."""

    def close(self, deadline: Deadline) -> None:
        """End it in order, then by force; raises InfrastructureError naming what survived."""


class Host(Protocol):
    """A machine that runs device models; a context manager."""

    name: str

    def __enter__(self) -> Host:
        """Take the host into use."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""

    def start(self, command: Sequence[str], *, log: Path) -> HostProcess:
        """Start a program by its argument list; its standard error goes to the file `log`."""
