"""A real Linux guest in QEMU: what the agent reports is what QEMU saw at the ports, and it refuses what it must."""

from __future__ import annotations

import itertools
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.guests import (
    ACRN,
    QEMU_TCG,
    AgentRefused,
    AgentRestarted,
    Console,
    ConsoleClosed,
    GuestDied,
    GuestImage,
    ImageSpec,
    LinuxGuest,
    Pause,
    Read,
    Write,
    prepare_image,
)
from harness.guests.steps import Step

pytestmark = pytest.mark.qemu

NONCE = "0123456789abcdef"
PATIENCE = 120.0
_PORT_WRITE = re.compile(r"memory_region_ops_write .* value 0x([0-9a-f]+) size 1 name '(rtc-index|rtc)'$")

HALTED_UPDATE: list[Step] = [
    Write(0x0B, 0x82),
    *(Write(index, value) for index, value in [(9, 0x25), (0, 0x30), (7, 0x20), (0x32, 0x20), (2, 1), (8, 7), (4, 3)]),
    Write(0x0B, 0x02),
]


class Machine:
    """A QEMU with a Linux guest, its agent, and QEMU's trace of port writes."""

    def __init__(self, image: GuestImage, folder: Path, machine: str, *arguments: str) -> None:
        self.trace = folder / "trace.log"
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [
                    *("qemu-system-x86_64", "-accel", "tcg", "-machine", machine, "-m", "96"),
                    *("-display", "none", "-nodefaults", "-no-user-config", "-nic", "none"),
                    *("-rtc", "base=2024-06-15T12:00:00,clock=vm", "-msg", "timestamp=on,guest-name=off"),
                    *("-trace", "memory_region_ops_write", "-D", str(self.trace)),
                    *("-chardev", f"socket,id=s0,fd={theirs.fileno()}", "-serial", "chardev:s0"),
                    *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
                    *("-append", image.command_line(NONCE), *arguments),
                ],
                pass_fds=[theirs.fileno()],
            )
        self.console = Console(ours, folder / "console.log", name=machine)
        self.guest = LinuxGuest(self.console, nonce=NONCE, hypervisor=[QEMU_TCG])

    def register_writes(self) -> list[tuple[int, int]]:
        """What QEMU saw written to the RTC so far, as (index, value)."""
        index, writes = 0, []
        for line in self.trace.read_text().splitlines():
            if match := _PORT_WRITE.search(line):
                if match[2] == "rtc-index":
                    index = int(match[1], 16)
                else:
                    writes.append((index, int(match[1], 16)))
        return writes


@contextmanager
def running(image: GuestImage, folder: Path, machine: str, *arguments: str) -> Iterator[Machine]:
    qemu = Machine(image, folder, machine, *arguments)
    try:
        qemu.guest.boot(Deadline(PATIENCE))
        yield qemu
    finally:
        qemu.guest.close()
        qemu.process.kill()
        qemu.process.wait()


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return prepare_image(ImageSpec(), None, Deadline(PATIENCE))


@pytest.fixture(scope="module")
def booted(image: GuestImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with running(image, tmp_path_factory.mktemp("pc"), "pc", "-no-reboot") as qemu:
        yield qemu


@pytest.fixture
def pc(booted: Machine) -> Machine:
    """The running guest, greeted anew, whatever the test before did to it."""
    booted.guest.greet(Deadline(PATIENCE))
    return booted


def test_the_agent_says_where_it_is(pc: Machine, image: GuestImage) -> None:
    assert pc.guest.facts["hypervisor"] == QEMU_TCG
    assert pc.guest.facts["kernel"] == image.versions["kernel"]
    assert pc.guest.command("info", Deadline(PATIENCE))["agent"] == "1"


def test_the_report_is_what_qemu_saw_at_the_ports(pc: Machine) -> None:
    before = len(pc.register_writes())
    report = pc.guest.run("item-1", HALTED_UPDATE, Deadline(PATIENCE))
    assert (report.item, report.ok, report.error, report.complete) == ("item-1", True, None, True)
    asked = [(step.index, step.value) for step in HALTED_UPDATE if isinstance(step, Write)]
    assert [(index, value) for index, value, _ in report.writes] == asked
    assert pc.register_writes()[before:] == asked
    stamps = [stamp for _, _, stamp in report.writes]
    assert stamps == sorted(stamps)
    assert report.start_ns < report.end_ns


def test_what_was_written_is_read_back(pc: Machine) -> None:
    steps = [*HALTED_UPDATE, *(Read(index) for index in (9, 7, 0x32, 8, 4))]
    report = pc.guest.run("item", steps, Deadline(PATIENCE))
    assert [(index, value) for index, value, _ in report.reads] == [(9, 0x25), (7, 0x20), (0x32, 0x20), (8, 7), (4, 3)]


def test_the_guests_clock_is_told_between_two_of_ours(pc: Machine) -> None:
    earlier, later = pc.guest.now(Deadline(PATIENCE)), pc.guest.now(Deadline(PATIENCE))
    assert earlier[0] < earlier[2] <= later[0] + 1 < later[2]
    # what the guest's clock says has passed is what can have passed here
    assert later[0] - earlier[2] <= later[1] - earlier[1] <= later[2] - earlier[0] + 1_000_000


def test_what_the_rtc_shows_is_read_in_any_format(pc: Machine) -> None:
    deadline = Deadline(PATIENCE)
    bcd = [(0, 0x56), (2, 0x34), (4, 0x12), (7, 0x31), (8, 0x10), (9, 0x29), (0x32, 0x20)]
    binary_12 = [(0, 56), (2, 34), (4, 0x80 | 12), (7, 31), (8, 10), (9, 29), (0x32, 20)]
    for register_b, values in ((0x82, bcd), (0x84, binary_12)):
        pc.guest.run("set", [Write(0x0B, register_b), *(Write(*pair) for pair in values)], deadline)
        reading = pc.guest.read_rtc(deadline)
        assert (reading.time, reading.register_b) == (1_888_144_496, register_b)
        assert reading.sent_ns < reading.received_ns
    pc.guest.run("broken", [Write(7, 31), Write(8, 2)], deadline)
    assert pc.guest.read_rtc(deadline).time == -1
    pc.guest.run("mended", [Write(0x0B, 0x82), *(Write(*pair) for pair in bcd), Write(0x0B, 2)], deadline)
    assert 1_888_144_496 <= pc.guest.read_rtc(deadline).time < 1_888_144_600


def test_a_kernel_that_is_locked_down_is_a_reason_of_its_own_to_refuse(image: GuestImage, tmp_path: Path) -> None:
    locked = replace(image, append=f"{image.append} lockdown=integrity")
    qemu = Machine(locked, tmp_path, "pc", "-no-reboot")
    try:
        with pytest.raises(AgentRefused) as caught:
            qemu.guest.boot(Deadline(PATIENCE))
        assert caught.value.reason == "lockdown"
        assert qemu.guest.now(Deadline(PATIENCE))[1] > 0  # its clock is nobody's secret
    finally:
        qemu.guest.close()
        qemu.process.kill()
        qemu.process.wait()


def test_each_item_says_how_well_its_stamps_are_known(pc: Machine) -> None:
    assert 0 < pc.guest.run("item", HALTED_UPDATE, Deadline(PATIENCE)).grain_ns < 1_000_000_000


def test_pauses_are_made_in_the_guest_and_never_too_short(pc: Machine) -> None:
    pauses = [0.0, 0.0005, 0.01, 0.05]
    steps = [step for pause in pauses for step in (Write(0, 1), Pause(pause))]
    report = pc.guest.run("item", [*steps, Write(0, 2)], Deadline(PATIENCE))
    stamps = [stamp for _, _, stamp in report.writes]
    gaps = [(later - earlier) / 1e9 for earlier, later in itertools.pairwise(stamps)]
    assert all(gap >= pause for gap, pause in zip(gaps, pauses, strict=True))
    assert (report.end_ns - report.start_ns) / 1e9 >= sum(pauses)


def test_an_item_of_many_steps_arrives_whole(pc: Machine) -> None:
    asked = [(number % 0x0A, number % 0x60) for number in range(400)]
    before = len(pc.register_writes())
    report = pc.guest.run("item", [Write(*pair) for pair in asked], Deadline(PATIENCE))
    assert [(index, value) for index, value, _ in report.writes] == asked
    assert pc.register_writes()[before:] == asked


def test_kernel_messages_in_between_harm_no_item_and_repeat_no_write(pc: Machine) -> None:
    before = len(pc.register_writes())
    for _ in range(8):
        pc.guest.command("noise", Deadline(PATIENCE), "40")
        report = pc.guest.run("item", HALTED_UPDATE * 20, Deadline(PATIENCE))
        assert report.ok
    assert len(pc.register_writes()) - before == 8 * 20 * len(HALTED_UPDATE)
    raw = (pc.console.log_path.with_suffix(".raw")).read_bytes()
    assert raw.count(b"noise: ") > 8


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("1", "w3801"), "index"),
        (("1", "r7f"), "index"),
        (("1", "wb801"), "index"),
        (("1", "rb8"), "index"),
        (("2", "w0001", "w3f01"), "index"),
        (("1", "w000100"), "step"),
        (("1", "o7000"), "step"),
        (("1", "p700000000"), "step"),
        (("2", "w0001"), "count"),
        ((), "count"),
    ],
)
def test_an_unacceptable_item_is_refused_whole(pc: Machine, words: tuple[str, ...], reason: str) -> None:
    before = pc.register_writes()
    with pytest.raises(AgentRefused) as caught:
        pc.guest.command("run", Deadline(PATIENCE), *words)
    assert caught.value.reason == reason
    assert pc.register_writes() == before


@pytest.mark.parametrize("words", [(), ("noon",), ("12x",)])
def test_a_system_time_that_is_none_is_refused(pc: Machine, words: tuple[str, ...]) -> None:
    with pytest.raises(AgentRefused) as caught:
        pc.guest.command("clock", Deadline(PATIENCE), *words)
    assert caught.value.reason == "clock"


def test_another_guests_nonce_is_refused(pc: Machine) -> None:
    before = pc.register_writes()
    stranger = LinuxGuest(pc.console, nonce="fedcba9876543210", hypervisor=[QEMU_TCG])
    with pytest.raises(AgentRefused) as caught:
        stranger.greet(Deadline(PATIENCE))
    assert caught.value.reason == "nonce"
    pc.guest.greet(Deadline(PATIENCE))
    with pytest.raises(AgentRefused, match="nonce"):
        LinuxGuest(pc.console, nonce="", hypervisor=[QEMU_TCG]).greet(Deadline(PATIENCE))
    assert pc.register_writes() == before


def test_another_hypervisor_than_the_bench_names_is_refused(pc: Machine) -> None:
    before = pc.register_writes()
    elsewhere = LinuxGuest(pc.console, nonce=NONCE, hypervisor=[ACRN])
    with pytest.raises(AgentRefused, match=QEMU_TCG) as caught:
        elsewhere.greet(Deadline(PATIENCE))
    assert caught.value.reason == "hypervisor"
    report = elsewhere.run("item", HALTED_UPDATE, Deadline(PATIENCE))
    assert not report.ok
    assert "hello" in str(report.error)
    assert pc.register_writes() == before


def test_hwclock_writes_the_guests_system_time_through_linux_and_the_agent_has_the_rtc_back(pc: Machine) -> None:
    before = len(pc.register_writes())
    pc.guest.set_system_time(1_700_000_000, Deadline(PATIENCE))
    report = pc.guest.hwclock("hw", Deadline(PATIENCE))
    assert (report.ok, report.error, report.complete, report.writes) == (True, None, False, ())
    written = dict(pc.register_writes()[before:])
    assert (written[9], written[8], written[7], written[4]) == (0x23, 0x11, 0x14, 0x22)
    assert pc.guest.run("item", HALTED_UPDATE, Deadline(PATIENCE)).ok
    assert pc.guest.hwclock("again", Deadline(PATIENCE)).ok


def test_closing_from_another_thread_ends_a_wait_for_a_long_item(
    image: GuestImage, tmp_path: Path, booted: Machine
) -> None:
    with running(image, tmp_path, "pc", "-no-reboot") as qemu:
        closer = threading.Timer(0, qemu.guest.close)
        closer.start()
        with pytest.raises(ConsoleClosed):
            qemu.guest.run("item", [Write(0, 1), Pause(300.0)], Deadline(PATIENCE))
        closer.join()


def test_q35_boots_restarts_and_dies_by_name(image: GuestImage, tmp_path: Path) -> None:
    with running(image, tmp_path, "q35") as qemu:
        assert qemu.guest.run("first", HALTED_UPDATE, Deadline(PATIENCE)).ok

        qemu.guest.command("reboot", Deadline(PATIENCE))
        with pytest.raises(AgentRestarted):
            qemu.guest.run("lost", HALTED_UPDATE, Deadline(PATIENCE))

        qemu.guest.greet(Deadline(PATIENCE))
        before = len(qemu.register_writes())
        assert qemu.guest.hwclock("century", Deadline(PATIENCE)).ok
        assert dict(qemu.register_writes()[before:])[0x32] == 0x20

        qemu.guest.command("panic", Deadline(PATIENCE))
        with pytest.raises(GuestDied, match="Kernel panic - not syncing: sysrq triggered crash"):
            qemu.guest.run("never", HALTED_UPDATE, Deadline(PATIENCE))
