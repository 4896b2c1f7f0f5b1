"""What a running service costs: the memory it holds, what it imports, and nothing at all while nothing happens."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from harness.vm_event import SharedRing
from harness.vm_event.watch import MonitorClient
from tests.vm_event_program import BARE, VERSIONS, build, find_python, python_or_skip, serving

#: What is promised, in KiB.
RESIDENT_LIMIT = 16 * 1024
#: Machines differ by how much of Python's own file they keep mapped; this much of the limit has to be left over.
MARGIN = 512
#: Each of these takes 0.2 MB and more, and a running service needs none of them.
DEAR = {
    *("ast", "asyncio", "ctypes", "dataclasses", "http", "inspect", "logging.handlers", "multiprocessing", "pathlib"),
    *("pickle", "queue", "random", "shutil", "ssl", "subprocess", "tempfile", "typing", "urllib", "zipfile"),
}
#: How long nothing may happen, in seconds. Silence cannot be awaited, only listened to.
LISTENED = 2.0


@contextmanager
def idle_service(python: str, folder: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """A service with a monitor, its event client, and a ring that another process fills, with nothing to do."""
    command: list[str | Path] = [python, *BARE, *flags, build(folder)]
    path = folder / "monitor"
    kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with SharedRing.create(shared=True) as ring:
            assert ring.descriptor is not None
            options = ("--ring", f"hv:{ring.descriptor}:{kick}")
            service = serving(command, path, *options, pass_fds=(ring.descriptor, kick))
            with service as process, MonitorClient(path) as client:
                client.register()
                yield process
    finally:
        os.close(kick)


def facts(folder: Path) -> dict[str, str]:
    """The `status` file of a process or thread, by name."""
    return dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())


def activity(process: subprocess.Popen[str]) -> dict[str, tuple[str, int]]:
    """Of each thread: whether it sleeps (S), and how many times it was taken off a processor.

    A thread that slept before and after, with that number unchanged, was not woken, and made no system call.
    """
    threads = {}
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        of_task = facts(task)
        times = int(of_task["voluntary_ctxt_switches"]) + int(of_task["nonvoluntary_ctxt_switches"])
        threads[task.name] = (of_task["State"].split()[0], times)
    return threads


@pytest.mark.parametrize("minor", VERSIONS)
def test_a_service_with_a_monitor_and_a_ring_stays_below_16_mib(tmp_path: Path, minor: int) -> None:
    with idle_service(python_or_skip(minor), tmp_path) as process:
        peak = facts(Path(f"/proc/{process.pid}"))["VmHWM"]

    assert int(peak.split()[0]) <= RESIDENT_LIMIT - MARGIN


def test_what_it_does_not_need_it_does_not_import(tmp_path: Path) -> None:
    with idle_service(sys.executable, tmp_path, "-X", "importtime") as process:
        process.terminate()
        assert process.stderr is not None
        report = process.stderr.read()

    imported = {line.rpartition("|")[2].strip() for line in report.splitlines() if line.startswith("import time:")}
    assert "vm_event.service" in imported
    assert imported & DEAR == set()


def test_while_nothing_happens_no_thread_of_it_runs(tmp_path: Path) -> None:
    with ExitStack() as services:
        processes: list[subprocess.Popen[str]] = []
        for python in filter(None, map(find_python, VERSIONS)):
            folder = tmp_path / str(len(processes))
            processes.append(services.enter_context(idle_service(python, folder)))
        after = [activity(process) for process in processes]
        for seconds in (0.2, LISTENED, LISTENED):  # at first the last of the start may still be going on
            before = after
            time.sleep(seconds)
            after = [activity(process) for process in processes]
            if after == before and seconds == LISTENED:
                break

    assert after == before
    assert {state for threads in after for state, _ in threads.values()} == {"S"}
    assert all(len(threads) >= 2 for threads in after)
