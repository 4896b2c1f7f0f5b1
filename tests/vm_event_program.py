"""The event service as its users get it: one file, on each Python there is, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from harness.pyz import archive, write_executable
from tests.vm_event_support import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
OWN_VERSION = sys.version_info.minor
#: The minor versions of Python 3 that the file has to run on, and the one these tests run on.
VERSIONS = sorted({10, 11, 12, 13, OWN_VERSION})
#: No environment variables, no user's and no site's packages: what a Python has that was just unpacked.
BARE = ("-I", "-S")


@cache
def find_python(minor: int) -> str | None:
    """A Python 3.`minor`: the one that runs this, one on the PATH, or one that pyenv has made."""
    if minor == OWN_VERSION:
        return sys.executable
    candidates = [shutil.which(f"python3.{minor}")]
    candidates += sorted(map(str, (Path.home() / ".pyenv" / "versions").glob(f"3.{minor}.*/bin/python3")))
    for python in candidates:
        if python is not None and _answers(python, minor):
            return python
    return None


def _answers(python: str, minor: int) -> bool:
    """A name is not enough: pyenv has a python3.12 on the PATH that says it is not selected."""
    program = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run([python, *BARE, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.split() == ["3", str(minor)]


def python_or_skip(minor: int) -> str:
    """`find_python`, for a test."""
    python = find_python(minor)
    if python is None:
        pytest.skip(f"there is no Python 3.{minor} here")
    return python


@cache
def built() -> bytes:
    """The bytes of `vm_event.pyz` from these sources."""
    return archive()


def build(folder: Path) -> Path:
    """`vm_event.pyz` in `folder`."""
    path = folder / "vm_event.pyz"
    write_executable(built(), path)
    return path


@contextmanager
def running(command: Sequence[str | Path], *, pass_fds: Sequence[int] = ()) -> Iterator[subprocess.Popen[str]]:
    """A process with pipes to all three ends; ended at the latest with the block."""
    process = subprocess.Popen(
        [os.fspath(word) for word in command],
        pass_fds=pass_fds,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def serving(
    command: Sequence[str | Path], monitor: Path, *options: str, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[str]]:
    """`COMMAND serve --monitor MONITOR`, which serves; the block ends it as an administrator would, and it obeys."""
    with running([*command, "serve", "--monitor", monitor, *options], pass_fds=pass_fds) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("serving "), said + process.communicate(timeout=PATIENCE)[1]
        yield process
        process.terminate()
        _, complaints = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, complaints
