"""The state of a booted Linux guest, saved once and kept in the cache, for many guests to go on from.

What it depends on is in its name; what could be wrong with it all the same (a damaged file, firmware that has changed)
is found out by a guest that is started from it before a run relies on it.
"""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests.cache import Cache, default_cache_dir
from harness.guests.console import Console
from harness.guests.image import GuestImage
from harness.guests.linux import LinuxGuest
from harness.guests.restored import RestoredGuest
from harness.guests.steps import Read
from harness.qemu.arguments import Channels, Machine, qemu_command
from harness.qemu.migration import Incoming, save
from harness.qemu.process import Qemu
from harness.qemu.version import find_qemu, qemu_version

_KIND = "snapshot"
_FORMAT = 1
_REGISTER_A, _REGISTER_B, _SET = 0x0A, 0x0B, 0x80

_MOST = 8
_UNUSED_S = 3600.0
"""Of more than so many states those that have not been used for so long are removed: each has 60 MB and more."""

_PROOF_TIMEOUT = 30.0


@dataclass(frozen=True)
class Snapshot:
    """A saved state. nonce: of the guest that it was. rtc_time: what its RTC showed, seconds since 1970 UTC."""

    file: Path
    nonce: str
    rtc_time: int
    register_a: int
    register_b: int


def prepare_snapshot(
    machine: Machine, image: GuestImage, hypervisor: Sequence[str], cache_dir: Path | None, deadline: Deadline
) -> Snapshot:
    """The saved state of a guest with this image on this machine: from the cache, or made now, in about 2 s.

    machine: with kernel and initrd, and no kernel arguments, which this adds. hypervisor: as for a LinuxGuest.
    A guest has been started from it since. One that no guest starts from is made anew, once.
    Raises InfrastructureError where that does not help, and as Cache.get.
    """
    cache = Cache(cache_dir or default_cache_dir())
    key = _key(machine, image, deadline)
    with tempfile.TemporaryDirectory(prefix="rtc-snapshot-") as name:
        work = Path(name)

        def make(folder: Path) -> None:
            _prune(cache.root / _KIND)
            _make(folder, machine, image, hypervisor, work, deadline)

        found = cache.find(_KIND, key)
        if found is not None:
            with contextlib.suppress(InfrastructureError, OSError, ValueError, KeyError, TypeError):
                return _proved(found, machine, image, hypervisor, work, deadline)
            with cache.lock(deadline):
                shutil.rmtree(found, ignore_errors=True)
        folder = cache.get(_KIND, key, make, deadline)
        return _proved(folder, machine, image, hypervisor, work, deadline)


def restoring(machine: Machine, image: GuestImage, snapshot: Snapshot) -> Machine:
    """The machine, started to go on from the state."""
    return replace(machine, append=image.command_line(snapshot.nonce), incoming=True)


def _key(machine: Machine, image: GuestImage, deadline: Deadline) -> str:
    binary = find_qemu(machine.binary)
    files = [Path(binary), *filter(None, (machine.kernel, machine.initrd))]
    about = [
        _FORMAT,
        qemu_version(machine.binary, deadline),
        qemu_command(replace(machine, append=image.append), Channels(0, 0, 0)),
        [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files],
        image.versions,
        _processor() if machine.accelerator == "kvm" else None,
    ]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _processor() -> list[str]:
    """What a guest may have seen of the machine's own processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").partition("\n\n")[0].splitlines()
    return [line for line in lines if line.startswith(("model name", "flags", "microcode"))]


def _make(
    folder: Path, machine: Machine, image: GuestImage, hypervisor: Sequence[str], work: Path, deadline: Deadline
) -> None:
    nonce = secrets.token_hex(16)
    with (
        Qemu(replace(machine, append=image.command_line(nonce))) as qemu,
        _guest(
            qemu, work / "made.log", lambda console: LinuxGuest(console, nonce=nonce, hypervisor=hypervisor)
        ) as guest,
    ):
        guest.boot(deadline)
        report = guest.run("registers", [Read(_REGISTER_A), Read(_REGISTER_B)], deadline)
        registers = [value for _, value, _ in report.reads]
        if len(registers) != 2 or registers[1] & _SET:
            raise InfrastructureError(f"no state to save a guest in: registers A and B hold {registers}")
        qemu.qmp.execute("stop", deadline)
        date = qemu.qmp.execute("qom-get", deadline, path="/machine", property="rtc-time")
        save(qemu, folder / "state", deadline)
    snapshot = Snapshot(folder / "state", nonce, _seconds(date), *registers)
    about = {**asdict(snapshot), "file": snapshot.file.name, "blake2b": _digest(snapshot.file)}
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _proved(
    folder: Path, machine: Machine, image: GuestImage, hypervisor: Sequence[str], work: Path, deadline: Deadline
) -> Snapshot:
    """The snapshot in the folder, from which a guest has been started just now.

    Raises InfrastructureError, OSError, ValueError, KeyError or TypeError for one that is no good.
    """
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    digest = about.pop("blake2b")
    snapshot = Snapshot(**{**about, "file": folder / about["file"]})
    if _digest(snapshot.file) != digest:
        raise InfrastructureError(f"{snapshot.file} is damaged")
    until = deadline.within(_PROOF_TIMEOUT)
    incoming, saved, own = Incoming(), snapshot.nonce, secrets.token_hex(16)
    with (
        Qemu(restoring(machine, image, snapshot), on_event=incoming.event) as qemu,
        _guest(
            qemu,
            work / "proved.log",
            lambda console: RestoredGuest(console, nonce=own, saved_nonce=saved, hypervisor=hypervisor),
        ) as guest,
    ):
        incoming.load(qemu, snapshot.file, until)
        qemu.qmp.execute("cont", until)
        guest.boot(until)
    os.utime(folder)
    return snapshot


@contextlib.contextmanager
def _guest(qemu: Qemu, log: Path, made_of: Callable[[Console], LinuxGuest]) -> Iterator[LinuxGuest]:
    guest = made_of(Console(qemu.console.dup(), log))
    try:
        yield guest
    finally:
        guest.close()


def _seconds(date: object) -> int:
    """QEMU's date (a C `struct tm`) in seconds since 1970 UTC."""
    if not isinstance(date, dict):
        raise InfrastructureError(f"QEMU does not say what the RTC shows: {date!r}")
    fields = (date[f"tm_{name}"] for name in ("year", "mon", "mday", "hour", "min", "sec"))
    year, month, *rest = (int(field) for field in fields)
    return calendar.timegm((1900 + year, 1 + month, *rest))


def _digest(file: Path) -> str:
    digest = hashlib.blake2b()
    with file.open("rb", buffering=0) as state:
        while data := state.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def _prune(folder: Path) -> None:
    """Called with the cache's lock held."""
    entries = sorted((entry for entry in folder.glob("[0-9a-f]*")), key=lambda entry: entry.stat().st_mtime)
    for entry in entries[: max(0, len(entries) + 1 - _MOST)]:
        if time.time() - entry.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(entry, ignore_errors=True)
