"""Asks a QEMU binary what it is."""

from __future__ import annotations

import re
import shutil
import subprocess

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError

INSTALL = "install QEMU (Debian, Ubuntu: apt-get install qemu-system-x86), or name its binary in the bench file"


def find_qemu(binary: str) -> str:
    """The path of a QEMU binary; raises ConfigurationError, with how to get it, where there is none."""
    found = shutil.which(binary)
    if found is None:
        raise ConfigurationError(f"no QEMU binary {binary!r} on this machine", hint=INSTALL)
    return found


def qemu_version(binary: str, deadline: Deadline) -> str:
    """The version, such as `7.2.22`.

    Raises ConfigurationError where there is no such binary, InfrastructureError where it does not say.
    """
    command = [find_qemu(binary), "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline.remaining, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfrastructureError(f"{binary} --version: {error}", awaited="QEMU's version") from error
    version = re.search(r"version (\d+(?:\.\d+)+)", done.stdout)
    if done.returncode or version is None:
        raise InfrastructureError(
            f"{binary} does not tell its version (exit {done.returncode})",
            last_lines=(done.stdout + done.stderr).splitlines()[-5:],
        )
    return version[1]
