"""QEMU's own MC146818, driven register by register without a guest: a client of its qtest protocol.

The protocol is a line for each port access and a line for its answer (QEMU, docs/devel/testing/qtest.rst). The machine
is never started (`-S`), so nobody else touches the RTC.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

QEMU = "qemu-system-x86_64"
PATIENCE = 60.0
Clock = Literal["vm", "rt"]


class Access(NamedTuple):
    """A write of `value` to a register, or a read of it (value None)."""

    register: int
    value: int | None = None

    def __repr__(self) -> str:
        return f"r{self.register:02x}" if self.value is None else f"w{self.register:02x}={self.value:02x}"


@dataclass(frozen=True)
class Answer:
    """The byte that a read gave (None: a write), and the monotonic nanoseconds it happened between."""

    value: int | None
    from_ns: int
    to_ns: int


class QtestRtc:
    """The RTC of a QEMU at the other end of a qtest socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lines = connection.makefile("rb")

    def access(self, accesses: Sequence[Access]) -> list[Answer]:
        """Does all of them, one after another without waiting in between; the times are those of the whole."""
        commands = []
        for access in accesses:
            commands.append(f"outb 0x70 {access.register:#x}\n")
            commands.append("inb 0x71\n" if access.value is None else f"outb 0x71 {access.value:#x}\n")
        from_ns = time.monotonic_ns()
        self._socket.sendall("".join(commands).encode())
        values = [self._answer() for _ in commands][1::2]
        to_ns = time.monotonic_ns()
        return [Answer(value, from_ns, to_ns) for value in values]

    def one(self, access: Access) -> Answer:
        """One access, with its own times."""
        return self.access([access])[0]

    def read(self, index: int) -> int:
        value = self.one(Access(index)).value
        assert value is not None
        return value

    def write(self, index: int, value: int) -> None:
        self.one(Access(index, value))

    def _answer(self) -> int | None:
        line = self._lines.readline()
        word, _, value = line.decode().strip().partition(" ")
        assert word == "OK", f"qtest answered {line!r}"
        return int(value, 16) if value else None


@contextlib.contextmanager
def qemu_rtc(clock: Clock, base: str = "2024-06-15T12:00:00") -> Iterator[QtestRtc]:
    """A QEMU whose RTC shows `base` (UTC) at its start; with the clock "vm" it then stands still, with "rt" it runs.

    The virtual clock of a machine that was never started stands; "rt" is CLOCK_MONOTONIC, our own.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        path = Path(folder) / "qtest"
        listening.bind(str(path))
        listening.listen()
        listening.settimeout(PATIENCE)
        command = [
            *(QEMU, "-accel", "tcg", "-machine", "pc", "-m", "8", "-display", "none", "-nodefaults"),
            *("-no-user-config", "-nic", "none", "-S", "-rtc", f"base={base},clock={clock}"),
            *("-qtest", f"unix:{path}", "-qtest-log", "/dev/null"),
        ]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            try:
                connection, _ = listening.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    yield QtestRtc(connection)
            finally:
                process.kill()
