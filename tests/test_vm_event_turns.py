"""Rings that another process fills: restarts and RTC settings take their turn by the moment; and foreign sources."""

from __future__ import annotations

import os
import queue
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from harness.vm_event import (
    RtcChange,
    ServiceError,
    SettledRtcChange,
    SharedRing,
    SourceError,
    Tunnel,
    VmEventService,
)
from harness.vm_event.abi import ELEMENT
from harness.vm_event.source import TunnelSource
from tests.vm_event_support import NOON, PATIENCE, SECOND, eventually, nothing_left_open

LATE = 100 * SECOND


class Writer:
    """The other process: puts elements with any stamp."""

    def __init__(self) -> None:
        self.ring = SharedRing.create(shared=True)
        self.kick = os.eventfd(0)
        assert self.ring.descriptor is not None
        self.descriptor = self.ring.descriptor

    def put(self, delta: int, at: float, kind: int = 0) -> None:
        assert self.ring.put(ELEMENT.pack(kind, NOON, delta, round(at * SECOND)))
        os.eventfd_write(self.kick, 1)

    def close(self) -> None:
        self.ring.close()
        os.close(self.kick)


@pytest.fixture
def writer() -> Iterator[Writer]:
    writer = Writer()
    yield writer
    writer.close()


@pytest.fixture
def source(writer: Writer) -> Iterator[TunnelSource]:
    tunnel = Tunnel.attach(writer.descriptor, writer.kick)
    source = TunnelSource("hv", tunnel, vm="vm0", window=1.0, stamped=True, trusted=False)
    yield source
    source.close()


def told(source: TunnelSource, now_ns: int = LATE) -> list[int | None]:
    """The deltas of what comes out when everything is read at `now_ns`."""
    events = [event for event in source.collect(now_ns) if isinstance(event, SettledRtcChange)]
    events += iter(lambda: source.expire(now_ns), None)
    return [event.delta_time for event in events]


def test_a_restart_takes_its_turn_by_the_moment_it_belongs_to(writer: Writer, source: TunnelSource) -> None:
    writer.put(1, at=10.0)  # due before the restart: told
    writer.put(2, at=20.0)  # pending then: dies
    writer.put(4, at=20.5)  # sent after it, though before it was read
    source.restart(round(20.3 * SECOND))
    assert told(source) == [1, 4]
    assert source.status()["stale"] == 0


def test_what_is_read_after_a_restart_but_was_sent_before_belongs_to_the_former_life(
    writer: Writer, source: TunnelSource
) -> None:
    source.restart(20 * SECOND)
    assert told(source) == []
    writer.put(1, at=19.0)
    writer.put(2, at=19.999, kind=1)
    assert source.collect(LATE) == []
    writer.put(4, at=19.9)
    writer.put(8, at=20.0)
    assert told(source) == [8]
    status = source.status()
    assert (status["stale"], status["dropped"], status["raw"], status["passed"]) == (3, 3, 1, 0)


def test_a_stamp_that_goes_back_counts_as_the_one_before_it(writer: Writer, source: TunnelSource) -> None:
    source.restart(20 * SECOND)
    writer.put(1, at=21.0)
    writer.put(2, at=19.0)
    assert told(source) == [3]
    assert source.status()["stale"] == 0


def test_a_power_off_of_the_new_life_is_not_throttled_by_one_of_the_former(
    writer: Writer, source: TunnelSource
) -> None:
    writer.put(0, at=10.0, kind=1)
    source.restart(round(10.2 * SECOND))
    writer.put(0, at=10.4, kind=1)
    writer.put(0, at=10.6, kind=1)
    assert len(source.collect(LATE)) == 2
    assert source.status()["throttled"] == 1


def test_restarts_follow_each_other(writer: Writer, source: TunnelSource) -> None:
    for number in range(5):
        writer.put(1 << number, at=10 + number)
        source.restart(round((10.5 + number) * SECOND))
    writer.put(100, at=30)
    assert told(source) == [100]


def test_the_rtc_of_a_foreign_source_is_set_in_its_turn(writer: Writer, source: TunnelSource) -> None:
    for at in (10, 14):
        writer.ring.put(ELEMENT.pack(0, -1, NOON + 101, at * SECOND))
    source.set_rtc(NOON, 8 * SECOND)
    source.set_rtc(NOON + 1000, 12 * SECOND)
    events = source.collect(LATE) + list(iter(lambda: source.expire(LATE), None))
    assert [event.last_time for event in events if isinstance(event, SettledRtcChange)] == [NOON + 2, NOON + 1002]


def test_without_stamps_the_arrival_decides(writer: Writer) -> None:
    tunnel = Tunnel.attach(writer.descriptor, writer.kick)
    source = TunnelSource("hv", tunnel, vm="vm0", window=1.0, stamped=False, trusted=False)
    writer.put(1, at=0)
    source.collect(10 * SECOND)
    source.restart(round(10.1 * SECOND))
    writer.put(2, at=0)
    source.collect(round(10.2 * SECOND))
    assert told(source) == [2]
    source.close()


def test_a_stall_between_two_looks_splits_no_update_of_a_ring_without_stamps(writer: Writer) -> None:
    tunnel = Tunnel.attach(writer.descriptor, writer.kick)
    source = TunnelSource("hv", tunnel, vm="vm0", window=1.0, stamped=False, trusted=False)
    writer.put(1, at=0)
    source.collect(10 * SECOND)
    writer.put(2, at=0)  # in time, but nobody looked
    writer.put(0, at=0, kind=1)
    source.collect(round(12.5 * SECOND))
    assert source.deadline_ns() == round(13.5 * SECOND)
    assert told(source, round(13.4 * SECOND)) == []
    writer.put(0, at=0, kind=1)  # says nothing of the RTC, and holds nothing up
    assert told(source, round(13.5 * SECOND)) == [3]
    source.close()


def test_stamps_are_believed_up_to_the_moment_in_which_the_ring_was_read(writer: Writer) -> None:
    """The reader was held up for 3 s between its look at the clock and the one at the ring."""
    tunnel = Tunnel.attach(writer.descriptor, writer.kick)
    now_ns = [10 * SECOND]
    source = TunnelSource(
        "hv", tunnel, vm="vm0", window=1.0, stamped=True, trusted=False, clock=lambda: now_ns[0]
    )  # fmt: skip
    writer.put(1, at=10)
    source.collect(10 * SECOND)
    writer.put(2, at=12)
    writer.put(4, at=99)
    now_ns[0] = round(13.5 * SECOND)
    source.collect(round(10.5 * SECOND))
    assert source.deadline_ns() == 11 * SECOND
    assert told(source) == [1, 2, 4], "12 and 99, which can only be 13.5"
    source.close()


def test_a_restart_ends_what_a_disabled_source_had_pending(writer: Writer, source: TunnelSource) -> None:
    writer.put(1, at=10)
    source.collect(10 * SECOND)
    os.pwrite(writer.descriptor, struct.pack("<Q", 0), 0)
    source.collect(10 * SECOND)
    assert source.error is not None and "magic" in source.error
    source.restart(round(10.5 * SECOND))
    assert told(source) == []


class Foreign:
    """A source of a user's own: what is written into its pipe settles at once, and 'x' breaks it."""

    name = "own"
    error = None

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        self.late = False
        os.set_blocking(self._read, False)

    def fileno(self) -> int:
        return self._read

    def collect(self, now_ns: int) -> list[Any]:
        data = os.read(self._read, 100)
        if b"x" in data:
            raise RuntimeError("broken")
        if b"y" in data:
            self.late = True
            return []
        return [SettledRtcChange(NOON, NOON + number, number, None, source=self.name, vm="vm0") for number in data]

    def deadline_ns(self) -> int | None:
        if self.late:
            raise RuntimeError("late")
        return None

    def expire(self, now_ns: int) -> SettledRtcChange | None:
        return None

    def set_rtc(self, rtc: int, stamp_ns: int) -> None: ...

    def restart(self, stamp_ns: int) -> None: ...

    def status(self) -> dict[str, Any]:
        return {"settled": 1, "error": None}

    def close(self) -> None:
        os.close(self._read)
        os.close(self.write)
        if self.late:
            raise RuntimeError("broken to the end")


def test_a_source_of_the_users_own_is_opened_for_every_life_and_its_failure_is_its_own() -> None:
    opened: list[Foreign] = []
    heard: queue.SimpleQueue[SettledRtcChange] = queue.SimpleQueue()

    def open_one() -> Foreign:
        opened.append(Foreign())
        return opened[-1]

    with nothing_left_open(), VmEventService("vm0", window=1e-6) as service:
        service.subscribe(heard.put)
        service.add_source("own", open_one)
        with pytest.raises(ServiceError, match="there is a source 'own' already"):
            service.add_source("own", open_one)
        for life in range(3):
            service.start()
            with pytest.raises(ServiceError, match="before the service is started"):
                service.add_source("other", open_one)
            assert len(opened) == life + 1
            os.write(opened[-1].write, b"\x07")
            assert heard.get(timeout=PATIENCE).as_json()["raw_events"] is None
            os.write(opened[-1].write, b"xy"[life % 2 : life % 2 + 1])
            eventually(lambda: service.status()["sources"]["own"]["error"], "its failure to be told")
            assert service.status()["sources"]["own"]["error"] == f"RuntimeError: {('broken', 'late')[life % 2]}"
            assert service.send(RtcChange(NOON, 5))
            assert heard.get(timeout=PATIENCE).source == "dm"
            service.stop()


def test_a_source_that_cannot_be_opened_or_has_another_name_leaves_nothing_open() -> None:
    def refuses() -> Foreign:
        raise SourceError("no such thing")

    with nothing_left_open():
        service = VmEventService()
        service.add_source("own", Foreign)
        service.add_source("later", refuses)
        with pytest.raises(SourceError, match="no such thing"):
            service.start()
        service = VmEventService()
        service.add_source("mine", Foreign)
        with pytest.raises(ServiceError, match="source 'mine' calls itself 'own'"):
            service.start()
