"""What every host says alike of commands that went wrong."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.base import CommandResult

_KEPT_LINES = 20


def bare_name(name: str) -> str:
    """`name`, which must be a file name without a folder. Raises ValueError."""
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is no bare file name")
    return name


def read_source(path: Path) -> bytes:
    """A file that is to go to a host. Raises ConfigurationError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error


def shown(command: Sequence[str]) -> str:
    """A command as a person would type it, cut where it gets long."""
    text = shlex.join(command)
    return text if len(text) <= 300 else f"{text[:300]}..."


def ended_badly(host: str, command: Sequence[str], result: CommandResult) -> InfrastructureError:
    """A command ended with a status that was not wanted."""
    how = f"signal {-result.status}" if result.status < 0 else f"status {result.status}"
    lines = result.errors.splitlines() or result.output.decode("utf-8", "replace").splitlines()
    return InfrastructureError(f"on {host}: {shown(command)} ended with {how}", last_lines=lines[-_KEPT_LINES:])


def ran_too_long(host: str, command: Sequence[str], waited: float) -> InfrastructureError:
    """A command did not end in time, and was ended."""
    return InfrastructureError(
        f"on {host}: {shown(command)} did not end in time",
        awaited=f"the end of {shown(command)}",
        waited=waited,
        hint="a host that is busy or hangs is slow to answer; look at its load",
    )
