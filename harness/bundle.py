"""Makes one archive with all that a machine without network needs: `./lab bundle [FILE]`.

Wheels, Debian packages, the tools for a Service VM, the guests' images, and the project itself: for a bench's harness
machine, or a Service VM. What is in it and how it is used stands in its README.txt (and in docs/bundle.md).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import harness
from harness.bundle_parts import MAKING, PACKAGES, copy_source, extras, fetch_debs, fetch_wheels, make_cache
from harness.deadline import Deadline
from harness.errors import EXIT_INFRASTRUCTURE, BenchError
from harness.guests.cache import default_cache_dir

ROOT = Path(harness.__file__).resolve().parents[1]
NAME = "rtc-bench-bundle"
DEFAULT = Path("dist") / f"{NAME}.tar.gz"
EXTRAS = ("ssh", "lab", "tests", "plots", "html")
TOX = "tox>=4.44,<5"
TIMEOUT = 3600.0

_README = """A bundle of the RTC test bench, for a machine without network. Made for Python {python} on {platform}.

  ./install-debs          as root: installs from debs/ what this machine lacks (packages of {system});
                          with --dry-run it only says what that would be
  ./run-lab RUN ...       ./lab of source/, with wheels/ in place of a package index and cache/ for the guests' images:
                          ./run-lab tests, ./run-lab qemu, ./run-lab hw --bench FILE, ./run-lab bench check FILE

By hand, for an environment of your own:
  python3 -m venv ENV && ENV/bin/pip install --no-index --find-links wheels {extras_shown}
  RTC_BENCH_CACHE=$PWD/cache PYTHONPATH=$PWD/source ENV/bin/python -m pytest ...

tools/vm_event.pyz is the event service for a Service VM: it needs Python 3.10 there and nothing else.
tools/tools.pyz is what the harness brings to a host by itself. bundle.json says what is here, with all SHA-256.
"""
_RUN_LAB = """#!/bin/sh
# ./lab of source/ without a network.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
export PIP_NO_INDEX=1 PIP_FIND_LINKS="$here/wheels" RTC_BENCH_CACHE="${RTC_BENCH_CACHE-$here/cache}"
export LAB_NO_APT="${LAB_NO_APT-1}" # ./install-debs has what it would fetch
exec "$here/source/lab" "$@"
"""
_INSTALL_DEBS = """#!/bin/sh
# Installs from debs/ what this machine lacks, as root. Its own package sources are left alone, and not asked.
set -eu
case ${1-} in
'') dry='' ;;
--dry-run) dry=--simulate ;;
*) echo "usage: install-debs [--dry-run]" >&2 && exit 2 ;;
esac
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
place=$(printf '%s' "$here/debs" | sed 's/%/%25/g; s/ /%20/g')
printf 'deb [trusted=yes] file:%s ./\\n' "$place" >"$state/sources.list"
set -- -q -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null \\
    -o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache" -o APT::Sandbox::User=root
apt-get "$@" update
DEBIAN_FRONTEND=noninteractive apt-get "$@" install -y --no-install-recommends $dry PACKAGES
"""


def make_bundle(file: Path, options: argparse.Namespace, say: Callable[[str], object]) -> int:
    """Make the archive; its size in bytes.

    Raises ConfigurationError and InfrastructureError for what cannot be had, OSError for the disk.
    """
    deadline = Deadline(TIMEOUT)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=file.parent) as name:
        folder = Path(name) / NAME
        folder.mkdir()
        about: dict[str, object] = {"made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        known = extras(ROOT)
        chosen = [extra for extra in EXTRAS if extra in known]
        wanted = [*known[""], *(each for extra in chosen for each in known[extra]), TOX, *MAKING]
        say("wheels")
        about["wheels"] = fetch_wheels(folder / "wheels", wanted, deadline, python_version=options.python_version)
        if not options.no_debs:
            say("Debian packages")
            about["debs"] = fetch_debs(folder / "debs", PACKAGES, default_cache_dir() / "apt", deadline)
        if not options.no_images:
            say("guests' images")
            about["images"] = make_cache(
                folder / "cache", options.kernel, machine=options.machine, deadline=deadline
            )
        say("the project")
        about["source"] = copy_source(ROOT, folder / "source")
        _write_tools(folder / "tools")
        _write_scripts(folder, options, known, chosen)
        about["python"], about["files"] = options.python_version or _python(), _digests(folder)
        (folder / "bundle.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        say("the archive")
        unfinished = Path(name) / "archive"
        with tarfile.open(unfinished, "w:gz", compresslevel=1) as archive:
            archive.add(folder, NAME, filter=_nobodys)
        unfinished.replace(file)
    return file.stat().st_size


def _write_tools(folder: Path) -> None:
    from harness import pyz
    from harness.onhost import pack

    folder.mkdir()
    pyz.write_executable(pyz.archive(), folder / "vm_event.pyz")
    pyz.write_executable(pack.archive(), folder / "tools.pyz")


def _write_scripts(
    folder: Path, options: argparse.Namespace, known: dict[str, list[str]], chosen: Sequence[str]
) -> None:
    needs = [*known[""], *(each for extra in chosen if extra in {"ssh", "lab"} for each in known[extra])]
    text = _README.format(
        python=options.python_version or _python(),
        platform=sysconfig.get_platform(),
        system=_system(),
        extras_shown=" ".join(f"'{need}'" for need in needs),
    )
    (folder / "README.txt").write_text(text, encoding="utf-8")
    scripts = {"run-lab": _RUN_LAB}
    if not options.no_debs:
        scripts["install-debs"] = _INSTALL_DEBS.replace("PACKAGES", " ".join(PACKAGES))
    for name, script in scripts.items():
        (folder / name).write_text(script, encoding="utf-8")
        (folder / name).chmod(0o755)


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _system() -> str:
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "an unknown system"
    return next((line.partition("=")[2].strip('"') for line in lines if line.startswith("PRETTY_NAME=")), "?")


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Who made the archive is of no use where it is unpacked."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def main(arguments: list[str] | None = None) -> int:
    """Make the archive and print its path, size and SHA-256; the exit status is that of harness/errors.py."""
    parser = argparse.ArgumentParser(
        prog="./lab bundle",
        description="Makes one archive with all that a machine without network needs: wheels, Debian packages, tools,"
        " the guests' images, the project.",
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help=f"default: {DEFAULT} of the project")
    parser.add_argument("--python-version", metavar="3.N", help="wheels for another Python than this one")
    parser.add_argument("--kernel", action="append", default=[], metavar="NAME", help="one more kernel for guests,"
                        " such as debian-rt; may be given again")
    parser.add_argument("--machine", action="store_true", help="the rehearsal machine's image, too (140 MB)")
    parser.add_argument("--no-debs", action="store_true", help="no Debian packages: the other machine has them")
    parser.add_argument("--no-images", action="store_true", help="no images of guests: it runs its own")
    options = parser.parse_args(arguments)
    file: Path = (options.file or ROOT / DEFAULT).absolute()
    try:
        size = make_bundle(file, options, lambda part: print(f"bundle: {part}", file=sys.stderr, flush=True))
    except BenchError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"infrastructure error: the bundle cannot be written: {error}", file=sys.stderr)
        return EXIT_INFRASTRUCTURE
    with file.open("rb") as made:
        digest = hashlib.sha256()
        while block := made.read(1 << 20):
            digest.update(block)
    print(f"{file}\n{size} bytes\nsha256 {digest.hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
