"""A hypervisor process to test against, and what its rings say."""

from __future__ import annotations

import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.deadline import Deadline
from harness.hypervisor.client import HypervisorVm
from harness.hypervisor.server import Hypervisor
from harness.hypervisor.wire import NewVm
from harness.vm_event import Tunnel
from harness.vm_event.abi import ELEMENT

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0
BASE = 1_718_452_800
"""2024-06-15T12:00:00Z."""
START_NS = 1_000_000_000_500
"""When the VMs of these tests begin: not at a whole second."""
SECOND = 10**9

Element = tuple[int, int, int, int]
"""type, last_time, delta_time, stamp_ns."""


@contextmanager
def serving(path: Path) -> Iterator[Hypervisor]:
    """A hypervisor on a thread of this process."""
    with Hypervisor(path) as hypervisor:
        thread = threading.Thread(target=hypervisor.serve)
        thread.start()
        try:
            yield hypervisor
        finally:
            hypervisor.end()
            thread.join(PATIENCE)
            assert not thread.is_alive()


@contextmanager
def hypervisor_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A hypervisor process that listens; killed at the end if it still lives."""
    command = [sys.executable, "-m", "harness.hypervisor", "--socket", str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            await_log(process, "listening")
            yield process
        finally:
            process.kill()


def await_log(process: subprocess.Popen[str], words: str) -> str:
    """The next line of the process's log that has these words."""
    assert process.stderr is not None
    seen = []
    impatience = threading.Timer(PATIENCE, process.kill)
    impatience.start()
    try:
        for line in process.stderr:
            if words in line:
                return line
            seen.append(line)
    finally:
        impatience.cancel()
    raise AssertionError(f"no {words!r} in the log: {seen}")


class Machine:
    """A VM of a hypervisor as its device model and its event service see it; `now` is the guest's stamp."""

    def __init__(self, path: Path, name: str = "vm0", rtc_time: int = BASE, start_ns: int = START_NS) -> None:
        self.now = start_ns
        self.vm = HypervisorVm(path, NewVm(name, rtc_time, start_ns))
        self._reader = Tunnel.attach(self.vm.ring_descriptor, self.vm.kick_descriptor)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, *accesses: tuple[int, int]) -> None:
        """Registers written at once, in one message."""
        for index, value in accesses:
            self.vm.write(self.now, index, value)
        self.vm.send()

    def read(self, index: int = 0) -> None:
        """A register read, which brings all of them up to date."""
        self.vm.read(self.now, index)
        self.vm.send()
        self.vm.sync()

    def ring(self) -> list[Element]:
        """What has been put on the ring since the last look."""
        self._reader.acknowledge()
        return list(ELEMENT.iter_unpack(self._reader.drain()))

    def close(self) -> None:
        self._reader.close()
        self.vm.close()


def gone(machine: Machine) -> bool:
    """Whether the hypervisor has ended this VM, or does so before patience ends."""
    return bool(select.select([machine.vm], [], [], Deadline(PATIENCE).remaining)[0])


def descriptors() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def settled_descriptors(machine: Machine) -> int:
    """Descriptors of this process, once the hypervisor's thread has done with what it was at."""
    for _ in range(2):  # it may have been in the midst of its round when the first question came
        machine.vm.sync()
    return descriptors()
