"""A guest with our agent in it, over its console: bare, or below an operating system."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests.agent_link import AgentLink, AgentRefused
from harness.guests.console import Console
from harness.guests.frames import MAX_PAYLOAD
from harness.guests.rtc_reading import READ_AT_ONCE, RtcReading, decoded
from harness.guests.steps import AgentReport, Pause, Read, Step, Write

ACRN = "ACRNACRNACRN"
QEMU_TCG = "TCGTCGTCGTCG"
QEMU_KVM = "KVMKVMKVM"
"""Hypervisor signatures of CPUID leaf 0x40000000, without closing NULs."""

_ROOM_FOR_WORDS = MAX_PAYLOAD - 200


class AgentGuest:
    """The Guest protocol for guests that have our agent. One command at a time: a second thread waits for the first.

    nonce: what stands as `rtc.nonce=` on this guest's (kernel) command line, and nowhere else.
    hypervisor: the signatures that prove a guest (see the constants of this module).
    The guest owns the console and closes it.
    """

    def __init__(self, console: Console, *, nonce: str, hypervisor: Sequence[str]) -> None:
        self._console = console
        self._nonce = nonce
        self._hypervisor = tuple(hypervisor)
        self._link = AgentLink(console)
        self._one_command = threading.Lock()
        self._facts: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The console's name."""
        return self._console.name

    @property
    def facts(self) -> Mapping[str, str]:
        """What the agent said at `boot`: agent, variant, grain_ns, kernel, hypervisor, and more of a Linux guest.

        grain_ns: nanoseconds between what the agent can tell apart by its own clock. Of an access it knows less:
        AgentReport.grain_ns.
        """
        return self._facts

    def boot(self, deadline: Deadline) -> None:
        """Waits for the agent's ready line, then greets it. Again after a restart of the guest.

        Raises as `greet`.
        """
        with self._one_command:
            self._link.wait_ready(deadline)
        self.greet(deadline)

    def greet(self, deadline: Deadline) -> None:
        """Has the agent prove where it is; before that it does nothing. Also for an agent met in mid-life.

        Raises AgentRefused, and as Console.wait_for. Its reasons: `nonce` (another guest's), `hypervisor` (no guest
        at all, or not of the bench's hypervisor), `service-vm`, `cpuid` (no way to ask the processor), `root`,
        `lockdown`, `ports`, `dev-port` (no way to the ports), `other-driver` (who cannot be unbound).
        """
        signatures = ",".join(signature.encode("ascii").hex() for signature in self._hypervisor)
        self._facts = self.command("hello", deadline, signatures)

    def run(self, item: str, steps: Sequence[Step], deadline: Deadline) -> AgentReport:
        """Has the agent do `steps` back to back, with the pauses made in the guest itself.

        A refusal is a report with ok False; nothing was written then. Raises AgentRestarted, and as
        Console.wait_for: then it is not known what was written.
        """
        *earlier, last = _chunks(map(_spell, steps))
        pauses = sum(step.seconds for step in steps if isinstance(step, Pause))
        with self._one_command:
            start_ns = time.monotonic_ns()
            try:
                for words in earlier:
                    self._request("load", words, deadline)
                done = self._request("run", [str(len(steps)), *last], deadline, busy=pauses)
            except AgentRefused as refusal:
                return AgentReport(item, False, refusal.problem, start_ns, time.monotonic_ns())
            end_ns = time.monotonic_ns()
        accesses = [_access(word) for word in done.split() if "=" in word]
        if len(accesses) != sum(not isinstance(step, Pause) for step in steps):
            raise InfrastructureError(f"the agent of {self.name} reported {len(accesses)} accesses: {done}")
        writes, reads = (tuple(rest for kind, rest in accesses if kind == wanted) for wanted in "wr")
        grain = max((int(word[1:]) for word in done.split() if word.startswith("g")), default=0)
        kinds = "".join(kind for kind, _ in accesses)
        return AgentReport(item, True, None, start_ns, end_ns, writes, reads, grain_ns=grain, kinds=kinds)

    def now(self, deadline: Deadline) -> tuple[int, int, int]:
        """(sent_ns, guest_ns, received_ns): the guest's clock showed guest_ns at some moment between the other two.

        guest_ns is of the clock that accesses are stamped with; the others are this machine's monotonic nanoseconds. A
        guest whose clock is coarse is given for so much longer. Answered by an agent that has proved nothing yet, too.
        Raises as `command`.
        """
        with self._one_command:
            sent_ns = time.monotonic_ns()
            answer = _facts(self._request("time", (), deadline))
            received_ns = time.monotonic_ns()
        return sent_ns - int(answer["grain_ns"]), int(answer["ns"]), received_ns

    def read_rtc(self, deadline: Deadline) -> RtcReading:
        """What the guest's RTC shows, read by the guest, and its registers A and B.

        Read again where an update of the RTC was in progress, or came between. Raises InfrastructureError where that
        never ends or the agent refuses, and as `run`.
        """
        while True:
            report = self.run("read-rtc", [Read(index) for index in READ_AT_ONCE], deadline)
            if not report.ok:
                raise InfrastructureError(f"the RTC of {self.name} cannot be read: {report.error}")
            reading = decoded(report)
            if reading is not None:
                return reading
            if deadline.expired:
                raise InfrastructureError(f"the RTC of {self.name} says it is being updated, whenever it is read")

    def power_off(self, deadline: Deadline) -> None:
        """Has the guest power itself off, by its init where it has one; this returns when it is about to.

        Nothing is given back before, so that no program of the guest writes the RTC on its way down. What is awaited
        then is the device model's end. Raises as `command`.
        """
        self.command("poweroff", deadline)

    def command(self, name: str, deadline: Deadline, *words: str, busy: float = 0.0) -> dict[str, str]:
        """Sends one of the agent's other commands and returns the answer's `key=value` words.

        info; time; noise COUNT (kernel messages meanwhile); panic, reboot, full-reset (a bare guest's), poweroff
        (answered before they happen; then wait for the guest's death, or `boot` again). busy: seconds the command is
        known to take. Raises AgentRefused, and as `run`.
        """
        with self._one_command:
            return _facts(self._request(name, words, deadline, busy=busy))

    def _request(self, name: str, words: Iterable[str], deadline: Deadline, *, busy: float = 0.0) -> str:
        return self._link.request(" ".join((name, self._nonce, *words)), deadline, busy=busy)

    def check(self) -> None:
        """Reads what the console has, without waiting. Raises as Console.check."""
        with self._one_command:
            self._console.check()

    def close(self) -> None:
        """Closes the console; a wait in another thread ends with ConsoleClosed. Idempotent."""
        self._console.close()


def _spell(step: Step) -> str:
    """A step as the agent reads it."""
    if isinstance(step, Write):
        return f"w{step.index:02x}{step.value:02x}"
    if isinstance(step, Read):
        return f"r{step.index:02x}"
    return f"p{round(step.seconds * 1_000_000)}"


def _access(word: str) -> tuple[str, tuple[int, int, int]]:
    """An access as the agent reports it, `wIIVV=NS` or `rIIVV=NS`: its kind and (index, value, guest_ns)."""
    return word[0], (int(word[1:3], 16), int(word[3:5], 16), int(word[6:]))


def _chunks(words: Iterable[str]) -> list[list[str]]:
    """The words in groups that fit into one command each; at least one group."""
    groups: list[list[str]] = [[]]
    room = _ROOM_FOR_WORDS
    for word in words:
        if room < len(word) + 1:
            groups.append([])
            room = _ROOM_FOR_WORDS
        groups[-1].append(word)
        room -= len(word) + 1
    return groups


def _facts(answer: str) -> dict[str, str]:
    """The `key=value` words of an answer; values come percent-encoded."""
    pairs = (word.partition("=") for word in answer.split())
    return {key: unquote(value) for key, _, value in pairs}
