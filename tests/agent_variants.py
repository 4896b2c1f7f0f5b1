"""The agent's three kinds on this very machine, where the processor's answers, the ports and the daemons are made up.

What is replaced is replaced in a copy made for the test: no agent that goes into a guest can be told such things.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.guests import variants

NOBODY = 65534
SOURCES = Path(variants.__file__).parent
HYPERVISOR_BIT = 1 << 31


@dataclass(frozen=True)
class Processor:
    """What CPUID answers: whether there is a hypervisor, its signature, and EAX of leaf 0x40000001."""

    hypervisor: bool
    signature: bytes = b""
    features: int = 0

    def leaf(self, number: int) -> tuple[int, int, int, int]:
        signature = self.signature.ljust(12, b"\0")
        ebx, ecx, edx = (int.from_bytes(signature[at : at + 4], "little") for at in (0, 4, 8))
        return {
            0: (1, 0, 0, 0),
            1: (0, 0, HYPERVISOR_BIT if self.hypervisor else 0, 0),
            0x40000000: (0x40000010, ebx, ecx, edx),
            0x40000001: (self.features, 0, 0, 0),
        }[number]

    def as_device(self, path: Path) -> None:
        """A file from which dd reads what it would from /dev/cpu/0/cpuid."""
        with path.open("wb") as file:
            for at, number in ((0, 0), (16, 1), (0x40000000, 0x40000000), (0x40000010, 0x40000001)):
                file.seek(at)
                file.write(b"".join(word.to_bytes(4, "little") for word in self.leaf(number)))

    def as_macro(self) -> str:
        """What gcc is told instead of the instruction."""
        leaves = [(number, self.leaf(number)) for number in (1, 0x40000000, 0x40000001)]
        registers = (
            f"{name} = " + "".join(f"(l) == {number:#x} ? {values[at]:#x}u : " for number, values in leaves) + "0"
            for at, name in enumerate("abcd")
        )
        return f"CPUID(l, a, b, c, d)=({', '.join(registers)})"


LAPTOP = Processor(False, b"GenuineIntel")
SERVICE_VM = Processor(True, b"ACRNACRNACRN", 1)
USER_VM = Processor(True, b"ACRNACRNACRN", 0)
OTHER = Processor(True, b"VMwareVMware", 1)


@dataclass(frozen=True)
class Pretence:
    """What the agent finds.

    ports: a file instead of the ports ("": none). root: whether it takes itself for root. kernel_log: what the kernel
    has said, where there is no device for CPUID. hsm: whether there is ACRN's device of the Service VM.
    """

    processor: Processor = USER_VM
    ports: str = ""
    root: bool = False
    lockdown: str = ""
    ioports: str = ""
    kernel_log: str | None = None
    hsm: bool = False


SHELLS = {"dash": ["dash"], "busybox": ["busybox", "ash"], "bash": ["bash", "--posix"]}


def agent_command(variant: str, pretence: Pretence, folder: Path) -> list[str]:
    """How the agent is started, without its nonce."""
    folder.chmod(0o755)
    for name in ("lockdown", "ioports"):
        (folder / name).write_text(getattr(pretence, name))
    if variant == "c":
        (folder / "agent").write_bytes(_compiled(pretence.processor))
        (folder / "agent").chmod(0o755)
        return [str(folder / "agent")]
    if variant == "python":
        return [sys.executable, str(_python_start(pretence, folder))]
    return [*SHELLS[variant], str(_script(pretence, folder))]


@functools.cache
def _compiled(processor: Processor) -> bytes:
    sources = [*map(str, sorted(SOURCES.glob("agent*.c"))), str(SOURCES / "small_libc.c")]
    with tempfile.NamedTemporaryFile() as made:
        command = [
            *("gcc", "-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic", "-fno-stack-protector", "-Os"),
            *("-U_FORTIFY_SOURCE", "-std=gnu11", f"-D{processor.as_macro()}", "-o", made.name),
        ]
        subprocess.run([*command, *sources, str(SOURCES / "bare" / "bare_libc.c")], check=True)
        return Path(made.name).read_bytes()


def _python_start(pretence: Pretence, folder: Path) -> Path:
    archive, start = folder / "agent.pyz", folder / "start.py"
    archive.write_bytes(variants.python_agent())
    leaves = {number: pretence.processor.leaf(number) for number in (1, 0x40000000, 0x40000001)}
    start.write_text(
        f"import sys\nsys.path.insert(0, {str(archive)!r})\n"
        "from harness.guests.agent_python import __main__, machine, others\n"
        f"machine.cpuid = {leaves!r}.__getitem__\n"
        f"machine.PORT_DEVICE = {pretence.ports or str(folder / 'none')!r}\n"
        f"machine.LOCKDOWN = {str(folder / 'lockdown')!r}\n"
        f"others.PORTS = {str(folder / 'ioports')!r}\n"
        "others.DAEMONS, others.HWCLOCKS, others.DRIVERS = ('rtc-test-ntpd',), (), ()\n"
        + (
            "machine.os.geteuid = lambda: 0\nmachine.code = lambda *words: machine.os.stat('/none')\n"
            if pretence.root
            else ""
        )
        + "import ctypes, os\nif os.getuid() == 0:\n    os.setgid(65534)\n    os.setuid(65534)\n"
        + "__main__.main()\n"
    )
    return start


def _script(pretence: Pretence, folder: Path) -> Path:
    if pretence.kernel_log is None:
        pretence.processor.as_device(folder / "cpuid")
    (folder / "kernel-log").write_text(pretence.kernel_log or "")
    if pretence.hsm:
        (folder / "hsm").touch()
    (folder / "cpuinfo").write_text("flags : fpu hypervisor\n" if pretence.processor.hypervisor else "flags : fpu\n")
    text = variants.shell_agent().decode()
    for old, new in (
        ("port=/dev/port", f"port={pretence.ports or folder / 'none'}"),
        ("cpuid=/dev/cpu/0/cpuid", f"cpuid={folder / 'cpuid'}"),
        ("cpuinfo=/proc/cpuinfo", f"cpuinfo={folder / 'cpuinfo'}"),
        ("hsm=/dev/acrn_hsm", f"hsm={folder / 'hsm'}"),
        ("lockdown=/sys/kernel/security/lockdown", f"lockdown={folder / 'lockdown'}"),
        (" /proc/ioports", f" {folder / 'ioports'}"),
        ("daemons=' chronyd ntpd", "daemons=' rtc-test-ntpd"),
        ("ntpsec systemd-timesyn ptp4l phc2sys timemaster sntp ntp-daemon htpdate", ""),
        ("in /sbin/hwclock /usr/sbin/hwclock /bin/hwclock /usr/bin/hwclock", "in"),
        ("drivers='/sys/bus/pnp/drivers/rtc_cmos /sys/bus/platform/drivers/rtc_cmos'", "drivers=''"),
        ("timedatectl show", "false show"),
        ("modprobe cpuid >", "false >"),
        ("$(dmesg 2", f"$(cat {folder / 'kernel-log'} 2"),
        *([("user=$(id -u)", "user=0")] if pretence.root else []),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "agent.sh"
    path.write_text(text)
    return path


@contextmanager
def running(variant: str, pretence: Pretence, nonce: str, folder: Path) -> Iterator[socket.socket]:
    """Our end of the console of an agent that was started as nobody: one with a fault must not harm this machine."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [*agent_command(variant, pretence, folder), f"rtc.nonce={nonce}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                user=NOBODY if os.geteuid() == 0 and variant != "python" else os.geteuid(),
                cwd="/",
            )
        try:
            yield ours
        finally:
            process.kill()
            process.wait()
