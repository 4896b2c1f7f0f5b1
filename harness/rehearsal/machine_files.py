"""The rehearsal machine's operating system, made of the distribution's packages: kernel, sshd, Python, QEMU.

Nothing is installed and root is not needed: packages are fetched and unpacked into the cache, and what runs is picked
out of them with the libraries that it names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests import initramfs, kernel_image
from harness.guests.apt import Apt, Package
from harness.guests.cache import Cache
from harness.guests.parts import DEFAULT_KERNEL, KERNELS
from harness.rehearsal import elf

_PROGRAMS = {
    "openssh-server": ["usr/sbin/sshd"],
    "qemu-system-x86": ["usr/bin/qemu-system-x86_64"],
    "util-linux": ["usr/bin/setpriv"],
    "busybox-static": ["bin/busybox"],
}
"""Packages and what of their programs the machine has; busybox is the rest of it."""

_MODULES = ("virtio_pci", "virtio_net", "qemu_fw_cfg")
_FIRMWARE = (
    "bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "linuxboot.bin", "multiboot_dma.bin", "multiboot.bin",
    "pvh.bin",
)
"""What QEMU loads into the guests inside; not every version has each."""

_NO_PYTHON = frozenset(
    {"lib2to3", "pydoc_data", "idlelib", "tkinter", "turtledemo", "ensurepip", "venv", "unittest", "sqlite3", "curses",
     "dbm", "wsgiref", "xmlrpc", "distutils", "__pycache__", "test"}
)
_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
_TREE = "python"
_RECIPE = Path(__file__)


@dataclass(frozen=True)
class MachineFiles:
    """What the machine boots, but for what is the project's own and for its keys.

    kernel: with a PVH entry point where there is one. archive: an initrd to which the rest is joined. python: runs the
    machine's own Python here (its linker and folder, before the arguments). modules: kernel modules in the order of
    their loading.
    """

    kernel: Path
    archive: Path
    python: tuple[str, ...]
    python_home: Path
    modules: tuple[str, ...]
    versions: dict[str, str]


def machine_files(cache: Cache, deadline: Deadline) -> MachineFiles:
    """The machine's files, from the cache or by apt.

    Raises ConfigurationError without apt, InfrastructureError when something cannot be fetched or is not as expected.
    """
    recipe = hashlib.sha256(_RECIPE.read_bytes() + Path(elf.__file__).read_bytes()).hexdigest()[:16]
    folder = cache.get("machine", recipe, lambda folder: _make(cache, folder, deadline), deadline)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    tree = folder / _TREE
    run = (str(tree / about["linker"]), "--library-path", f"{tree}{_LIBRARIES}", str(tree / "usr/bin/python3"))
    return MachineFiles(
        folder / about["kernel"], folder / "base.cpio", run, tree / "usr", tuple(about["modules"]), about["versions"]
    )


def _make(cache: Cache, folder: Path, deadline: Deadline) -> None:
    apt = Apt(cache.root / "apt", deadline)
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    python = _python_version(apt)
    packages = _packages(apt, python)
    apt.unpack(unpacked, *packages.values())
    kernel, modules = _kernel(unpacked, folder)
    try:
        files, linker = _programs(unpacked, python)
    except elf.MissingLibrary as missing:
        raise InfrastructureError(f"the packages of the rehearsal machine lack the library {missing}") from missing
    files |= _firmware(unpacked)
    tree = folder / _TREE
    _python_tree(unpacked, files, python, tree)
    _compile(tree, linker, python, deadline)
    standard = tree / "usr/lib" / python
    files |= {"/" + str(path.relative_to(tree)): path.read_bytes() for path in standard.rglob("*") if path.is_file()}
    (folder / "base.cpio").write_bytes(initramfs.pack({**files, **modules}))
    versions = {name: packages[name].version for name in _PROGRAMS} | {"python": python.removeprefix("python")}
    names = [Path(name).name for name in modules]
    about = {"kernel": kernel, "modules": names, "linker": linker.lstrip("/"), "versions": versions}
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    shutil.rmtree(unpacked)


def _python_version(apt: Apt) -> str:
    """`python3.11`: what the distribution's python3 is."""
    meta = apt.find(["python3-minimal"])
    found = re.search(r"\b(python3\.\d+)-minimal\b", meta.depends) if meta else None
    if found is None:
        raise InfrastructureError("apt does not say which Python python3-minimal is")
    return found[1]


def _packages(apt: Apt, python: str) -> dict[str, Package]:
    """All packages by their names. Raises InfrastructureError where apt lacks one."""
    found: dict[str, Package] = {}
    for name in ("openssh-server", "qemu-system-x86", "util-linux", f"{python}-minimal", f"lib{python}-stdlib"):
        found |= {package.name: package for package in apt.find_with_libraries(name)}
    kernel = apt.find(KERNELS[DEFAULT_KERNEL])
    names = re.findall(r"\blinux-image-\d[^\s,(|]*", kernel.depends) if kernel else []
    # Ubuntu keeps a kernel's modules apart.
    wanted = [*names[:1], "busybox-static", "seabios", "qemu-system-data", "qemu-system-common"]
    optional = [name.replace("linux-image", "linux-modules") for name in names[:1]]
    for name in (*wanted, *optional):
        package = apt.find([name])
        if package is not None:
            found[name] = package
        elif name not in optional:
            raise InfrastructureError(f"apt knows no {name}, which the rehearsal machine needs")
    return found


def _kernel(unpacked: Path, folder: Path) -> tuple[str, dict[str, bytes]]:
    """Puts the kernel into `folder`; its file's name, and the modules that the machine loads, in that order."""
    image = next(iter(sorted((unpacked / "boot").glob("vmlinuz-*"))), None)
    if image is None:
        raise InfrastructureError("there is no /boot/vmlinuz-* in the kernel's package")
    data, name = image.read_bytes(), "vmlinux"
    try:
        data = kernel_image.unpack(data)
    except kernel_image.UnusableImage:
        name = "vmlinuz"
    (folder / name).write_bytes(data)
    there = {
        path.name.split(".")[0].replace("-", "_"): path
        for root in ("lib/modules", "usr/lib/modules")
        for path in (unpacked / root).rglob("*.ko*")
    }
    modules: dict[str, bytes] = {}
    for wanted in _MODULES:
        _add_module(wanted, there, modules)
    return name, modules


def _add_module(name: str, there: dict[str, Path], modules: dict[str, bytes]) -> None:
    """The module after those that it depends upon; one that is not there is built in."""
    path = there.get(name)
    place = f"/modules/{name}.ko"
    if path is None or place in modules:
        return
    data = kernel_image.unpacked(path.read_bytes())
    depends = re.search(rb"\0depends=([^\0]*)\0", data)
    for other in (depends[1].decode() if depends else "").split(","):
        if other:
            _add_module(other.replace("-", "_"), there, modules)
    modules[place] = data


def _programs(unpacked: Path, python: str) -> tuple[dict[str, bytes], str]:
    """Programs and libraries by their places in the machine, and the dynamic linker's place.

    Raises MissingLibrary.
    """
    programs = {
        f"/{path}": _read(unpacked, path)
        for path in [*(path for paths in _PROGRAMS.values() for path in paths), f"usr/bin/{python}"]
    }
    programs["/usr/bin/python3"] = programs.pop(f"/usr/bin/{python}")
    loadable = {
        f"/{path.relative_to(unpacked)}": path.read_bytes()
        for folder, pattern in ((f"usr/lib/{python}/lib-dynload", "*.so"), (f"{_LIBRARIES[1:]}/qemu", "accel-tcg-x86*"))
        for path in sorted((unpacked / folder).glob(pattern))
        if not re.match(r"_(sqlite3|curses|dbm|tkinter|test)", path.name)
    }
    linker = elf.needed(programs["/usr/bin/python3"])[0]
    if linker is None:
        raise InfrastructureError(f"the distribution's {python} is no ELF with a dynamic linker")
    libraries = elf.with_libraries([*programs.values(), *loadable.values()], unpacked)
    placed = {f"{_LIBRARIES}/{name}": data for name, data in libraries.items()}
    placed[linker] = _read(unpacked, linker[1:], f"usr{linker}")
    return {**programs, **loadable, **placed}, linker


def _firmware(unpacked: Path) -> dict[str, bytes]:
    places = [unpacked / "usr/share" / name for name in ("seabios", "qemu")]
    found = {}
    for name in _FIRMWARE:
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is not None:
            found[f"/usr/share/qemu/{name}"] = path.read_bytes()
    if "/usr/share/qemu/bios-256k.bin" not in found:
        raise InfrastructureError("the distribution's packages have no bios-256k.bin for QEMU")
    return found


def _python_tree(unpacked: Path, files: dict[str, bytes], python: str, tree: Path) -> None:
    """The machine's Python as it can be run here, too: program, linker, libraries, standard library."""
    binaries = [data for place, data in files.items() if place == "/usr/bin/python3" or "/lib-dynload/" in place]
    linker = elf.needed(files["/usr/bin/python3"])[0]
    libraries = {f"{_LIBRARIES}/{name}" for name in elf.with_libraries(binaries, unpacked)}
    for place, data in files.items():
        if place in libraries or place in {"/usr/bin/python3", linker} or "/lib-dynload/" in place:
            path = tree / place[1:]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o755)
    for path in sorted((unpacked / "usr/lib" / python).rglob("*.py")):
        within = path.relative_to(unpacked)
        if not _NO_PYTHON & set(within.parts):
            (tree / within).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, tree / within)


def _compile(tree: Path, linker: str, python: str, deadline: Deadline) -> None:
    run = (str(tree / linker[1:]), "--library-path", f"{tree}{_LIBRARIES}", str(tree / "usr/bin/python3"))
    compile_python(run, tree / "usr", tree / "usr/lib" / python, f"/usr/lib/{python}", deadline)


def compile_python(run: Iterable[str], home: Path, folder: Path, shown: str, deadline: Deadline) -> None:
    """Compiles the modules below `folder` for the machine's Python, where they will be in `shown`.

    Under emulation compiling takes longer than all else. Raises InfrastructureError when it fails.
    """
    command = [*run, "-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-d", shown, str(folder)]
    environment = {"PYTHONHOME": str(home), "LC_ALL": "C.UTF-8", "PATH": os.defpath}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=deadline.remaining, check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfrastructureError(f"the rehearsal machine's Python cannot compile {folder}: {error}") from error
    if done.returncode:
        said = (done.stdout + done.stderr).splitlines()[-10:]
        raise InfrastructureError(f"the rehearsal machine's Python could not compile {folder}", last_lines=said)


def _read(unpacked: Path, *places: str) -> bytes:
    for place in places:
        path = unpacked / place
        if path.is_file():
            return path.read_bytes()
    raise InfrastructureError(f"the distribution's packages have no /{places[0]}")
