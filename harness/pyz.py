"""Packs the event service into one file, `vm_event.pyz`, which Python runs and imports with nothing installed.

`./lab pyz` runs it, with any Python. The bytes depend on the sources alone: not on the folder, the time, the umask, or
the version of Python or zlib that makes them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "harness" / "vm_event"
DEFAULT = Path("dist") / "vm_event.pyz"

EXIT_INFRASTRUCTURE = 10

_SHEBANG = b"#!/usr/bin/env python3\n"
#: Must be understood by every Python there is: an old one is to say what it lacks, not to stumble over syntax.
_MAIN = b"""import sys

if sys.version_info < (3, 10):
    sys.exit("vm_event.pyz needs Python 3.10 or newer; this is %d.%d" % sys.version_info[:2])

from vm_event.cli import main

if __name__ == "__main__":
    sys.exit(main())
"""
#: The oldest moment that a zip archive can tell.
_THE_SAME_MOMENT = (1980, 1, 1, 0, 0, 0)
_A_FILE_FOR_ALL = 0o100644


def archive(package: Path = PACKAGE) -> bytes:
    """The whole file, made from the package's sources. Raises OSError when they cannot be read.

    Entries are stored as they are: what a compressor makes of them differs between its versions.
    """
    paths = [path for path in package.rglob("*.py") if "__pycache__" not in path.parts]
    sources = {path.relative_to(package.parent).as_posix(): path.read_bytes() for path in paths}
    return packed({"__main__.py": _MAIN, **sources}, head=_SHEBANG)


def packed(sources: Mapping[str, bytes], *, head: bytes = b"", compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these files, by their names in it, behind `head`; the same files make the same bytes."""
    made = io.BytesIO()
    made.write(head)
    with zipfile.ZipFile(made, "a") as entries:
        for name, data in sorted(sources.items()):
            entry = zipfile.ZipInfo(name, _THE_SAME_MOMENT)
            entry.compress_type = compression
            entry.create_system = 3  # Unix, on whatever system it is made
            entry.external_attr = _A_FILE_FOR_ALL << 16
            entries.writestr(entry, data)
    return made.getvalue()


def write_executable(data: bytes, path: Path) -> None:
    """Put `data` at `path`, whole or not at all, for everyone to read and run. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(data)
        unfinished.chmod(0o755)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the file and print its path, size and SHA-256."""
    parser = argparse.ArgumentParser(prog="./lab pyz", description="Packs the event service into one file.")
    parser.add_argument(
        "file", nargs="?", type=Path, default=ROOT / DEFAULT, metavar="FILE", help=f"default: {DEFAULT}"
    )
    path: Path = parser.parse_args(arguments).file
    try:
        data = archive()
        write_executable(data, path)
    except OSError as error:
        print(f"infrastructure error: cannot make {path}: {error}", file=sys.stderr)
        return EXIT_INFRASTRUCTURE
    print(f"{path}\n{len(data)} bytes\nsha256 {hashlib.sha256(data).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
