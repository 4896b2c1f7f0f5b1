"""The event service's command line as a process: started, spoken to, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm_event_support import PATIENCE

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "harness.vm_event"]


@contextmanager
def started(
    *arguments: str, pass_fds: tuple[int, ...] = (), before: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """`before`: what runs it, such as a tracer."""
    process = subprocess.Popen(
        [*before, *COMMAND, *arguments], cwd=ROOT, pass_fds=pass_fds, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if before and process.poll() is None:
            # A tracer that is killed lets go of what it traces, which lives on.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
            for child in children.split():
                os.kill(int(child), signal.SIGKILL)
        process.kill()
        process.communicate()


@contextmanager
def serving(
    path: Path, *more: str, pass_fds: tuple[int, ...] = (), before: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    with started("serve", "--monitor", str(path), "--vm", "vm0", *more, pass_fds=pass_fds, before=before) as process:
        assert process.stdout is not None and process.stderr is not None
        said = process.stdout.readline()
        assert said.startswith(f"serving vm0 on {path} from "), said or process.stderr.read()
        yield process


@contextmanager
def watching(path: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    with started("watch", "--socket", str(path), *more) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"registered at {path}\n"
        yield process


def say(process: subprocess.Popen[str], *lines: str) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(line + "\n" for line in lines))
    process.stdin.flush()


def run(*arguments: str, pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, text=True, capture_output=True, timeout=PATIENCE, check=False,
        pass_fds=pass_fds,
    )  # fmt: skip
