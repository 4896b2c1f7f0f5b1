"""A disk image as a user may have one: boots by itself, has a login on its serial console, and a time daemon."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from harness.guests.initramfs import pack
from harness.guests.parts import Kernel

TOOLS = ("syslinux", "mcopy", "mformat", "openssl")
"""Debian's packages syslinux, mtools and openssl."""

PASSWORD = "correct-horse-9"

_START = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc p /proc
mount -t sysfs s /sys
mount -t devtmpfs d /dev
mount -t tmpfs t /run
chown -R tester /home
"""
_INIT = """::sysinit:/etc/start
ttyS0::respawn:/bin/getty -L 115200 ttyS0 vt100
::respawn:/usr/sbin/ntpd
"""
_DAEMON = """#!/bin/busybox sh
while read up idle </proc/uptime; do echo $up >>/run/daemon; usleep 50000; done
"""
_BOOT = """default guest
label guest
kernel vmlinuz
append initrd=initrd console=ttyS0 quiet
"""


def missing_tools() -> list[str]:
    """What is needed to make an image and is not on this machine."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def make_disk_image(folder: Path, kernel: Kernel, busybox: bytes) -> Path:
    """The image: a FAT file system with a boot loader, the kernel, and an initramfs that is all of the system.

    Users: root with PASSWORD, and tester with the same, who is nobody.
    """
    assert kernel.packed is not None
    hashed = _run("openssl", "passwd", "-1", "-salt", "rtc", PASSWORD)
    users = [f"{name}:{hashed}:{number}:{number}::/home:/bin/sh\n" for name, number in (("root", 0), ("tester", 1000))]
    files = {
        "/etc/start": _START.encode(),
        "/etc/inittab": _INIT.encode(),
        "/etc/passwd": "".join(users).encode(),
        "/etc/group": b"root:x:0:\ntester:x:1000:\n",
        "/usr/sbin/ntpd": _DAEMON.encode(),
        "/bin/busybox": busybox,
        "/init": b"#!/bin/busybox sh\nexec /bin/busybox init\n",
        **{f"/{name}/.kept": b"" for name in ("proc", "sys", "dev", "run", "tmp", "home")},
    }
    (folder / "initrd").write_bytes(pack(files))
    (folder / "syslinux.cfg").write_text(_BOOT)
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    _run("mformat", "-i", str(image), "::")
    _run("syslinux", "--install", str(image))
    _run("mcopy", "-i", str(image), str(folder / "initrd"), str(folder / "syslinux.cfg"), "::/")
    _run("mcopy", "-i", str(image), str(kernel.packed), "::/vmlinuz")
    return image


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
