"""The guest without an operating system, in a real QEMU: the same agent, the same refusals, and nothing when idle."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.guests import QEMU_KVM, QEMU_TCG, AgentGuest, AgentRefused, Console, Pause, Read, Write, prepare_bare_image

NONCE = "0123456789abcdef"
PATIENCE = 60.0


@dataclass
class Machine:
    """A bare guest in QEMU, and where its port writes are traced."""

    guest: AgentGuest
    qemu: subprocess.Popen[bytes]
    trace: Path

    def rtc_writes(self) -> list[tuple[int, int]]:
        """(index, value) of every write to the RTC so far, by QEMU's own trace."""
        index, writes = 0, []
        for line in self.trace.read_text().splitlines():
            if match := re.search(r"ops_write .* value 0x(\w+) size 1 name '(rtc|rtc-index)'", line):
                value = int(match[1], 16)
                if match[2] == "rtc-index":
                    index = value & 0x7F
                else:
                    writes.append((index, value))
        return writes


@pytest.fixture(params=["pc", "q35"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """A bare guest that has announced itself."""
    image = prepare_bare_image(None, Deadline(PATIENCE))
    ours, theirs = socket.socketpair()
    trace = tmp_path / "trace.log"
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-machine", request.param, "-m", "8"),
        *("-display", "none", "-nodefaults", "-no-user-config", "-nic", "none", "-no-reboot"),
        *("-chardev", f"socket,id=console,fd={theirs.fileno()}", "-serial", "chardev:console"),
        *("-trace", "memory_region_ops_write", "-D", str(trace)),
        *("-kernel", str(image.kernel), "-append", image.command_line(NONCE)),
    ]
    with theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as qemu:
        theirs.close()
        console = Console(ours, tmp_path / "console.log", name="bare")
        guest = AgentGuest(console, nonce=NONCE, hypervisor=(QEMU_TCG, QEMU_KVM))
        try:
            guest.boot(Deadline(PATIENCE))
            yield Machine(guest, qemu, trace)
        finally:
            guest.close()
            qemu.kill()


def test_writes_what_it_is_told_in_order_and_says_when(machine: Machine) -> None:
    """Given a list of writes, a pause and a read: done one after another, the report and the trace agree."""
    before = len(machine.rtc_writes())

    report = machine.guest.run(
        "one", [Write(0x32, 0x20), Pause(0.25), Write(0x09, 0x24), Read(0x0B), Write(0x00, 0x59)], Deadline(PATIENCE)
    )

    assert report.ok and report.complete
    assert [write[:2] for write in report.writes] == [(0x32, 0x20), (0x09, 0x24), (0x00, 0x59)]
    assert report.reads[0][:2] == (0x0B, 0x02), "24 hours, BCD, running: what the firmware leaves"
    assert report.writes[1][2] - report.writes[0][2] >= 250_000_000, "a pause is never shorter"
    assert machine.rtc_writes()[before:] == [write[:2] for write in report.writes]


def test_a_long_list_comes_in_several_commands_and_is_done_in_one_go(machine: Machine) -> None:
    """More writes than one line holds."""
    writes = [Write(0x00, number % 60) for number in range(500)]

    report = machine.guest.run("many", writes, Deadline(PATIENCE))

    assert report.ok
    assert [write[1] for write in report.writes] == [write.value for write in writes]


def test_refuses_what_a_linux_guest_refuses(machine: Machine) -> None:
    """A wrong nonce, another hypervisor, bytes beyond the RTC, what only an operating system can do."""
    guest, console = machine.guest, machine.guest._console
    stranger = AgentGuest(console, nonce="f" * 16, hypervisor=(QEMU_TCG, QEMU_KVM))
    elsewhere = AgentGuest(console, nonce=NONCE, hypervisor=("ACRNACRNACRN",))
    written = machine.rtc_writes()

    with pytest.raises(AgentRefused) as nonce:
        stranger.greet(Deadline(PATIENCE))
    with pytest.raises(AgentRefused) as hypervisor:
        elsewhere.greet(Deadline(PATIENCE))
    unproved = elsewhere.run("unproved", [Write(0, 1)], Deadline(PATIENCE))
    guest.greet(Deadline(PATIENCE))
    with pytest.raises(AgentRefused) as beyond:
        guest.command("run", Deadline(PATIENCE), "2", "w0001", "w3801")
    with pytest.raises(AgentRefused) as hwclock:
        guest.command("hwclock", Deadline(PATIENCE))

    reasons = [refused.value.reason for refused in (nonce, hypervisor, beyond, hwclock)]
    assert reasons == ["nonce", "hypervisor", "index", "command"]
    assert unproved.error and "hello" in unproved.error
    assert machine.rtc_writes() == written, "a refused item writes nothing, not even its acceptable part"


def test_takes_on_another_nonce_from_whoever_knows_its_own(machine: Machine) -> None:
    """Then only the other one is good; what is no nonce is refused."""
    guest = machine.guest
    for word in ("", "0123456789abcde", "0123456789abcdeg", "f" * 80):
        with pytest.raises(AgentRefused) as refused:
            guest.command("adopt", Deadline(PATIENCE), word)
        assert refused.value.reason == "word"
    guest.command("adopt", Deadline(PATIENCE), "f" * 16)
    with pytest.raises(AgentRefused) as refused:
        guest.command("info", Deadline(PATIENCE))
    assert refused.value.reason == "nonce"
    guest._nonce = "f" * 16
    assert guest.command("info", Deadline(PATIENCE))["kernel"] == "bare"


def test_ends_by_itself_when_asked_to(machine: Machine) -> None:
    """Power-off is QEMU's end, with exit code 0."""
    machine.guest.command("poweroff", Deadline(PATIENCE))

    assert machine.qemu.wait(PATIENCE) == 0


def test_it_tells_its_clock_and_what_its_rtc_shows(machine: Machine) -> None:
    sent, guest, received = machine.guest.now(Deadline(PATIENCE))
    assert sent < received and guest > 0
    halted = [(0x0B, 0x82), (0, 0x56), (2, 0x34), (4, 0x12), (7, 0x31), (8, 0x10), (9, 0x29), (0x32, 0x20)]
    report = machine.guest.run("item", [Write(*pair) for pair in halted], Deadline(PATIENCE))
    assert report.grain_ns > 0
    reading = machine.guest.read_rtc(Deadline(PATIENCE))
    assert (reading.time, reading.register_b) == (1_888_144_496, 0x82)
