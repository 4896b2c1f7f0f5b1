"""The parts of a guest image: a kernel from the distribution, a static busybox, the compiled agent."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.guests import kernel_image
from harness.guests.apt import Apt
from harness.guests.cache import Cache

DEFAULT_KERNEL = "debian-cloud"
KERNELS = {
    DEFAULT_KERNEL: ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-generic", "linux-image-amd64"),
    "debian-standard": ("linux-image-amd64", "linux-image-generic"),
    "debian-rt": ("linux-image-rt-amd64", "linux-image-realtime"),
}
"""Packages whose dependency is a kernel, most wanted first: Debian's, then Ubuntu's, then any that will do."""

# Nothing of a C library: the agent has 25 KB instead of 826, and may have to go through a console (login.py).
_COMPILE = (
    *("gcc", "-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-U_FORTIFY_SOURCE", "-Os", "-s", "-std=gnu11", "-Wall", "-Wextra"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack"),
)
# 32-bit, for so a multiboot loader enters.
_COMPILE_BARE = (*_COMPILE, "-m32", "-mgeneral-regs-only", "-DSPIN_NS=300000ull")
_HERE = Path(__file__).parent
_SYSTEM_BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True)
class Kernel:
    """A bootable kernel: an ELF with a PVH entry point where there is one, else a bzImage."""

    path: Path
    release: str
    package: str
    real_time: bool = False
    """Whether it is a PREEMPT_RT kernel."""

    packed: Path | None = None
    """The bzImage, as a boot loader wants it; None: `path` is what there is."""


def fetched_kernel(cache: Cache, deadline: Deadline, name: str | None = None) -> Kernel:
    """The distribution's kernel of this name (of KERNELS; None: the default), from the cache or by apt.

    Once fetched it stays, until the cache is emptied. Raises ConfigurationError without apt, InfrastructureError
    when nothing can be fetched or kept.
    """
    candidates = KERNELS[name or DEFAULT_KERNEL]

    def fetch(folder: Path) -> None:
        apt = Apt(cache.root / "apt", deadline)
        meta = apt.find(candidates)
        names = re.findall(r"\blinux-image-\d[^\s,(|]*", meta.depends) if meta else []
        package = apt.find(names[:1])
        if package is None:
            raise InfrastructureError(
                f"apt knows no kernel: none of {', '.join(candidates)}",
                hint="check /etc/apt/sources.list, or name a kernel of your own in the bench file",
            )
        apt.unpack(folder, package)
        image = next(iter(sorted((folder / "boot").glob("vmlinuz-*"))), None)
        if image is None:
            raise InfrastructureError(f"there is no /boot/vmlinuz-* in {package.name} {package.version}")
        _keep_kernel(image, folder, f"{package.name} {package.version}")

    folder = cache.get("kernel", _kernel_key(candidates), fetch, deadline)
    about = json.loads((folder / "about.json").read_text())
    packed = folder / "vmlinuz"
    return Kernel(folder / about["file"], about["release"], about["package"], about["real_time"], packed)


def has_kernel(cache: Cache, name: str) -> bool:
    """Whether `fetched_kernel` would find this kernel in the cache."""
    return cache.find("kernel", _kernel_key(KERNELS[name])) is not None


def _kernel_key(candidates: Sequence[str]) -> str:
    return "kept-packed-" + hashlib.sha256(" ".join(candidates).encode()).hexdigest()[:16]


def _keep_kernel(image: Path, folder: Path, package: str) -> None:
    """Leaves in `folder` the kernel to boot and a note about it, and removes the rest of the package."""
    data = packed = image.read_bytes()
    about: dict[str, str | bool] = {"file": "vmlinux", "package": package}
    about |= {"release": kernel_image.release(data) or "unknown", "real_time": kernel_image.is_real_time(data)}
    try:
        data = kernel_image.unpack(data)
    except kernel_image.UnusableImage as error:
        about |= {"file": "vmlinuz", "not_unpacked": str(error)}
    for extra in list(folder.iterdir()):
        shutil.rmtree(extra)
    (folder / "vmlinuz").write_bytes(packed)
    (folder / str(about["file"])).write_bytes(data)
    (folder / "about.json").write_text(json.dumps(about))


def own_kernel(path: Path) -> Kernel:
    """A kernel of the user's, as it is. Raises ConfigurationError when it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read the kernel {path}: {error.strerror}") from error
    return Kernel(path, kernel_image.release(data) or "unknown", str(path), kernel_image.is_real_time(data))


def static_busybox(cache: Cache, deadline: Deadline) -> bytes:
    """This machine's busybox if it is static, else the distribution's, by apt. Raises as `fetched_kernel`."""
    try:
        if is_static(data := _SYSTEM_BUSYBOX.read_bytes()):
            return data
    except OSError:
        pass

    def fetch(folder: Path) -> None:
        apt = Apt(cache.root / "apt", deadline)
        package = apt.find(["busybox-static"])
        if package is None:
            raise InfrastructureError("apt knows no busybox-static", hint="install a static /bin/busybox by hand")
        apt.unpack(folder, package)
        binaries = [path for path in folder.rglob("bin/busybox") if path.is_file()]
        if not binaries:
            raise InfrastructureError(f"there is no busybox in {package.name} {package.version}")
        data = binaries[0].read_bytes()
        for extra in list(folder.iterdir()):
            shutil.rmtree(extra)
        (folder / "busybox").write_bytes(data)

    return (cache.get("busybox", "busybox-static", fetch, deadline) / "busybox").read_bytes()


def is_static(binary: bytes) -> bool:
    """Whether an ELF runs without a dynamic linker (it has no PT_INTERP)."""
    if binary[:6] != b"\x7fELF\x02\x01":
        return False
    (table,) = struct.unpack_from("<Q", binary, 32)
    size, count = struct.unpack_from("<HH", binary, 54)
    return all(struct.unpack_from("<I", binary, table + number * size)[0] != 3 for number in range(count))


def busybox_version(binary: bytes) -> str:
    """The version a busybox names itself by."""
    match = re.search(rb"BusyBox v(\d[^\s()]*)", binary)
    return match[1].decode("ascii", "replace") if match else "unknown"


def compiled_agent(cache: Cache, deadline: Deadline) -> tuple[bytes, str]:
    """The agent of Linux guests, compiled from the C files beside this module, and a short name of what it is made of.

    Raises ConfigurationError when the compiler or the C library's headers are missing, InfrastructureError
    when the compiler fails for another reason.
    """
    sources = [*sorted(_HERE.glob("agent*.c")), _HERE / "small_libc.c", _HERE / "bare" / "bare_libc.c"]
    return _compiled("agent", sources, _COMPILE, cache, deadline)


def compiled_bare_guest(cache: Cache, deadline: Deadline) -> tuple[bytes, str]:
    """The agent as a multiboot image, without an operating system (bare/). Raises as `compiled_agent`."""
    bare = _HERE / "bare"
    shared = [_HERE / name for name in ("agent.c", "agent_frames.c", "agent_rtc.c")]
    sources = [bare / "start.S", *sorted(bare.glob("*.c")), *shared]
    command = (*_COMPILE_BARE, "-I", str(bare / "include"), f"-Wl,-T,{bare / 'image.ld'}")
    return _compiled("bare", sources, command, cache, deadline)


def _compiled(
    name: str, sources: Sequence[Path], command: Sequence[str], cache: Cache, deadline: Deadline
) -> tuple[bytes, str]:
    digest = hashlib.sha256(" ".join(word for word in command if str(_HERE) not in word).encode())
    for path in sorted(path for path in _HERE.rglob("*") if path.suffix in {".c", ".h", ".S", ".ld"}):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    key = digest.hexdigest()[:16]

    def compile_sources(folder: Path) -> None:
        try:
            done = subprocess.run(
                [*command, "-o", str(folder / name), *map(str, sources)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=deadline.remaining,
                check=False,
            )
        except FileNotFoundError as error:
            raise ConfigurationError("gcc is missing; the guest's agent is compiled", hint=_NEEDS) from error
        except subprocess.TimeoutExpired as error:
            raise InfrastructureError("compiling the agent took too long", waited=error.timeout) from error
        if done.returncode != 0:
            lacks = "No such file" in done.stderr or "cannot find -l" in done.stderr
            family = ConfigurationError if lacks else InfrastructureError
            raise family("the agent does not compile", last_lines=done.stderr.splitlines()[-10:], hint=_NEEDS)

    return (cache.get(name, key, compile_sources, deadline) / name).read_bytes(), key


_NEEDS = "install the packages gcc and libc6-dev (./lab does)"
