"""Tunnels: a ring and its kicks, whatever the other side does to them."""

from __future__ import annotations

import os
import select
import struct
import threading
from pathlib import Path

import pytest

from harness.vm_event import RingError, SharedRing, SourceError, Tunnel
from harness.vm_event.abi import ELEMENT
from harness.vm_event.ring import format_page
from harness.vm_event.tunnel import REST_NS
from tests.vm_event_support import NOON, SECOND, foreign_source, nothing_left_open, open_descriptors


def readable(tunnel: Tunnel) -> bool:
    return bool(select.select([tunnel], [], [], 0)[0])


def test_a_put_kicks_and_an_acknowledgement_takes_the_kicks_back() -> None:
    tunnel = Tunnel.create()
    assert not readable(tunnel)
    assert tunnel.put(0, NOON, 5, 123)
    assert tunnel.put(0, NOON + 5, 7, 124)
    assert readable(tunnel)
    tunnel.acknowledge()
    assert not readable(tunnel)
    tunnel.acknowledge()  # does not wait
    assert tunnel.drain() == ELEMENT.pack(0, NOON, 5, 123) + ELEMENT.pack(0, NOON + 5, 7, 124)
    tunnel.close()


def test_its_descriptors_do_not_leak_into_children_and_go_with_it() -> None:
    with nothing_left_open():
        before = {entry.split()[0] for entry in open_descriptors()}
        tunnel = Tunnel.create()
        own = {entry.split()[0] for entry in open_descriptors()} - before
        assert str(tunnel.fileno()) in own
        assert not any(os.get_inheritable(int(descriptor)) for descriptor in own)
        tunnel.close()
        tunnel.close()
        assert not tunnel.put(0, 1, 2)
        tunnel.wake()


def test_nothing_that_is_done_to_a_shared_eventfd_holds_up_or_wakes_the_reader_for_nothing() -> None:
    """The other side makes it block, takes the kicks away, and fills a counter that 2^64 reads would empty."""
    semaphore = os.eventfd(0, os.EFD_SEMAPHORE)
    with SharedRing.create(shared=True) as ring:
        assert ring.descriptor is not None
        tunnel = Tunnel.attach(ring.descriptor, semaphore)
        os.set_blocking(semaphore, True)
        os.eventfd_write(semaphore, 1)
        assert readable(tunnel)
        os.eventfd_read(semaphore)
        tunnel.acknowledge()
        os.eventfd_write(semaphore, 2**64 - 2)
        assert readable(tunnel)
        tunnel.acknowledge()
        assert not readable(tunnel), "one kick is told once, however large"
        with tunnel.lock:
            tunnel.wake()  # does not wait for room in the counter
        assert readable(tunnel)
        tunnel.close()
    os.close(semaphore)


def test_kicks_without_end_and_without_elements_go_unheard_for_a_moment_and_no_element_is_lost() -> None:
    kick = os.eventfd(0)
    with SharedRing.create(shared=True) as ring:
        assert ring.descriptor is not None
        tunnel = Tunnel.attach(ring.descriptor, kick)
        source = foreign_source(tunnel)
        now = 10 * SECOND
        looks = 0
        while source.deadline_ns() is None:
            os.eventfd_write(kick, 1)
            assert readable(tunnel)
            assert source.collect(now) == []
            now += 10_000
            looks += 1
            assert looks < 100
        os.eventfd_write(kick, 1)
        assert not readable(tunnel)
        ring.put(ELEMENT.pack(0, NOON, 5, 0))
        os.eventfd_write(kick, 1)
        assert not readable(tunnel)
        assert source.deadline_ns() == now - 10_000 + REST_NS, "it will be looked at without a kick"
        source.collect(now + REST_NS)
        assert source.status()["raw"] == 1
        assert source.deadline_ns() == now + REST_NS + SECOND
        assert readable(tunnel), "heard again"
        source.collect(now + REST_NS)
        assert not readable(tunnel)
        os.eventfd_write(kick, 1)
        assert readable(tunnel)
        source.close()
    os.close(kick)


def test_kicks_in_vain_now_and_then_are_heard() -> None:
    """As those of elements that were read before their kick was told, or of one eventfd for several rings."""
    source = foreign_source(Tunnel.create())
    now = 10 * SECOND
    for _ in range(200):
        for _ in range(20):
            source.collect(now)
        now += 2_000_000
    assert source.deadline_ns() is None
    source.close()


def test_kicks_from_before_the_attachment_are_told() -> None:
    kick = os.eventfd(3)
    with SharedRing.create(shared=True) as ring:
        assert ring.descriptor is not None
        tunnel = Tunnel.attach(ring.descriptor, kick)
        assert readable(tunnel)
        tunnel.close()
    os.close(kick)


def test_an_overrun_counter_that_went_back_counts_nothing() -> None:
    """A writer that began anew; the modulo would make billions of it."""
    page = bytearray(4096)
    format_page(page)
    tunnel = Tunnel(SharedRing(page), os.eventfd(0))
    told = []
    for counter in (7, 7, 9, 2, 0xFFFFFFFF, 0x7FFFFFFE):
        struct.pack_into("<I", page, 32, counter)
        told.append(tunnel.take_overrun())
    assert told == [7, 0, 2, 0, 0, 2**31 - 1]
    tunnel.close()


def test_many_threads_put_in_the_order_of_their_stamps() -> None:
    tunnel = Tunnel.create()
    together = threading.Barrier(8)

    def put_ten(thread: int) -> None:
        together.wait()
        for number in range(10):
            assert tunnel.put(0, thread, number)

    threads = [threading.Thread(target=put_ten, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elements = list(ELEMENT.iter_unpack(tunnel.drain()))
    stamps = [stamp for *_, stamp in elements]
    assert len(elements) == 80
    assert stamps == sorted(stamps)
    for thread_number in range(8):
        assert [number for _, thread, number, _ in elements if thread == thread_number] == list(range(10))
    tunnel.close()


def test_attaching_takes_an_eventfd_and_nothing_else_and_leaves_the_callers_alone() -> None:
    with nothing_left_open(), SharedRing.create(shared=True) as ring:
        assert ring.descriptor is not None
        with Path("/dev/null").open("rb") as null, pytest.raises(SourceError, match="not an eventfd"):
            Tunnel.attach(ring.descriptor, null.fileno())
        with pytest.raises(SourceError, match="Bad file descriptor"):
            Tunnel.attach(ring.descriptor, 10**6)
        kick = os.eventfd(0)
        with pytest.raises(SourceError):
            Tunnel.attach(kick, kick)
        os.pwrite(ring.descriptor, b"\0", 0)
        with pytest.raises(RingError, match="magic"):
            Tunnel.attach(ring.descriptor, kick)
        os.close(kick)
