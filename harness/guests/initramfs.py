"""Initial RAM file systems (cpio, "newc" format), written here: neither root nor a cpio program is needed.

No device nodes: the kernel mounts devtmpfs. Every file belongs to root and has the same age, so that the same
contents give the same bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import PurePosixPath

_TRAILER = "TRAILER!!!"


def pack(files: Mapping[str, bytes]) -> bytes:
    """An archive with these executable files (absolute paths) and the folders they need.

    Raises ValueError for a path that is not absolute or leads elsewhere.
    """
    entries: dict[str, tuple[int, bytes]] = {}
    for path, data in files.items():
        pure = PurePosixPath(path)
        if not pure.is_absolute() or ".." in pure.parts or pure == PurePosixPath("/"):
            raise ValueError(f"not an absolute path of a file: {path!r}")
        for folder in reversed(pure.parents[:-1]):
            entries.setdefault(str(folder)[1:], (stat.S_IFDIR | 0o755, b""))
        entries[str(pure)[1:]] = (stat.S_IFREG | 0o755, data)
    members = [_member(number, name, mode, data) for number, (name, (mode, data)) in enumerate(entries.items(), 1)]
    return b"".join([*members, _member(0, _TRAILER, 0, b"")])


def _member(inode: int, name: str, mode: int, data: bytes) -> bytes:
    """One archive member: header of 13 hexadecimal fields, name, data; name and data padded to 4 bytes."""
    links = 2 if stat.S_ISDIR(mode) else 1
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + encoded) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def join(first: bytes, second: bytes) -> bytes:
    """Two archives as one initrd: the kernel unpacks both in turn; a later file replaces an earlier one.

    Either may be compressed; the second must begin at a multiple of 4 bytes.
    """
    return _padded(first) + second
