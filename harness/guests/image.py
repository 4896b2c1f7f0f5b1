"""What a guest boots: kernel, initrd with our agent, kernel arguments, versions; or the bare image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import ConfigurationError
from harness.guests import initramfs
from harness.guests.cache import Cache, default_cache_dir
from harness.guests.ntp_client import ntp_client
from harness.guests.parts import (
    Kernel,
    busybox_version,
    compiled_agent,
    compiled_bare_guest,
    fetched_kernel,
    own_kernel,
    static_busybox,
)

AGENT_PATH = "/rtc-agent"

# From exec to the agent's answer, median of 9 under TCG on 2 cores: 0.85 s with these. Without cryptomgr.notests
# 1.01 s, without nolapic 1.00 s, without 8250.nr_uarts 0.92 s, as a bzImage 1.15 s. No gain above the noise
# (0.03 s): noapic, mitigations=off, rodata=off, init_on_alloc=0, tsc=reliable, lsm=, debugfs=off, no i8042, no
# initcall of kprobes, an initrd without busybox, another -cpu. acpi=off would gain 0.07 s, but then Linux does
# not know where the century is, and hwclock would not write it.
KERNEL_ARGUMENTS = (
    "console=ttyS0",
    "quiet",
    "loglevel=1",  # a panic and an oops raise it for themselves
    "panic=-1",  # reboot at once; with -no-reboot QEMU then ends, and everybody knows
    "nowatchdog",  # a starved host is not the guest's fault
    "cryptomgr.notests",
    "nolapic",
    "8250.nr_uarts=1",
    # On a busy machine a kernel measures its TSC wrong: 5 of 100 boots, 5 at once on 2 cores, had a clock that ran 2 to
    # 10 times too fast, and paused so much less. With this none of 100; acpi_pm: 1.
    "clocksource=hpet",
    f"rdinit={AGENT_PATH}",
)

# Without the local APIC a PREEMPT_RT kernel (Debian's 6.1) stands still for ever once rtc_cmos is there, on pc and q35.
_NOT_IN_REAL_TIME = frozenset({"nolapic"})


def kernel_arguments(kernel: Kernel) -> list[str]:
    """What a kernel is told beside its guest's nonce."""
    return [word for word in KERNEL_ARGUMENTS if not (kernel.real_time and word in _NOT_IN_REAL_TIME)]


@dataclass(frozen=True)
class ImageSpec:
    """What of the image is the user's own; the rest is made here.

    kernel: one of KERNELS by its name, or the path of a bzImage or an ELF with a PVH entry point. initrd: an
    archive that ours is added to (the agent takes its init's place). append: further kernel arguments. ntp: whether
    the guest gets an NTP client, which makes its boot longer (docs/guests.md has the figures).
    """

    kernel: str | Path | None = None
    initrd: Path | None = None
    append: str = ""
    ntp: bool = False


@dataclass(frozen=True)
class GuestImage:
    """A bootable image (no initrd: a bare guest's); `append` is without the nonce that each guest gets of its own.

    packed: the kernel as a boot loader wants it, acrn-dm's among them, which is a sixth of what QEMU is quicker with.
    """

    kernel: Path
    initrd: Path | None
    append: str
    versions: dict[str, str]
    packed: Path | None = None

    def command_line(self, nonce: str) -> str:
        """The kernel command line of one guest."""
        return f"{self.append} rtc.nonce={nonce}".lstrip()


def prepare_image(spec: ImageSpec, cache_dir: Path | None, deadline: Deadline) -> GuestImage:
    """Makes the image, or finds it in the cache (`default_cache_dir()` if None), which takes milliseconds.

    Raises ConfigurationError (a file of the user's cannot be read, a program is missing) and
    InfrastructureError (package mirror, disk, a lock held by another run).
    """
    cache = Cache(cache_dir or default_cache_dir())
    kernel = own_kernel(spec.kernel) if isinstance(spec.kernel, Path) else fetched_kernel(cache, deadline, spec.kernel)
    busybox = static_busybox(cache, deadline)
    agent, agent_version = compiled_agent(cache, deadline)
    client = ntp_client(cache, deadline) if spec.ntp else {}
    archive = initramfs.pack({AGENT_PATH: agent, "/bin/busybox": busybox, **client})
    if spec.initrd:
        try:
            archive = initramfs.join(spec.initrd.read_bytes(), archive)
        except OSError as error:
            raise ConfigurationError(f"cannot read the initrd {spec.initrd}: {error.strerror}") from error

    def write_archive(folder: Path) -> None:
        (folder / "initrd.cpio").write_bytes(archive)

    key = hashlib.sha256(archive).hexdigest()[:32]
    folder = cache.get("initrd", key, write_archive, deadline)
    versions = {
        "kernel": kernel.release,
        "kernel_package": kernel.package,
        "busybox": busybox_version(busybox),
        "agent": agent_version,
    }
    append = " ".join([*kernel_arguments(kernel), *spec.append.split()])
    return GuestImage(kernel.path, folder / "initrd.cpio", append, versions, kernel.packed)


def prepare_bare_image(cache_dir: Path | None, deadline: Deadline) -> GuestImage:
    """Makes the image of the guest without an operating system, or finds it in the cache. Raises as `prepare_image`."""
    cache = Cache(cache_dir or default_cache_dir())
    image, version = compiled_bare_guest(cache, deadline)
    key = hashlib.sha256(image).hexdigest()[:32]

    def write_image(folder: Path) -> None:
        (folder / "bare.elf").write_bytes(image)

    folder = cache.get("bare-image", key, write_image, deadline)
    return GuestImage(folder / "bare.elf", None, "", {"kernel": "bare", "agent": version})
