"""The command line that QEMU gets."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from harness.qemu.arguments import Channels, Machine, qemu_command

CHANNELS = Channels(qmp=7, console=8, trace=9)


def options(machine: Machine) -> list[tuple[str, str]]:
    """Each option with the word behind it."""
    return list(itertools.pairwise([*qemu_command(machine, CHANNELS), ""]))


def test_nothing_that_a_user_or_a_distribution_configured_gets_into_the_machine() -> None:
    command = qemu_command(Machine(), CHANNELS)
    assert command[0] == "qemu-system-x86_64"
    assert {"-nodefaults", "-no-user-config"} <= set(command)
    assert {("-display", "none"), ("-nic", "none"), ("-accel", "tcg")} <= set(options(Machine()))


def test_every_channel_is_an_inherited_descriptor_and_no_file() -> None:
    found = options(Machine())
    assert ("-chardev", "socket,id=qmp,fd=7") in found and ("-mon", "chardev=qmp,mode=control") in found
    assert ("-chardev", "socket,id=console,fd=8") in found and ("-serial", "chardev:console") in found
    assert ("-D", "/dev/fd/9") in found


def test_trace_lines_have_stamps_and_tell_of_writes_resets_and_the_first_run() -> None:
    found = options(Machine())
    assert ("-msg", "timestamp=on,guest-name=off") in found
    traced = {value for option, value in found if option == "-trace"}
    assert traced == {"memory_region_ops_write", "resettable_reset", "runstate_set"}
    assert ("-trace", "memory_region_ops_read") in options(Machine(trace_reads=True)), "reads where they are asked for"
    assert "-d" not in qemu_command(Machine(), CHANNELS), "QEMU glues lines together when its log is on as well"


@pytest.mark.parametrize(
    ("seconds", "base"),
    [
        (0, "1970-01-01T00:00:00"),
        (1_718_452_800, "2024-06-15T12:00:00"),
        (951_782_399, "2000-02-28T23:59:59"),
        (4_102_444_799, "2099-12-31T23:59:59"),
    ],
)
def test_qemus_own_rtc_begins_in_utc_and_ticks_with_the_guest(seconds: int, base: str) -> None:
    assert ("-rtc", f"base={base},clock=vm") in options(Machine(rtc_time=seconds))


def test_a_plain_machine_has_no_option_that_nobody_asked_for() -> None:
    unwanted = {"-cpu", "-no-reboot", "-kernel", "-initrd", "-append", "-drive"}
    assert not unwanted & set(qemu_command(Machine(), CHANNELS))


def test_what_was_asked_for_is_passed_on_and_the_users_own_arguments_come_last() -> None:
    machine = Machine(
        *("/opt/qemu", "kvm", "q35", 128, "host"),
        kernel=Path("/k"),
        initrd=Path("/i"),
        append="console=ttyS0 quiet",
        reboot=False,
        extra=("-device", "edu"),
    )
    command, found = qemu_command(machine, CHANNELS), options(machine)
    assert command[0] == "/opt/qemu" and command[-2:] == ["-device", "edu"]
    assert {("-accel", "kvm"), ("-machine", "q35"), ("-m", "128"), ("-cpu", "host")} <= set(found)
    assert {("-kernel", "/k"), ("-initrd", "/i"), ("-append", "console=ttyS0 quiet")} <= set(found)
    assert "-no-reboot" in command


def test_a_users_disk_is_never_written_and_may_have_a_comma_in_its_name() -> None:
    machine = Machine(disk=Path("/disks/a,b.img"))
    assert ("-drive", "file=/disks/a,,b.img,if=virtio,snapshot=on") in options(machine)
