"""Which accelerator QEMU can really use here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

Accelerator = Literal["kvm", "tcg"]


def choose_accelerator(
    wish: Literal["auto", "kvm", "tcg"] = "auto",
    *,
    device: Path = Path("/dev/kvm"),
    cpuinfo: Path = Path("/proc/cpuinfo"),
) -> Accelerator:
    """The accelerator to use; `auto` takes KVM only where it can work.

    A `/dev/kvm` that opens is not enough: without vmx or svm among the CPU's flags it is a software KVM
    that never gets through the firmware.
    """
    if wish != "auto":
        return wish
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))  # a node without a driver has the rights and opens not
        flags = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return "tcg"
    return "kvm" if re.search(r"^flags\s*:.*\b(vmx|svm)\b", flags, re.MULTILINE) else "tcg"
