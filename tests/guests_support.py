"""What the tests of harness/guests share: a console over a socket pair, an agent written in Python, a bare guest."""

from __future__ import annotations

import re
import socket
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.deadline import Deadline
from harness.guests.agent_guest import QEMU_KVM, QEMU_TCG, AgentGuest
from harness.guests.console import Console
from harness.guests.frames import Part, encode_part
from harness.hosts.local import LocalHost, LocalProcess
from tests.vm_event_support import PATIENCE

Spoil = Callable[[bytes], bytes]
_COMMAND = re.compile(rb"@>((\d+) ([^*]*))\*([0-9a-f]{8})$")


@contextmanager
def console_pair(folder: Path, name: str = "guest") -> Iterator[tuple[Console, socket.socket]]:
    """A console and the other end of its socket."""
    ours, theirs = socket.socketpair()
    console = Console(ours, folder / "console.log", name=name)
    try:
        with theirs:
            yield console, theirs
    finally:
        console.close()


class PythonAgent(threading.Thread):
    """An agent as the protocol wants it: carries out each sequence number once, answers a repeat from memory.

    `spoil_out` alters each line it sends, `spoil_in` each line it receives, `carried_out` lists the payloads it
    acted upon.
    """

    def __init__(
        self, end: socket.socket, *, spoil_out: Spoil = bytes, spoil_in: Spoil = bytes, part_size: int = 10
    ) -> None:
        super().__init__(daemon=True)
        self._end = end
        self._spoil_out = spoil_out
        self._spoil_in = spoil_in
        self._part_size = part_size
        self.carried_out: list[str] = []
        self.answers: dict[str, str] = {}

    def say(self, sequence: int, payload: str) -> None:
        size = self._part_size
        pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [""]
        for number, piece in enumerate(pieces, 1):
            line = encode_part(Part(sequence, number, len(pieces), piece))
            self._end.sendall(self._spoil_out(line))

    def run(self) -> None:
        last, answer = 0, ""
        try:
            with self._end.makefile("rb") as lines:
                for line in lines:
                    found = _COMMAND.search(self._spoil_in(line).rstrip())
                    if found is None or b"%08x" % zlib.crc32(found[1]) != found[4]:
                        self.say(0, "no damaged")
                        continue
                    if int(found[2]) != last:
                        payload = found[3].decode("ascii")
                        last, answer = int(found[2]), self.answers.get(payload.split()[0], f"ok {payload}")
                        self.carried_out.append(payload)
                    self.say(last, answer)
        except OSError:
            pass  # the host hung up in the middle of a line


@contextmanager
def bare_guest_below(command: Sequence[str], nonce: str, folder: Path) -> Iterator[tuple[AgentGuest, LocalProcess]]:
    """A bare guest that is up, below the device model that this command starts, which has it on standard streams."""
    with LocalHost() as host, ExitStack() as stack:
        process = host.start(command, log=folder / "device-model.log")
        stack.callback(lambda: process.close(Deadline(PATIENCE)))
        guest = AgentGuest(
            Console(process.console, folder / "console.log", name="vm0"), nonce=nonce, hypervisor=[QEMU_TCG, QEMU_KVM]
        )
        stack.callback(guest.close)
        guest.boot(Deadline(PATIENCE))
        yield guest, process
