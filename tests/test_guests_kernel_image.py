"""Kernel images: every packing a distribution uses is unpacked, and whatever cannot be is told, not guessed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable

import lz4.block
import pytest

from harness.guests.kernel_image import UnusableImage, has_pvh_entry, release, unpack


def note(owner: bytes, kind: int, value: bytes) -> bytes:
    name = owner + b"\0"
    padded = [part + bytes(-len(part) % 4) for part in (name, value)]
    return struct.pack("<III", len(name), len(value), kind) + b"".join(padded)


def elf(notes: bytes) -> bytes:
    """A 64-bit ELF with one PT_NOTE segment, and some text to pack."""
    header = (
        b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    )
    segment = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(notes), len(notes), 4)
    return header + segment + notes + bytes(range(256)) * 400


WITH_ENTRY = elf(note(b"Linux", 257, b"x") + note(b"Xen", 6, b"linux\0") + note(b"Xen", 18, b"\x50\x08\0\1"))
WITHOUT_ENTRY = elf(note(b"GNU", 18, b"abcd") + note(b"Xen", 1, b"abcdefgh"))


def bzimage(payload: bytes, name: bytes = b"6.1.0-56-cloud-amd64 (someone) #1") -> bytes:
    setup_sectors, offset = 3, 64
    image = bytearray((setup_sectors + 1) * 512)
    image[0x1F1] = setup_sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x300)
    struct.pack_into("<II", image, 0x248, offset, len(payload))
    image[0x500 : 0x500 + len(name)] = name
    return bytes(image) + bytes(offset) + payload + b"what follows the payload"


def with_size(packed: bytes) -> bytes:
    """The kernel's build appends the unpacked size to all packings but gzip."""
    return packed + struct.pack("<I", len(WITH_ENTRY))


def lz4_legacy(data: bytes) -> bytes:
    blocks = [lz4.block.compress(data[at : at + 40000], store_size=False) for at in range(0, len(data), 40000)]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(block)) + block for block in blocks)


def zstd(data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("no zstd program here")
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": lambda data: with_size(bz2.compress(data)),
    "xz": lambda data: with_size(lzma.compress(data)),
    "lzma": lambda data: with_size(lzma.compress(data, format=lzma.FORMAT_ALONE)),
    "lz4": lambda data: with_size(lz4_legacy(data)),
    "zstd": lambda data: with_size(zstd(data)),
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_elf_inside_is_unpacked_whatever_the_packing(packing: str) -> None:
    assert unpack(bzimage(PACKINGS[packing](WITH_ENTRY))) == WITH_ENTRY


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (b"", "not a bzImage"),
        (WITH_ENTRY * 2, "not a bzImage"),
        (bzimage(gzip.compress(WITH_ENTRY))[:-1000], "truncated"),
        (bzimage(b""), "truncated"),
        (bzimage(b"\x89LZO" + bytes(100)), "packing nobody knows: it begins with 894c5a4f"),
        (bzimage(gzip.compress(WITH_ENTRY)[:20] + bytes(200)), "does not unpack"),
        (bzimage(gzip.compress(WITHOUT_ENTRY)), "no PVH entry"),
        (bzimage(gzip.compress(b"not an ELF")), "no PVH entry"),
    ],
)
def test_an_image_that_cannot_be_used_says_why(image: bytes, why: str) -> None:
    with pytest.raises(UnusableImage, match=why):
        unpack(image)


def test_a_cut_elf_has_no_entry_and_no_crash() -> None:
    entry = WITH_ENTRY.index(b"\x50\x08")
    assert has_pvh_entry(WITH_ENTRY[: entry + 4])
    assert not any(has_pvh_entry(WITH_ENTRY[:length]) for length in range(entry - 4))


def test_the_release_is_read_from_the_header() -> None:
    assert release(bzimage(b"x")) == "6.1.0-56-cloud-amd64"
    assert release(WITH_ENTRY) is None
