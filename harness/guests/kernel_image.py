"""Linux kernel images: the ELF inside a bzImage, which QEMU starts sooner than the bzImage itself.

A bzImage decompresses itself inside the guest, which costs 0.3 s under TCG. Its payload, unpacked here once,
is an ELF that QEMU enters directly if it has a PVH entry point. Layout: Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable

_SETUP_MAGIC = (0x202, b"HdrS")
_PT_NOTE = 4
_XEN_PHYS32_ENTRY = 18
_LZ4_LEGACY_BLOCK = 8 << 20


class UnusableImage(Exception):
    """The image cannot be unpacked here into an ELF that QEMU enters; the bzImage itself still boots."""


def _gzip(data: bytes) -> bytes:
    return zlib.decompressobj(31).decompress(data)


def _bzip2(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data)


def _lzma(data: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(data)


def _lz4_legacy(data: bytes) -> bytes:
    """Blocks of at most 8 MiB, each after its size; the kernel's build appends the unpacked size."""
    try:
        block = importlib.import_module("lz4.block")
    except ImportError as error:
        raise UnusableImage("the kernel is packed with LZ4 and the Python module lz4 is missing") from error
    unpacked, position = [], 4
    while position + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, position)
        position += 4
        packed = data[position : position + size]
        unpacked.append(block.decompress(packed, uncompressed_size=_LZ4_LEGACY_BLOCK))
        position += size
    return b"".join(unpacked)


def _zstd(data: bytes) -> bytes:
    for name in ("compression.zstd", "zstandard", "pyzstd"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if name == "zstandard":
            return bytes(module.ZstdDecompressor().decompressobj().decompress(data))
        return bytes(module.ZstdDecompressor().decompress(data))
    program = shutil.which("zstd")
    if program is None:
        raise UnusableImage("the kernel is packed with zstd; neither a Python module nor the program is here")
    # The size that the kernel's build appends is not zstd's, so the exit code says nothing.
    return subprocess.run([program, "-dcq"], input=data, capture_output=True, check=False).stdout


_UNPACKERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": _gzip,
    b"BZh": _bzip2,
    b"\xfd7zXZ\x00": _lzma,
    b"\x5d\x00\x00": _lzma,
    b"\x02\x21\x4c\x18": _lz4_legacy,
    b"\x28\xb5\x2f\xfd": _zstd,
}


def unpack(image: bytes) -> bytes:
    """The ELF inside a bzImage, with a PVH entry point. Raises UnusableImage, saying why not."""
    if len(image) < 0x250 or image[_SETUP_MAGIC[0] :][:4] != _SETUP_MAGIC[1]:
        raise UnusableImage("not a bzImage")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if len(payload) != length or not length:
        raise UnusableImage("a truncated bzImage")
    unpacker = next((known for magic, known in _UNPACKERS.items() if payload.startswith(magic)), None)
    if unpacker is None:
        raise UnusableImage(f"a packing nobody knows: it begins with {payload[:6].hex()}")
    try:
        elf = unpacker(payload)
    except UnusableImage:
        raise
    except Exception as error:  # each module has its own classes; all mean the same
        raise UnusableImage(f"the payload does not unpack: {error}") from error
    if not has_pvh_entry(elf):
        raise UnusableImage("the kernel has no PVH entry point")
    return elf


def unpacked(data: bytes) -> bytes:
    """A file as it was before it was packed, if it was; raises UnusableImage where nobody here can unpack it."""
    unpacker = next((known for magic, known in _UNPACKERS.items() if data.startswith(magic)), None)
    return data if unpacker is None else unpacker(data)


def has_pvh_entry(elf: bytes) -> bool:
    """Whether a 64-bit ELF has the note by which QEMU enters a kernel directly (`CONFIG_PVH`)."""
    try:
        if elf[:6] != b"\x7fELF\x02\x01":
            return False
        (table,) = struct.unpack_from("<Q", elf, 32)
        size, count = struct.unpack_from("<HH", elf, 54)
        for header in range(table, table + size * count, size):
            kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", elf, header)
            if kind == _PT_NOTE and _has_note(elf[offset : offset + length], b"Xen\0", _XEN_PHYS32_ENTRY):
                return True
    except struct.error:
        pass
    return False


def _has_note(notes: bytes, owner: bytes, wanted: int) -> bool:
    position = 0
    while position + 12 <= len(notes):
        name_size, value_size, kind = struct.unpack_from("<III", notes, position)
        name = notes[position + 12 : position + 12 + name_size]
        if kind == wanted and name == owner:
            return True
        position += 12 + (name_size + 3 & ~3) + (value_size + 3 & ~3)
    return False


def release(image: bytes) -> str | None:
    """The release a bzImage names in its header ("6.1.0-56-cloud-amd64"), or None when it has none."""
    return (_version_text(image) or "").split(" ", 1)[0] or None


def is_real_time(image: bytes) -> bool:
    """Whether a bzImage or an unpacked kernel says of itself that it is a PREEMPT_RT one."""
    text = _version_text(image)
    if text is None:
        banner = re.search(rb"Linux version \d[ -~]{0,400}", image)
        text = banner[0].decode("ascii") if banner else ""
    return "PREEMPT_RT" in text


def _version_text(image: bytes) -> str | None:
    """"6.1.0-56-rt-amd64 (builder) #1 SMP PREEMPT_RT ...", as a bzImage's header has it; None for what is none."""
    if image[_SETUP_MAGIC[0] :][:4] != _SETUP_MAGIC[1]:
        return None
    (pointer,) = struct.unpack_from("<H", image, 0x20E)
    return image[pointer + 0x200 : pointer + 0x300].split(b"\0", 1)[0].decode("ascii", "replace")
