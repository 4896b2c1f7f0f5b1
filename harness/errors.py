"""The three families of errors: whose fault it is decides the class, the report label and the exit code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

EXIT_PRODUCT = 1
EXIT_INFRASTRUCTURE = 10
EXIT_CONFIGURATION = 11


class BenchError(Exception):
    """Base of what is not the product's fault; carries what a person needs to go on.

    awaited: what was waited for ("the guest's prompt"); waited: how long, in seconds;
    last_lines: the last lines seen before the error; log: where the whole log is;
    hint: what the user can do about it.
    """

    label = "error"
    exit_status = EXIT_INFRASTRUCTURE
    """What a command exits with that it ends."""

    hint = ""
    masked: ClassVar[Callable[[str], str]] = staticmethod(str)
    """What every text of an error passes through; `harness.secrets` puts its masker here when there are secrets."""

    def __init__(
        self,
        problem: str,
        *,
        awaited: str | None = None,
        waited: float | None = None,
        last_lines: Sequence[str] = (),
        log: Path | str | None = None,
        hint: str | None = None,
    ) -> None:
        masked = BenchError.masked
        self.problem = masked(problem)
        super().__init__(self.problem)
        self.awaited = None if awaited is None else masked(awaited)
        self.waited = waited
        self.last_lines = tuple(masked(line) for line in last_lines)
        self.log = log
        if hint is not None:
            self.hint = masked(hint)

    def __str__(self) -> str:
        lines = [f"{self.label}: {self.problem}"]
        if self.awaited is not None:
            after = f" for {self.waited:.1f} s" if self.waited is not None else ""
            lines.append(f"  awaited: {self.awaited}{after}")
        if self.last_lines:
            lines.append("  last lines seen:")
            lines.extend(f"    | {line}" for line in self.last_lines)
        if self.log is not None:
            lines.append(f"  full log: {self.log}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class ConfigurationError(BenchError):
    """The user's file or options are wrong; nothing was started, or nothing more will be."""

    label = "configuration error"
    exit_status = EXIT_CONFIGURATION
    hint = "correct the named file or option and start again"


class InfrastructureError(BenchError):
    """Host, link, QEMU, console, disk or power failed; says nothing about the product under test."""

    label = "infrastructure error"
    hint = "nothing is known about the event service from this; mend the bench and run again"


class ProductFault(AssertionError):
    """The guest's RTC or the event service misbehaved: the one result this project exists to show."""

    label = "product fault"
