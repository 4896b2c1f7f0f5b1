"""QEMU's command line for one guest whose RTC writes are watched."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.qemu.accelerator import Accelerator


@dataclass(frozen=True)
class Machine:
    """What the guest's machine is made of.

    memory: MiB; rtc_time: what QEMU's own RTC shows at the start, seconds since 1970 UTC; trace_reads: the
    guest's reads of ports are traced as well as its writes; incoming: it does not boot but waits for a saved state;
    extra: further arguments of the user's, put last.
    """

    binary: str = "qemu-system-x86_64"
    accelerator: Accelerator = "tcg"
    machine: str = "pc"
    memory: int = 96
    cpu: str | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    disk: Path | None = None
    rtc_time: int = 0
    reboot: bool = True
    trace_reads: bool = False
    incoming: bool = False
    extra: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Channels:
    """Descriptors that QEMU inherits: QMP and serial console (sockets), trace (write end of a pipe)."""

    qmp: int
    console: int
    trace: int


def qemu_command(machine: Machine, channels: Channels) -> list[str]:
    """The argument list; descriptors instead of socket files, so that nothing races and nothing is left."""
    base = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(machine.rtc_time))
    command = [
        machine.binary,
        *("-accel", machine.accelerator, "-machine", machine.machine, "-m", str(machine.memory)),
        *("-display", "none", "-nodefaults", "-no-user-config", "-nic", "none"),
        *("-msg", "timestamp=on,guest-name=off", "-rtc", f"base={base},clock=vm"),
        *("-chardev", f"socket,id=qmp,fd={channels.qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={channels.console}", "-serial", "chardev:console"),
        *("-trace", "memory_region_ops_write", "-trace", "resettable_reset", "-trace", "runstate_set"),
        *("-D", f"/dev/fd/{channels.trace}"),
    ]
    if machine.trace_reads:
        command += ["-trace", "memory_region_ops_read"]
    if machine.incoming:
        command += ["-incoming", "defer"]
    if machine.cpu is not None:
        command += ["-cpu", machine.cpu]
    if not machine.reboot:
        command.append("-no-reboot")
    if machine.kernel is not None:
        command += ["-kernel", str(machine.kernel)]
    if machine.initrd is not None:
        command += ["-initrd", str(machine.initrd)]
    if machine.append:
        command += ["-append", machine.append]
    if machine.disk is not None:
        # A user's disk is never written: what a test does to it is gone with the guest.
        disk = str(machine.disk).replace(",", ",,")
        command += ["-drive", f"file={disk},if=virtio,snapshot=on"]
    return [*command, *machine.extra]
