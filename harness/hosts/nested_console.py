"""What a booting ACRN machine says on its console: how far it is, and what it dies of, by name."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["grub", "hypervisor", "panic"]

_CHUNK = 65536
_LONGEST = 4096
"""Bytes without a match that are looked at again with what follows."""

_ENDS: tuple[tuple[Kind, re.Pattern[bytes]], ...] = (
    ("hypervisor", re.compile(rb"Assertion failed in file (?P<file>[^\s,]+), ?line (?P<line>\d+)[^\r\n]*[\r\n]")),
    ("panic", re.compile(rb"Kernel panic - not syncing[^\r\n]*[\r\n]")),
    ("panic", re.compile(rb"Unable to mount root fs[^\r\n]*[\r\n]")),
    # "error: Can't get controller info." is what GRUB always says in QEMU, and goes on.
    (
        "grub",
        re.compile(
            rb"error: (?:file [^\r\n]{0,200} not found|no such (?:partition|device|disk)|unknown filesystem"
            rb"|you need to load the kernel first|no multiboot header found|out of memory)[^\r\n]*[\r\n]"
        ),
    ),
    ("grub", re.compile(rb"grub rescue>|Minimal BASH-like line editing")),
)
_STAGES = (
    ("GRUB", re.compile(rb"GRUB |GNU GRUB|Welcome to GRUB|Loading ACRN")),
    ("the hypervisor", re.compile(rb"ACRN Hypervisor|HV: |HV version|ACRN:\\>")),
    ("the Service VM's kernel", re.compile(rb"Linux version |\[ +\d+\.\d{6}\] ")),
    ("the Service VM's login", re.compile(rb"login: ")),
)
_FIRST = "nothing (firmware says nothing here)"

_TRANSIENT = "vtd.c"
"""ACRN's VT-d driver, whose time-out QEMU's IOMMU does not always keep: an assertion there comes and goes."""

_WHAT = {
    "grub": "GRUB could not boot it",
    "hypervisor": "ACRN's hypervisor stopped at an assertion",
    "panic": "the Service VM's kernel panicked",
}
_HINTS = {
    "grub": "GRUB's entry in the image names a file or a disk that is not there: mend it in the image, and see the log",
    "hypervisor": "an ACRN built for another board, or a machine that is not as ACRN's guide wants it"
    " (dmar_parse.c: the IOMMU; vtd.c: known to come and go)",
    "panic": "the Service VM's kernel does not find its root, or is not for this machine: see the log",
}
_ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Log(Protocol):
    """Where the console's bytes are kept."""

    def add(self, data: bytes) -> None:
        """Take what was received. Raises OSError."""


@dataclass(frozen=True)
class BootEnd:
    """What ended a boot, or the machine after it. transient: known to come and go, so that it is worth a second try."""

    kind: Kind
    line: str
    transient: bool = False

    @property
    def problem(self) -> str:
        """In a sentence's end, with the line that said so."""
        return f"{_WHAT[self.kind]}: {self.line}"

    @property
    def hint(self) -> str:
        """What the user can do about it."""
        return _HINTS[self.kind]


class ConsoleReader:
    """Looks through a console's bytes as they come. `stage`: what was heard of last, in the order of a boot."""

    def __init__(self) -> None:
        self.stage = _FIRST
        self.end: BootEnd | None = None
        self._stages = list(_STAGES)
        self._tail = b""

    def feed(self, data: bytes) -> BootEnd | None:
        """Take bytes; what they say the machine died of, told once."""
        if self.end is not None:
            return None
        self._tail = _ANSI.sub(b"", self._tail + data)
        for place, (name, pattern) in reversed(list(enumerate(self._stages))):
            if pattern.search(self._tail):
                self.stage = name
                del self._stages[: place + 1]
                break
        for kind, pattern in _ENDS:
            found = pattern.search(self._tail)
            if found is not None:
                line = found[0].strip().decode("utf-8", "replace")
                self.end = BootEnd(kind, line, transient=kind == "hypervisor" and _is_transient(found))
                return self.end
        newline = self._tail.rfind(b"\n") + 1
        # A line is looked at whole; GRUB's prompt and a login's have no end.
        self._tail = self._tail[newline:][-_LONGEST:]
        return None


def _is_transient(found: re.Match[bytes]) -> bool:
    return found["file"].rsplit(b"/", 1)[-1] == _TRANSIENT.encode()


class ConsoleWatch:
    """Reads a console on a thread of its own, until it ends. Owns the socket.

    on_end: called from that thread with what the machine died of.
    """

    def __init__(self, console: socket.socket, log: Log, on_end: Callable[[BootEnd], object]) -> None:
        self._console = console
        self._log = log
        self._on_end = on_end
        self._reader = ConsoleReader()
        self._thread = threading.Thread(target=self._run, name="nested-console", daemon=True)
        self._thread.start()

    @property
    def stage(self) -> str:
        """How far the machine is: what was heard of last."""
        return self._reader.stage

    @property
    def end(self) -> BootEnd | None:
        """What the machine died of, as its console says."""
        return self._reader.end

    def join(self, timeout: float) -> bool:
        """Wait until all that was said is read; False where it goes on."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with self._console:
            while True:
                try:
                    data = self._console.recv(_CHUNK)
                except OSError:
                    return
                if not data:
                    return
                try:
                    self._log.add(data)
                except OSError:
                    pass  # a full disk is told by whoever needs it; the console is watched all the same
                end = self._reader.feed(data)
                if end is not None:
                    self._on_end(end)
