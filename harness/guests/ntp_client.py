"""The NTP client that Linux guests are given: the distribution's chrony with its libraries, fetched by apt."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests.apt import Apt
from harness.guests.cache import Cache

FOLDER = "/rtc-ntp"
"""Where it is in the guest, as agent_ntp.c knows it: apart from all that a guest may have of its own."""

_PACKAGE = "chrony"
_PROGRAM, _LOADER, _LIBRARIES = "chronyd", "ld.so", "lib"


def ntp_client(cache: Cache, deadline: Deadline) -> dict[str, bytes]:
    """The files of the client by their paths in the guest; from the cache, or by apt (6 MB).

    Raises ConfigurationError without apt, InfrastructureError when it cannot be fetched or lacks a library.
    """

    def fetch(folder: Path) -> None:
        unpacked = folder / "unpacked"
        unpacked.mkdir()
        apt = Apt(cache.root / "apt", deadline)
        # The system's own libraries may be missing, or of another age.
        apt.unpack(unpacked, *apt.find_with_libraries(_PACKAGE))
        _keep(unpacked, folder)
        shutil.rmtree(unpacked)

    folder = cache.get("ntp-client", _PACKAGE, fetch, deadline)
    paths = [folder / _PROGRAM, folder / _LOADER, *sorted((folder / _LIBRARIES).iterdir())]
    return {f"{FOLDER}/{path.relative_to(folder)}": path.read_bytes() for path in paths}


def has_ntp_client(cache: Cache) -> bool:
    """Whether `ntp_client` would find it in the cache."""
    return cache.find("ntp-client", _PACKAGE) is not None


def _keep(unpacked: Path, folder: Path) -> None:
    """The program, its loader, and the libraries that the loader finds it to need."""
    program = next((path for path in unpacked.rglob(_PROGRAM) if path.is_file()), None)
    loader = next((path for path in unpacked.rglob("ld-linux-x86-64.so.2") if not path.is_symlink()), None)
    if program is None or loader is None:
        raise InfrastructureError(f"there is no {_PROGRAM} in the package {_PACKAGE}, or no loader in its C library's")
    places = sorted({str(path.parent) for path in unpacked.rglob("*.so*")})
    listed = subprocess.run(
        [str(loader), "--inhibit-cache", "--library-path", ":".join(places), "--list", str(program)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    libraries = [Path(match[1]) for match in re.finditer(r"=> (/\S+) \(", listed.stdout)]
    if listed.returncode != 0 or not libraries or not all(path.is_relative_to(unpacked) for path in libraries):
        raise InfrastructureError(
            f"{_PROGRAM} lacks libraries that its packages should have brought",
            last_lines=(listed.stdout + listed.stderr).splitlines()[-10:],
        )
    (folder / _LIBRARIES).mkdir()
    (folder / _PROGRAM).write_bytes(program.read_bytes())
    (folder / _LOADER).write_bytes(loader.read_bytes())
    for path in libraries:
        (folder / _LIBRARIES / path.name).write_bytes(path.read_bytes())
