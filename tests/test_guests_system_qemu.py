"""A user's system in a real QEMU, by each kind of agent: brought in, at work, and all given back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from harness.deadline import Deadline
from harness.guests import QEMU_TCG, AgentRefused, GuestDied, Pause, Read, SystemGuest, Write
from harness.guests.login import ENDED, Shell
from harness.guests.steps import Step
from harness.guests.variants import Agents, Variant, prepare_agents
from tests.system_machine import AS_SYSTEMD, CPUID_FILE, PASSWORD, ROOT, SystemMachine, has_port_device, system_machine

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="to make a system takes openssl"),
]

PATIENCE = 120.0
UPDATE = [(0x0B, 0x82), (9, 0x31), (0x32, 0x20), (0x0B, 0x02)]
VARIANTS: list[Variant] = ["c", "python", "shell"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemMachine]:
    """One machine for all: each test leaves it as it found it, somebody may log in."""
    with system_machine(tmp_path_factory.mktemp("machine")) as machine:
        yield machine


@pytest.fixture(scope="module")
def agents() -> Agents:
    """As they are, but that the script asks a file what the processor says."""
    agents = prepare_agents(None, Deadline(PATIENCE))
    asks_a_file = agents.programs["shell"].replace(b"/dev/cpu/0/cpuid", CPUID_FILE.encode())
    return replace(agents, programs={**agents.programs, "shell": asks_a_file})


def guest_of(machine: SystemMachine, agents: Agents, variant: Variant | Literal["auto"] = "auto") -> SystemGuest:
    return SystemGuest(
        machine.console, nonce="0123456789abcdef", hypervisor=[QEMU_TCG], agent=agents, login=ROOT, variant=variant
    )


def ask(machine: SystemMachine, *commands: str) -> list[str]:
    """What a user would be answered who logs in now."""
    shell = Shell(machine.console, ROOT, Deadline(PATIENCE))
    try:
        return [shell.ask(command, Deadline(PATIENCE)) for command in commands]
    finally:
        shell.log_out(Deadline(PATIENCE))


@pytest.mark.parametrize(
    "variant", [pytest.param("c", marks=pytest.mark.soak), "python", "shell"]
)  # the compiled one: test_guests_disk_qemu.py
def test_the_agent_is_brought_in_writes_reads_and_gives_all_back(
    machine: SystemMachine, agents: Agents, variant: Variant
) -> None:
    if variant == "shell" and not has_port_device():
        pytest.skip("the kernel with /dev/port is not in the cache")
    guest, deadline = guest_of(machine, agents, variant), Deadline(PATIENCE)

    guest.boot(deadline)

    facts = guest.facts
    assert (facts["variant"], facts["hypervisor"], facts["shutdown_hwclock"]) == (variant, QEMU_TCG, "busybox")
    assert facts["time_daemons"].startswith("ntpd:")
    seen = len(machine.rtc_writes())
    steps: list[Step] = [*(Write(*pair) for pair in UPDATE[:2]), Pause(0.2), *(Write(*pair) for pair in UPDATE[2:])]
    report = guest.run("item", [*steps, Read(9), Read(0x32)], deadline)
    assert report.ok, report.error
    assert [(index, value) for index, value, _ in report.writes] == UPDATE == machine.rtc_writes()[seen:]
    assert [(index, value) for index, value, _ in report.reads] == [(9, 0x31), (0x32, 0x20)]
    stamps = [stamp for _, _, stamp in report.writes]
    assert stamps[2] - stamps[1] >= 200_000_000
    assert 0 < report.grain_ns < 500_000_000
    sent, guest_ns, received = guest.now(deadline)
    assert stamps[-1] < guest_ns and sent < received
    guest.set_system_time(1_700_000_000, deadline)
    assert guest.hwclock("hwclock", deadline).ok
    reading = guest.read_rtc(deadline)
    assert 1_700_000_000 <= reading.time < 1_700_000_060

    guest.leave(deadline)

    driver, left, terminal, stopped = ask(
        machine,
        "ls /sys/bus/pnp/drivers/rtc_cmos | grep -c 00:",
        "ls -a /run /tmp | grep -c rtc-",
        "stty -a | grep -cw icanon",
        "grep -l '^State:.*T' /proc/[0-9]*/status | wc -l",
    )
    assert (driver, left, terminal, stopped) == ("1", "0", "1", "0")
    assert PASSWORD not in machine.logged()


@pytest.mark.soak
def test_a_guest_that_lets_no_program_be_started_gets_a_script(machine: SystemMachine, agents: Agents) -> None:
    noexec = "for d in /run /dev; do mount -o remount,noexec $d; done; mount -o remount,ro /; echo done"
    assert ask(machine, noexec) == ["done"]
    guest, deadline = guest_of(machine, agents), Deadline(PATIENCE)
    try:
        guest.boot(deadline)
        assert guest.facts["variant"] == "python"
        assert guest.run("item", [Read(0)], deadline).ok
        guest.leave(deadline)
    finally:
        ask(machine, "for d in /run /dev; do mount -o remount,exec $d; done; mount -o remount,rw /; echo done")


@pytest.mark.soak
def test_a_console_of_no_width_and_with_somebody_else_on_it_does(machine: SystemMachine, agents: Agents) -> None:
    line = "echo '[   12.345678] usb 1-1: garbage @> *' >/dev/ttyS0"
    noise = f"(while [ ! -e /run/quiet ]; do {line}; usleep 30000; done) >/dev/null 2>&1 &"
    assert ask(machine, "stty cols 8 rows 2", f"{noise} echo on") == ["", "on"]
    guest, deadline = guest_of(machine, agents), Deadline(PATIENCE)
    try:
        guest.boot(deadline)
        assert guest.facts["variant"] == "c"
        assert all(guest.run(f"item-{number}", [Read(0), Read(2)], deadline).ok for number in range(20))
        guest.leave(deadline)
    finally:
        ask(machine, "touch /run/quiet; stty cols 80 rows 24; sleep 1; rm /run/quiet; echo off")


@pytest.mark.soak  # by what is made up, in test_guests_variants.py
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_driver_that_stays_is_a_reason_to_refuse_and_nothing_is_left_behind(
    machine: SystemMachine, agents: Agents, variant: Variant
) -> None:
    if variant == "shell" and not has_port_device():
        pytest.skip("the kernel with /dev/port is not in the cache")
    ask(machine, "mount -o remount,ro /sys; echo done")
    try:
        with pytest.raises(AgentRefused) as caught:
            guest_of(machine, agents, variant).boot(Deadline(PATIENCE))
        assert caught.value.reason == "other-driver"
    finally:
        stopped, _ = ask(
            machine, "grep -l '^State:.*T' /proc/[0-9]*/status | wc -l", "mount -o remount,rw /sys; echo done"
        )
    assert stopped == "0"


@pytest.mark.soak
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_agent_that_is_ended_gives_back_all_the_same(
    machine: SystemMachine, agents: Agents, variant: Variant
) -> None:
    if variant == "shell" and not has_port_device():
        pytest.skip("the kernel with /dev/port is not in the cache")
    deadline = Deadline(PATIENCE)
    ask(machine, "setsid rtc-ender >/dev/null 2>&1 & echo on")
    guest = guest_of(machine, agents, variant)
    guest.boot(deadline)
    assert guest.facts["rtc_device"].startswith("00:")
    machine.console.wait_for(ENDED, "the agent's end", deadline)
    machine.console.send(b"exit\n", "the shell's end", deadline)
    driver, stopped = ask(
        machine,
        "ls /sys/bus/pnp/drivers/rtc_cmos | grep -c 00:",
        "grep -l '^State:.*T' /proc/[0-9]*/status | wc -l",
    )
    assert (driver, stopped) == ("1", "0")


def powers_off_in_silence(machine: SystemMachine, guest: SystemGuest, deadline: Deadline) -> None:
    """Its init writes nothing to the RTC on the way down."""
    guest.boot(deadline)
    before = machine.rtc_writes()
    guest.power_off(deadline)
    with pytest.raises(GuestDied):
        while True:
            machine.console.check()
            assert not deadline.expired
    assert machine.process.wait(30) == 0
    assert machine.rtc_writes() == before


def test_a_guest_that_powers_itself_off_writes_nothing_on_its_way_down(machine: SystemMachine, agents: Agents) -> None:
    # the last test of the machine: its init would write the RTC at its end
    guest, deadline = guest_of(machine, agents, "python"), Deadline(PATIENCE)
    powers_off_in_silence(machine, guest, deadline)


@pytest.mark.soak
def test_services_are_stopped_and_started_and_a_shutdown_finds_no_hwclock(tmp_path: Path, agents: Agents) -> None:
    with system_machine(tmp_path) as machine:
        deadline = Deadline(PATIENCE)
        assert ask(machine, AS_SYSTEMD) == ["done"]
        for variant in VARIANTS if has_port_device() else VARIANTS[:2]:
            guest = guest_of(machine, agents, variant)
            guest.boot(deadline)
            facts = guest.facts
            assert (facts["time_daemons"], facts["shutdown_hwclock"]) == ("ntpd:ntpd.service", "held"), variant
            assert guest.hwclock("hwclock", deadline).ok
            guest.leave(deadline)
            asked, own, left = ask(
                machine, "cat /run/asked", "grep -c busybox /sbin/hwclock", "rm /run/asked; ls -a /run | grep -c rtc-"
            )
            assert own == "1", "the guest's own hwclock is there again"
            assert left == "0"
            assert "stop ntpd.service" in asked
            assert asked.endswith("start ntpd.service")
        guest = guest_of(machine, agents, "c")
        powers_off_in_silence(machine, guest, deadline)
        assert "The system is going down NOW" in machine.logged()
