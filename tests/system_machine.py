"""A machine with a user's system in it: a login on the serial console, a Python of this machine's, a time daemon."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.guests.cache import Cache, default_cache_dir
from harness.guests.console import Console
from harness.guests.initramfs import pack
from harness.guests.login import Login
from harness.guests.parts import fetched_kernel, has_kernel, static_busybox

PASSWORD = "correct-horse-9"
ROOT = Login("root", PASSWORD)
CPUID_FILE = "/run/cpuid"
"""Where the machine has what its processor answers: its kernel has no device for it without a module."""

_START = """#!/bin/busybox sh
/bin/busybox --install -s /bin
ln -s /bin/busybox /sbin/hwclock
mount -t proc p /proc
mount -t sysfs s /sys
mount -t devtmpfs d /dev
mount -t tmpfs t /run
touch {cpuid}
leaf() {{ printf "$2" | dd of={cpuid} bs=16 seek=$1 conv=notrunc 2>/dev/null; }}
leaf 1 '\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\200\\0\\0\\0\\0'
leaf 67108864 '\\1\\0\\0\\100TCGTCGTCGTCG'
leaf 67108865 '\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0'
"""
_INIT = """::sysinit:/etc/start
ttyS0::respawn:/bin/getty -L 115200 ttyS0 vt100
::respawn:/usr/sbin/ntpd
::shutdown:/sbin/hwclock -w -u
"""
_SYSTEMCTL = """#!/bin/sh
echo "$@" >>/run/asked
[ "$1" = is-system-running ] && echo running
exit 0
"""
_HWCLOCK = """#!/bin/sh
for word; do [ "$word" = --noadjfile ] || words="$words $word"; done
exec busybox hwclock $words
"""
_ENDER = """#!/bin/sh
agents() { grep -l 'rtc[.]nonce=' /proc/[0-9]*/cmdline 2>/dev/null; }
while [ -z "$(agents)" ]; do sleep 1; done
sleep 8
for path in $(agents); do folder=${path%/cmdline}; kill -TERM ${folder#/proc/}; done
"""
AS_SYSTEMD = (
    "mkdir -p /run/systemd/system; mount -t cgroup2 c /sys/fs/cgroup; mkdir /sys/fs/cgroup/ntpd.service; "
    "pidof ntpd >/sys/fs/cgroup/ntpd.service/cgroup.procs; mv /bin/rtc-systemctl /bin/systemctl; "
    "rm /bin/hwclock /sbin/hwclock; mv /bin/rtc-hwclock /sbin/hwclock; echo done"
)
"""What makes the machine look like one with systemd, and with a hwclock of its own that is no busybox's."""

_DAEMON = """#!/bin/busybox sh
while read up idle </proc/uptime; do echo $up >>/run/daemon; usleep 50000; done
"""
_USED_BY_THE_AGENT = (
    "__future__, typing, collections.abc, binascii, ctypes, gc, mmap, platform, select, signal, struct, subprocess, "
    "termios, tty, sys, runpy, pkgutil, zipimport, zipfile, encodings.idna, encodings.latin_1, encodings.cp437"
)


def python_files() -> dict[str, bytes]:
    """The Python that runs these tests, as far as the agent needs it: interpreter, modules, libraries."""
    code = f"import {_USED_BY_THE_AGENT}\nfor module in list(sys.modules.values()):\n"
    code += "    if getattr(module, '__file__', None): print(module.__file__)"
    listed = subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code], check=True, capture_output=True, text=True)
    interpreter = os.path.realpath(sys.executable)
    paths = {interpreter, *listed.stdout.split()}
    for path in [path for path in paths if path == interpreter or path.endswith(".so")]:
        output = subprocess.run(["ldd", path], check=False, capture_output=True, text=True).stdout
        paths |= set(re.findall(r"(/\S+) \(0x", output))
    files = {path: Path(path).read_bytes() for path in paths}
    return files | {"/usr/bin/python3": f'#!/bin/busybox sh\nexec {interpreter} -S "$@"\n'.encode()}


@dataclass
class SystemMachine:
    """A machine that is up."""

    console: Console
    trace: Path
    process: subprocess.Popen[bytes]

    def logged(self) -> str:
        """All that has been logged of the console."""
        log = self.console.log_path
        return (log.read_bytes() + log.with_suffix(".raw").read_bytes()).decode("utf-8", "replace")

    def rtc_writes(self) -> list[tuple[int, int]]:
        """(index, value) of every write to the RTC so far."""
        index, writes = 0, []
        for match in re.finditer(r"ops_write .* value 0x(\w+) size 1 name '(rtc|rtc-index)'", self.trace.read_text()):
            if match[2] == "rtc-index":
                index = int(match[1], 16) & 0x7F
            else:
                writes.append((index, int(match[1], 16)))
        return writes


def has_port_device() -> bool:
    """Whether there is a kernel in the cache that has /dev/port; Debian's for virtual machines has none."""
    return has_kernel(Cache(default_cache_dir()), "debian-standard")


def system_image(folder: Path) -> Path:
    """Makes its `initrd` in a folder; returns the kernel that goes with it."""
    cache, deadline = Cache(default_cache_dir()), Deadline(120)
    kernel = fetched_kernel(cache, deadline, "debian-standard" if has_port_device() else None)
    hashed = subprocess.run(
        ["openssl", "passwd", "-1", "-salt", "rtc", PASSWORD], check=True, capture_output=True, text=True
    ).stdout.strip()
    files = {
        "/etc/start": _START.format(cpuid=CPUID_FILE).encode(),
        "/etc/inittab": _INIT.encode(),
        "/etc/passwd": f"root:{hashed}:0:0::/root:/bin/sh\n".encode(),
        "/etc/group": b"root:x:0:\n",
        "/usr/sbin/ntpd": _DAEMON.encode(),
        "/bin/busybox": static_busybox(cache, deadline),
        "/bin/rtc-systemctl": _SYSTEMCTL.encode(),
        "/bin/rtc-ender": _ENDER.encode(),
        "/bin/rtc-hwclock": _HWCLOCK.encode(),
        "/sbin/.kept": b"",
        "/init": b"#!/bin/busybox sh\nexec /bin/busybox init\n",
        **{f"/{name}/.kept": b"" for name in ("proc", "sys", "dev", "run", "tmp", "root")},
        **python_files(),
    }
    (folder / "initrd").write_bytes(pack(files))
    return kernel.path


@contextmanager
def started(folder: Path, memory: int, *boot: str) -> Iterator[SystemMachine]:
    """A machine that boots what QEMU's arguments `boot` say, with its console and its RTC watched."""
    ours, theirs = socket.socketpair()
    trace = folder / "trace.log"
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-m", str(memory)),
        *("-display", "none", "-nodefaults", "-no-user-config", "-nic", "none", "-no-reboot"),
        *("-trace", "memory_region_ops_write", "-D", str(trace)),
        *("-chardev", f"socket,id=s0,fd={theirs.fileno()}", "-serial", "chardev:s0"),
        *boot,
    ]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as qemu:
        theirs.close()
        console = Console(ours, folder / "console.log", name="mine")
        try:
            yield SystemMachine(console, trace, qemu)
        finally:
            console.close()
            qemu.kill()


@contextmanager
def system_machine(folder: Path, *, append: str = "") -> Iterator[SystemMachine]:
    """One that boots; somebody may log in."""
    kernel = system_image(folder)
    arguments = f"console=ttyS0 quiet loglevel=1 clocksource=hpet cryptomgr.notests nolapic {append}"
    boot = ("-kernel", str(kernel), "-initrd", str(folder / "initrd"), "-append", arguments)
    with started(folder, 256, "-rtc", "base=2024-06-15T12:00:00,clock=vm", *boot) as machine:
        yield machine
