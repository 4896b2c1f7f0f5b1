"""What the engine asks of a host: run and start programs, hold their consoles, bring files, end all and prove it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.hosts.channel import Channel

__all__ = ["Channel", "CommandResult", "Host", "HostProcess", "LinkLost", "LinkWatch"]

HostKind = Literal["local", "ssh", "nested"]


class LinkLost(InfrastructureError):
    """The link to a host was cut, or stands still; names every command that was cut with it."""

    hint = (
        "is the host up, and the network between? What ran there ends by itself within seconds;"
        " nothing is known about the event service from this"
    )


@dataclass(frozen=True)
class CommandResult:
    """What a command that ran to its end left: exit status (negative: the signal), output, last words."""

    status: int
    output: bytes
    errors: str


class HostProcess(Protocol):
    """A program on a host. Its console is its standard input and output, as acrn-dm's is."""

    @property
    def console(self) -> Channel:
        """A stream both ways; its end is the end of the process (or of the link to it)."""

    @property
    def last_lines(self) -> list[str]:
        """The last lines of its standard error; after a lost link, a line that says so."""

    def exit_status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs. 255 where the link to it was lost."""

    def on_exit(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, from a thread, once the process is dead (at once if it is already)."""

    def close(self, deadline: Deadline) -> None:
        """End it in order, then by force; raises InfrastructureError naming what survived."""


class LinkWatch(Protocol):
    """Who asks whether a host can still be reached."""

    @property
    def failure(self) -> InfrastructureError | None:
        """Why the host cannot be reached any more (LinkLost); None while it can."""

    def on_lost(self, callback: Callable[[InfrastructureError], object]) -> None:
        """Have `callback` called, from a thread, with the failure once there is one (at once if there is)."""


class Host(LinkWatch, Protocol):
    """A machine that runs device models; a context manager. Its methods may be called from any thread."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def kind(self) -> HostKind:
        """What kind of host it is, as bench files name it."""

    @property
    def folder(self) -> str:
        """The session's folder on the host, for its owner alone; removed at the end with all that is in it."""

    @property
    def python(self) -> str:
        """The Python (>= 3.10) on the host that tools are run with: `[host.python, "-I", host.tools(d), ...]`."""

    def __enter__(self) -> Host:
        """Take the host into use.

        Raises ConfigurationError where the user has to mend something, InfrastructureError where the host does
        not answer.
        """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back: what still runs is ended, the folder removed."""

    def start(self, command: Sequence[str], *, log: Path, terminal: bool = False) -> HostProcess:
        """Start a program by its argument list; its standard error goes to the file `log` (on this machine).

        terminal: on a terminal of its own on the host, in raw mode; its standard error still goes to `log`.
        Raises ConfigurationError when the command cannot be started at all, LinkLost when the link is gone.
        """

    def run(
        self, command: Sequence[str], deadline: Deadline, *, data: bytes = b"", check: bool = True
    ) -> CommandResult:
        """Run a program to its end, with `data` as its whole standard input.

        check: a status other than 0 is an InfrastructureError naming command, status and last lines.
        Raises InfrastructureError at the deadline (the command is ended), LinkLost naming the command,
        ConfigurationError when the command cannot be started at all.
        """

    def put(self, source: Path | bytes, name: str, deadline: Deadline, *, executable: bool = False) -> str:
        """Bring a file or bytes to `folder` under a bare `name`; returns its path there. The same is not sent twice."""

    def tools(self, deadline: Deadline) -> str:
        """The path on the host of the tools archive (harness/onhost), to be run by `python` with -I."""

    def connect(self, address: str, deadline: Deadline) -> Channel:
        """A stream to a unix socket or a terminal device (a path), or to HOST:PORT, as seen from the host.

        Raises InfrastructureError when nobody accepts until the deadline.
        """
