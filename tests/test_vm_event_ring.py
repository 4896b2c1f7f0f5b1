"""The shared ring: ACRN's layout byte for byte, full and empty, and a header nobody may be trusted with."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.vm_event import RingError, SharedRing, SourceError
from harness.vm_event import ring as ring_module
from harness.vm_event.abi import DATA_SIZE, ELEMENT, HEADER, PAGE_SIZE
from harness.vm_event.ring import format_page
from tests.vm_event_support import UNHURRIED, nothing_left_open


def element(number: int) -> bytes:
    return number.to_bytes(4, "little") * 8


def fresh_page() -> bytearray:
    page = bytearray(PAGE_SIZE)
    format_page(page)
    return page


def test_an_empty_ring_has_acrns_header() -> None:
    page = bytearray(b"\xee" * PAGE_SIZE)
    format_page(page)
    assert page[:64] == bytes.fromhex(
        "a33aa11aa77aa55a"  # magic 0x5aa57aa71aa13aa3
        "7e000000"  # ele_num 126
        "20000000"  # ele_size 32
        "00000000"  # head
        "00000000"  # tail
        "00000000"  # flags
        "00000000"  # reserved
        "00000000"  # overrun_cnt
        "c00f0000" + "00" * 24  # size 4032
    )
    assert page[64:] == b"\xee" * 4032


def test_an_rtc_element_has_acrns_fields_and_our_stamp_behind_them() -> None:
    packed = ELEMENT.pack(0, -1, 0x1122334455667788, 0x0102030405060708)
    assert packed == bytes.fromhex("00000000" + "ff" * 8 + "8877665544332211" + "0807060504030201" + "00000000")
    assert len(packed) == 32


def test_put_writes_the_element_behind_the_header_and_moves_the_tail() -> None:
    page = fresh_page()
    with SharedRing(page) as ring:
        assert ring.put(element(7))
    assert page[64:96] == element(7)
    assert struct.unpack_from("<II", page, 16) == (0, 32)


def test_get_takes_what_another_program_put_and_moves_the_head() -> None:
    page = fresh_page()
    page[64:96] = element(9)
    struct.pack_into("<I", page, 20, 32)
    with SharedRing(page) as ring:
        assert ring.get() == element(9)
        assert ring.get() is None
    assert struct.unpack_from("<II", page, 16) == (32, 32)


def test_a_full_ring_refuses_the_element_and_counts_it() -> None:
    with SharedRing.create() as ring:
        accepted = [ring.put(element(number)) for number in range(130)]
        assert accepted == [True] * 125 + [False] * 5
        assert ring.overrun == 5
        assert ring.drain() == b"".join(element(number) for number in range(125))
        assert ring.put(element(1))
        assert ring.overrun == 5


@given(st.lists(st.integers(0, 200), max_size=60))
@UNHURRIED
def test_elements_come_out_once_and_in_order_over_any_number_of_rounds(batches: list[int]) -> None:
    with SharedRing.create() as ring:
        number = 0
        for batch in batches:
            room = min(batch, 125)
            for offset in range(batch):
                assert ring.put(element(number + offset)) == (offset < room)
            taken = ring.drain() if batch % 2 else b"".join(iter(ring.get, None))
            assert taken == b"".join(element(number + offset) for offset in range(room))
            number += batch


def test_an_element_of_another_size_is_a_mistake_of_the_caller() -> None:
    with SharedRing.create() as ring, pytest.raises(ValueError, match="32 bytes"):
        ring.put(b"short")


DAMAGE = {
    "magic": (0, "<Q", 1, "magic"),
    "ele_num": (8, "<I", 127, "ele_num 127"),
    "ele_size": (12, "<I", 0, "ele_size 0"),
    "head beyond": (16, "<I", DATA_SIZE, "head 4032"),
    "head unaligned": (16, "<I", 33, "head 33"),
    "tail beyond": (20, "<I", 0xFFFFFFE0, "tail"),
    "tail unaligned": (20, "<I", 1, "tail 1"),
    "size": (36, "<I", 4096, "size 4096"),
    "overwriting": (24, "<I", 2, "overwrites"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_header_is_refused_by_name(name: str) -> None:
    offset, form, value, words = DAMAGE[name]
    page = fresh_page()
    struct.pack_into(form, page, offset, value)
    with pytest.raises(RingError, match=words):
        SharedRing(page)


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_after_the_attachment_is_noticed_by_every_read(name: str) -> None:
    offset, form, value, words = DAMAGE[name]
    page = fresh_page()
    with SharedRing(page) as ring:
        ring.put(element(1))
        struct.pack_into(form, page, offset, value)
        for read in (ring.get, ring.drain):
            with pytest.raises(RingError, match=words):
                read()


def test_a_head_moved_by_the_writer_is_noticed() -> None:
    page = fresh_page()
    with SharedRing(page) as ring:
        ring.put(element(1))
        struct.pack_into("<I", page, 16, 64)
        with pytest.raises(RingError, match="moved by the other side"):
            ring.get()


def test_what_is_written_in_mid_read_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The header is looked at once: between this look and the copy the other side makes nonsense of it."""

    class Meddler:
        def unpack_from(self, page: bytearray) -> tuple[int, ...]:
            seen: tuple[int, ...] = HEADER.unpack_from(page)
            page[:64] = b"\xff" * 64
            return seen

    page = fresh_page()
    with SharedRing(page) as ring:
        for number in range(3):
            ring.put(element(number))
        with monkeypatch.context() as patch:
            patch.setattr(ring_module, "HEADER", Meddler())
            assert ring.drain() == element(0) + element(1) + element(2)
        with pytest.raises(RingError, match="magic"):
            ring.drain()


def test_a_writer_does_not_follow_a_bad_head() -> None:
    page = fresh_page()
    with SharedRing(page) as ring:
        struct.pack_into("<I", page, 16, 5000)
        with pytest.raises(RingError, match="head 5000"):
            ring.put(element(1))


@given(
    st.lists(st.tuples(st.integers(0, PAGE_SIZE - 1), st.integers(0, 255)), max_size=30),
    st.binary(max_size=64),
)
@settings(UNHURRIED, max_examples=300)
def test_whatever_is_written_into_the_page_a_read_ends_in_elements_or_in_a_ring_error(
    pokes: list[tuple[int, int]], header: bytes
) -> None:
    page = fresh_page()
    with SharedRing(page) as ring:
        page[: len(header)] = header
        for offset, value in pokes:
            page[offset] = value
        try:
            taken = ring.drain()
        except RingError:
            return
        assert len(taken) % 32 == 0
        assert len(taken) <= 125 * 32


def test_a_shared_ring_is_sealed_and_attached_by_its_descriptor() -> None:
    with nothing_left_open(), SharedRing.create(shared=True) as ours:
        descriptor = ours.descriptor
        assert descriptor is not None
        assert not os.get_inheritable(descriptor)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        with SharedRing.attach(descriptor) as theirs:
            theirs.put(element(3))
            assert ours.get() == element(3)


def test_a_ring_crosses_a_process_boundary() -> None:
    program = (
        "import sys; from harness.vm_event import SharedRing\n"
        "ring = SharedRing.attach(int(sys.argv[1]))\n"
        "print([ring.put(bytes([n]) * 32) for n in range(3)])"
    )
    with SharedRing.create(shared=True) as ring:
        assert ring.descriptor is not None
        subprocess.run(
            [sys.executable, "-c", program, str(ring.descriptor)],
            pass_fds=[ring.descriptor],
            check=True,
            timeout=60,
            cwd=Path(__file__).parent.parent,
        )
        assert ring.drain() == b"".join(bytes([n]) * 32 for n in range(3))


def test_an_unsealed_memfd_is_sealed_when_it_can_be() -> None:
    descriptor = os.memfd_create("ring", os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, fresh_page())
        with SharedRing.attach(descriptor):
            assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    finally:
        os.close(descriptor)


def test_descriptors_that_hold_no_ring_are_refused_and_stay_the_callers() -> None:
    with nothing_left_open():
        with pytest.raises(SourceError, match="not a descriptor"):
            SharedRing.attach(-1)
        with tempfile.TemporaryFile() as file:
            file.write(fresh_page())
            file.flush()
            with pytest.raises(SourceError, match="cannot be sealed"):
                SharedRing.attach(file.fileno())
            SharedRing.attach(file.fileno(), require_seal=False).close()
            file.truncate(100)
            with pytest.raises(SourceError, match="cannot be mapped"):
                SharedRing.attach(file.fileno(), require_seal=False)
        descriptor = os.memfd_create("empty", os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, PAGE_SIZE)
        with pytest.raises(RingError, match="magic is 0x0"):
            SharedRing.attach(descriptor)
        os.close(descriptor)
        with pytest.raises(SourceError, match="Bad file descriptor"):
            SharedRing.attach(descriptor)
