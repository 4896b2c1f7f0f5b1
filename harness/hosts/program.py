"""A program on this machine that does one thing and ends: its exit status, and the last lines of what it printed."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from harness.bench.values import HARNESS
from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.secrets import MASKER

_KEPT_BYTES = 64 * 1024
_KEPT_LINES = 20


def run_program(
    what: str,
    command: Sequence[str],
    folder: Path,
    deadline: Deadline,
    *,
    hint: str,
    environment: Mapping[str, str] | None = None,
    lines: int = _KEPT_LINES,
) -> tuple[int, list[str]]:
    """Exit status, negative for a signal, and the last lines of what it printed.

    what: what it is called in errors; hint: what helps where it hangs; environment: beside this process's own;
    lines: how many of them are kept.
    Raises ConfigurationError where it cannot be started, InfrastructureError where it does not end: then it is killed.
    """
    # Into a file: a process that the program leaves behind would keep a pipe open.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                list(command),
                cwd=folder,
                env=_environment() | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigurationError(
                f"{what} {shown(command)} cannot be started: {error.strerror or error}"
            ) from error
        try:
            process.wait(deadline.remaining)
        except subprocess.TimeoutExpired:
            raise InfrastructureError(
                f"{what} {shown(command)} did not end",
                awaited="its end",
                waited=deadline.elapsed,
                last_lines=_last_lines(output, _KEPT_LINES),
                hint=f"it was killed; {hint}",
            ) from None
        finally:
            if process.poll() is None:  # also where this run is interrupted
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode, _last_lines(output, lines)


def shown(command: Sequence[str]) -> str:
    """A command, as errors show it."""
    return f"`{shlex.join(command)}`"


def status_of(status: int) -> str:
    """An exit status, as errors show it."""
    return f"exit status {status}" if status >= 0 else f"signal {-status}"


def _environment() -> dict[str, str]:
    """That of this process; a Python of the commands finds the harness behind whatever else it looks through."""
    path = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{HARNESS}" if path else str(HARNESS)}


def _last_lines(output: BinaryIO, count: int) -> list[str]:
    output.seek(0, os.SEEK_END)
    output.seek(max(0, output.tell() - _KEPT_BYTES))
    # Masked whole: a secret may go over a line's end, or begin before what is kept of it.
    text = MASKER.mask(output.read().decode("utf-8", "replace"))
    return text.splitlines()[-count:]
