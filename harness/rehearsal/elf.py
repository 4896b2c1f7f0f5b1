"""What an ELF program needs to run: its dynamic linker and libraries, found among unpacked files."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB = 1, 5


class MissingLibrary(Exception):
    """A library that a program needs is not among the files."""


def needed(binary: bytes) -> tuple[str | None, list[str]]:
    """The dynamic linker's path (None: none is needed) and the libraries that a 64-bit ELF names."""
    if binary[:6] != b"\x7fELF\x02\x01":
        return None, []
    (table,) = struct.unpack_from("<Q", binary, 32)
    size, count = struct.unpack_from("<HH", binary, 54)
    headers = [struct.unpack_from("<IIQQQQ", binary, table + size * number) for number in range(count)]
    interpreter, entries = None, []
    for kind, _, offset, _, _, length in headers:
        if kind == _PT_INTERP:
            interpreter = binary[offset : offset + length].split(b"\0", 1)[0].decode()
        elif kind == _PT_DYNAMIC:
            entries = list(struct.iter_unpack("<qQ", binary[offset : offset + length - length % 16]))
    strings = next((value for tag, value in entries if tag == _DT_STRTAB), None)
    if strings is None:
        return interpreter, []
    # The table is given by its address in memory; the segment that holds it says where that is in the file.
    for kind, _, offset, address, _, length in headers:
        if kind == _PT_LOAD and address <= strings < address + length:
            start = strings - address + offset
            places = [start + value for tag, value in entries if tag == _DT_NEEDED]
            return interpreter, [binary[place : binary.index(b"\0", place)].decode() for place in places]
    return interpreter, []


def with_libraries(binaries: Iterable[bytes], folder: Path) -> dict[str, bytes]:
    """All libraries that these need, and theirs, by the names they are asked for; looked for below `folder`.

    Raises MissingLibrary.
    """
    there = {path.name: path for path in sorted(folder.rglob("*.so*")) if path.is_file()}
    found: dict[str, bytes] = {}
    wanted = [name for binary in binaries for name in needed(binary)[1]]
    while wanted:
        name = wanted.pop()
        if name not in found:
            if name not in there:
                raise MissingLibrary(name)
            found[name] = there[name].read_bytes()
            wanted += needed(found[name])[1]
    return found
