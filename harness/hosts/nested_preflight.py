"""Whether this machine can run ACRN in QEMU, and if not, exactly why and what mends it. Nothing is started for it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.bench import NestedHostSpec
from harness.errors import ConfigurationError
from harness.qemu.version import INSTALL, find_qemu

QEMU = "qemu-system-x86_64"

_QEMUS_OWN = 256
"""MiB that QEMU takes besides the machine's memory."""

_ACRN = "ACRN"


@dataclass(frozen=True)
class Obstacle:
    """One thing that stands in the way, and how it is mended."""

    problem: str
    mend: str


@dataclass(frozen=True)
class Places:
    """Where this machine tells of itself; elsewhere in tests."""

    cpuinfo: Path = Path("/proc/cpuinfo")
    meminfo: Path = Path("/proc/meminfo")
    modules: Path = Path("/sys/module")
    kvm: Path = Path("/dev/kvm")


def obstacles(spec: NestedHostSpec, places: Places | None = None) -> list[Obstacle]:
    """All that stands in the way of the bench's machine; empty: it can be tried."""
    places = places or Places()
    found = [*_qemu(spec)]
    if spec.accelerator == "kvm":
        found += [*_processor(places), *_device(places.kvm)]
    elif spec.detects is not None and _ACRN in spec.detects:
        found.append(
            Obstacle(
                "accelerator is tcg, QEMU's own emulation, which has no VMX: ACRN cannot start there",
                "accelerator: kvm; tcg is for rehearsals, whose `detects` asks for something else",
            )
        )
    return [*found, *_memory(spec, places.meminfo)]


def require(spec: NestedHostSpec, places: Places | None = None) -> None:
    """Raises ConfigurationError naming every obstacle, each with how to mend it."""
    found = obstacles(spec, places)
    if found:
        several = len(found) > 1
        problems = "; ".join(f"({number}) {each.problem}" if several else each.problem for number, each in _told(found))
        mends = "; ".join(f"({number}) {each.mend}" if several else each.mend for number, each in _told(found))
        raise ConfigurationError(f"this machine cannot run the bench's machine: {problems}", hint=mends)


def _told(found: list[Obstacle]) -> Iterator[tuple[int, Obstacle]]:
    return enumerate(found, 1)


def _qemu(spec: NestedHostSpec) -> Iterator[Obstacle]:
    try:
        find_qemu(str(spec.qemu or QEMU))
    except ConfigurationError as error:
        yield Obstacle(error.problem, INSTALL)


def _processor(places: Places) -> Iterator[Obstacle]:
    """VMX, and KVM willing to hand it on with EPT."""
    text = _read(places.cpuinfo)
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    words = set(flags[1].split()) if flags else set()
    if "vmx" not in words:
        if "svm" in words:
            yield Obstacle("this is an AMD processor (svm), and ACRN needs an Intel one (vmx)", "use another machine")
        elif "hypervisor" in words:
            yield Obstacle(
                "the processor shows no VMX, and this machine is a virtual one itself",
                "have its host expose VMX to it (nested virtualization: for KVM `-cpu host` and kvm_intel nested=1),"
                " or use a physical machine",
            )
        else:
            yield Obstacle(
                "the processor shows no VMX", "switch Intel VT-x on in the firmware's setup; or use another machine"
            )
        return  # without it there is no kvm_intel either
    folder = places.modules / "kvm_intel"
    if not folder.is_dir():
        yield Obstacle(
            "the kernel module kvm_intel is not loaded",
            "as root: modprobe kvm_intel nested=1 ('Operation not supported': the firmware has VT-x off)",
        )
        return
    if _parameter(folder, "nested") is False:
        yield Obstacle(
            "kvm_intel does not hand VMX on to its guests (/sys/module/kvm_intel/parameters/nested is not Y)",
            "as root, with no virtual machine running: modprobe -r kvm_intel && modprobe kvm_intel nested=1;"
            " for good: echo 'options kvm_intel nested=1' > /etc/modprobe.d/kvm-nested.conf",
        )
    if _parameter(folder, "ept") is False:
        yield Obstacle(
            "kvm_intel runs without EPT, which ACRN needs (/sys/module/kvm_intel/parameters/ept is not Y)",
            "as root: modprobe -r kvm_intel && modprobe kvm_intel nested=1 ept=1; a processor without EPT is too old",
        )


def _parameter(folder: Path, name: str) -> bool | None:
    """A module's switch; None where it does not say."""
    text = _read(folder / "parameters" / name).strip()
    return None if not text else text in {"Y", "1"}


def _device(path: Path) -> Iterator[Obstacle]:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        yield Obstacle(
            f"there is no {path}, so no KVM",
            "as root: modprobe kvm_intel; in a container: pass the device in (--device /dev/kvm)",
        )
    except PermissionError:
        yield Obstacle(
            f"this user may not open {path}",
            "as root: usermod -aG kvm USER, then log in again (the group that `ls -l /dev/kvm` shows)",
        )
    except OSError as error:
        why = "nothing is behind it" if error.errno in {errno.ENODEV, errno.ENXIO} else error.strerror
        yield Obstacle(f"{path} cannot be opened: {why}", "as root: modprobe kvm_intel, and see what dmesg says of kvm")


def _memory(spec: NestedHostSpec, meminfo: Path) -> Iterator[Obstacle]:
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _read(meminfo), re.MULTILINE)
    available = int(found[1]) // 1024 if found else None
    wanted = spec.memory + _QEMUS_OWN
    if available is not None and available < wanted:
        yield Obstacle(
            f"the machine's {spec.memory} MiB and QEMU's own {_QEMUS_OWN} do not fit into the {available} MiB of memory"
            " that are available here",
            "end something, or give the bench's host less `memory` (ACRN's guide has 4096)",
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
