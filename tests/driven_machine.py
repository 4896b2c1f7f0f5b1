"""A device model in this process whose guest's ports the test works itself, through QEMU's qtest: no guest boots."""

from __future__ import annotations

import json
import queue
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.devicemodel.exit_record import ExitRecord
from harness.devicemodel.model import DeviceModel, Settings
from harness.qemu.arguments import Machine
from harness.vm_event import SettledRtcChange
from harness.vm_event.sockets import ListeningSocket

PATIENCE = 60.0
BASE = 1_718_452_800
"""2024-06-15T12:00:00Z, what the guest's RTC shows at the start."""
SECOND = 10**9

_LINE = re.compile(
    r"(\d+) (\d+) (?:\d+@[\d.]+:|\S+Z )memory_region_ops_(read|write) .* value 0x(\w+) size 1 name '(.*)'"
)


class Driven:
    """The device model, what it told, and the way to the ports. The machine stands still until `let_run`."""

    def __init__(self, folder: Path, name: str, hypervisor: Path | None, window: float, qemu: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.heard: queue.SimpleQueue[SettledRtcChange] = queue.SimpleQueue()
        self.records: list[ExitRecord] = []
        self._listening = ListeningSocket(folder / "qtest.sock")
        self._listening.socket.settimeout(PATIENCE)
        machine = Machine(
            *(qemu, "tcg", "pc", 32),
            rtc_time=BASE,
            trace_reads=hypervisor is not None,
            extra=("-S", "-qtest", f"unix:{folder}/qtest.sock"),
        )
        self.model = DeviceModel(
            Settings(
                *(name, machine, folder / "monitor.sock", BASE),
                hypervisor=hypervisor,
                window=window,
                trace_log=folder / "trace.log",
                rtc_change_log=folder / "rtc-change.jsonl",
                stdin=None,
            )
        )
        self.model._service.subscribe(self.heard.put)
        self._thread = threading.Thread(target=lambda: self.records.append(self.model.run()))
        self._thread.start()
        self._connection, _ = self._listening.socket.accept()
        self._connection.settimeout(PATIENCE)
        self._answers = self._connection.makefile("r")

    def write(self, *accesses: tuple[int, int], then_out: tuple[int, int] | None = None) -> None:
        """Registers written through the ports, and perhaps one port more, as close together as QEMU can."""
        pairs = [pair for index, value in accesses for pair in ((0x70, index), (0x71, value))]
        self.do(*[f"outb {port:#x} {value:#x}" for port, value in (*pairs, *((then_out,) if then_out else ()))])

    def read(self, index: int) -> None:
        """A register read through the ports."""
        self.do(f"outb {0x70:#x} {index:#x}", f"inb {0x71:#x}")

    def out(self, port: int, value: int) -> None:
        """A byte written to a port."""
        self.do(f"outb {port:#x} {value:#x}")

    def inp(self, port: int) -> None:
        """A byte read from a port."""
        self.do(f"inb {port:#x}")

    def let_run(self) -> None:
        """The machine runs for a moment, as it has to once before a reset is one."""
        self.model._qemu.qmp.execute("cont", Deadline(PATIENCE))
        self.model._qemu.qmp.execute("stop", Deadline(PATIENCE))

    def next_event(self) -> SettledRtcChange:
        """The next settled event."""
        return self.heard.get(timeout=PATIENCE)

    def accesses(self, region: str, way: str = "write") -> list[tuple[int, int]]:
        """(stamp, value) of each access to this region in the trace log."""
        matches = [_LINE.match(line) for line in self._trace()]
        return [
            (int(found[2]), int(found[4], 16)) for found in matches if found and (found[3], found[5]) == (way, region)
        ]

    def said(self, event: str) -> list[dict[str, Any]]:
        """The device model's own records in the trace log."""
        records = [json.loads(line[2:]) for line in self._trace() if line.startswith("# ")]
        return [record for record in records if record["event"] == event]

    def ticks(self, stamp_ns: int) -> int:
        """How often the hypervisor's clock has ticked by then."""
        return (stamp_ns - int(self.said("start")[0]["stamp_ns"])) // SECOND

    def await_end(self) -> ExitRecord:
        """How it ended, by itself."""
        self._thread.join(PATIENCE)
        (record,) = self.records
        return record

    def close(self) -> None:
        self.model._post(None, "closed", "the test is over")
        self._thread.join(PATIENCE)
        self._answers.close()
        self._connection.close()
        self._listening.close()
        assert not self._thread.is_alive()

    def do(self, *commands: str) -> None:
        """Commands of the qtest protocol, as close together as QEMU can."""
        self._connection.sendall("".join(f"{command}\n" for command in commands).encode())
        for _ in commands:
            answer = self._answers.readline()
            assert answer.startswith("OK"), answer

    def _trace(self) -> list[str]:
        text = (self.folder / "trace.log").read_text(encoding="utf-8", errors="replace")
        return text[: text.rfind("\n") + 1].splitlines()


@contextmanager
def driven(
    folder: Path,
    *,
    name: str = "vm0",
    hypervisor: Path | None = None,
    window: float = 0.5,
    qemu: str = "qemu-system-x86_64",
) -> Iterator[Driven]:
    """A device model whose ports are the test's, to its end."""
    machine = Driven(folder, name, hypervisor, window, qemu)
    try:
        yield machine
    finally:
        machine.close()
