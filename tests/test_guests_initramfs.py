"""The initramfs writer: what it packs is what an independent reader of the format finds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.guests.initramfs import join, pack

NAMES = st.from_regex(r"[a-z]{1,9}", fullmatch=True)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))


def unpack(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """A reader of its own: name -> (mode, data), in order, up to the trailer."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        data_at = at + 110 + name_size + 3 & ~3
        if name == "TRAILER!!!":
            assert data_at == len(archive)
            return found
        found[name] = (mode, archive[data_at : data_at + size])
        at = data_at + size + 3 & ~3


@settings(deadline=None)
@given(st.dictionaries(PATHS, st.binary(max_size=50), max_size=6))
def test_files_come_back_with_their_folders_before_them(files: dict[str, bytes]) -> None:
    files = {path: data for path, data in files.items() if not any(p.startswith(f"{path}/") for p in files)}
    found = unpack(pack(files))
    assert {f"/{name}": data for name, (mode, data) in found.items() if mode == 0o100755} == files
    seen: set[str] = set()
    for name, (mode, _) in found.items():
        assert "/" not in name or name.rpartition("/")[0] in seen
        assert mode in {0o100755, 0o040755}
        seen.add(name)


def test_the_same_contents_give_the_same_bytes() -> None:
    assert pack({"/a": b"1", "/b/c": b"2"}) == pack({"/a": b"1", "/b/c": b"2"})


@pytest.mark.parametrize("path", ["a", "/", "/a/../b"])
def test_a_path_that_is_no_absolute_path_of_a_file_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="absolute"):
        pack({path: b""})


@settings(deadline=None)
@given(st.binary(max_size=9))
def test_a_joined_archive_begins_where_the_kernel_looks_for_it(first: bytes) -> None:
    second = pack({"/a": b"1"})
    joined = join(first, second)
    assert joined.startswith(first)
    assert joined.endswith(second)
    assert (len(joined) - len(second)) % 4 == 0


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio program here")
def test_the_cpio_program_reads_it(tmp_path: Path) -> None:
    subprocess.run(["cpio", "-idm", "--quiet"], input=pack({"/bin/x": b"data"}), cwd=tmp_path, check=True)
    assert (tmp_path / "bin" / "x").read_bytes() == b"data"
