"""Guests that somebody else runs: a device model by hand, a bare guest in it, and runs that attach to it."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.guests import QEMU_KVM, QEMU_TCG, AgentGuest, Console, Write, prepare_bare_image
from harness.hosts.local import LocalHost, LocalProcess
from harness.vm_event import MonitorClient
from tests.chain import PATIENCE, ROOT, Run, running

NONCE = "0123456789abcdef"
RUNNING = ((0x32, 0x20), (0x09, 0x25), (0x08, 0x03), (0x07, 0x05), (0x04, 0x06), (0x02, 0x07), (0x00, 0x08))
HALTED = ((0x0B, 0x82), (0x09, 0x26), (0x08, 0x04), (0x07, 0x09), (0x04, 0x10), (0x02, 0x11), (0x0B, 0x02))
"""Two updates to dates far from each other, as (register, value)."""


class SomebodysGuest:
    """A guest with its device model, in a folder of its own, and somebody who does things in it."""

    def __init__(self, folder: Path, process: LocalProcess, guest: AgentGuest) -> None:
        self.folder = folder
        self.process = process
        self.socket = folder / "monitor.sock"
        self._guest = guest

    def write(self, *writes: tuple[int, int]) -> None:
        """Have it write these registers, one right after another."""
        report = self._guest.run("by-hand", [Write(*write) for write in writes], Deadline(PATIENCE))
        assert report.ok, report.error

    def await_event(self) -> None:
        """Until what it wrote so far has settled, and nobody was there to hear of it."""
        deadline = Deadline(PATIENCE)
        with MonitorClient(self.socket) as client:
            while True:
                status = client.command("status")["status"]
                if status["settled"] and not any(source["pending"] for source in status["sources"].values()):
                    return
                assert not deadline.expired, status
                select.select([], [], [], 0.02)

    def power_off(self) -> None:
        self._guest.command("poweroff", Deadline(PATIENCE))

    def kill(self) -> None:
        """Its device model, without a word."""
        os.kill(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        self.process.close(Deadline(PATIENCE))


@contextmanager
def somebodys_guest(folder: Path, *options: str, name: str = "vm0") -> Iterator[SomebodysGuest]:
    """A bare guest that has said what it is; no exit record is asked for."""
    folder.mkdir(parents=True)
    image = prepare_bare_image(None, Deadline(PATIENCE))
    command = [
        *("/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "harness.devicemodel"),
        *("--cmd_monitor", str(folder / "monitor.sock"), "--trace-log", str(folder / "trace.log")),
        *("--memory", "8", "--kernel", str(image.kernel), "--append", image.command_line(NONCE)),
        *("--rtc", "2024-06-15T12:00:00Z", *options, name),
    ]
    with ExitStack() as stack:
        host = stack.enter_context(LocalHost())
        process = host.start(command, log=folder / "device-model.log")
        stack.callback(lambda: process.close(Deadline(PATIENCE)))
        console = Console(process.console, folder / "console.log", name=name)
        guest = AgentGuest(console, nonce=NONCE, hypervisor=(QEMU_TCG, QEMU_KVM))
        stack.callback(guest.close)
        guest.boot(Deadline(PATIENCE))
        yield SomebodysGuest(folder, process, guest)


@contextmanager
def attached(folder: Path, socket: Path, *options: str) -> Iterator[Run]:
    """A run that attaches to a guest, in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with running(folder, "--attach", str(socket), *options) as run:
        yield run


def listens(run: Run) -> bool:
    """Whether it is the guest's event client by now."""
    return any(record["kind"] == "ack" for record in run.records("events.jsonl"))


def verdicts(run: Run) -> dict[str, dict[str, Any]]:
    """The latest verdict on each update."""
    return {record["item"]: record for record in run.records("verdicts.jsonl")}


def rtc_writes(trace: Path) -> list[tuple[int, int]]:
    """(index, value) of each write to the RTC's data port in a trace log."""
    index, found = 0, []
    for line in trace.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if "memory_region_ops_write" in line and line.endswith(("'rtc'", "'rtc-index'")):
            value = int(words[words.index("value") + 1], 16)
            if line.endswith("'rtc'"):
                found.append((index, value))
            else:
                index = value & 0x7F
    return found


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
