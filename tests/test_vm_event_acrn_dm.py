"""An acrn-dm as a source: what comes over its monitor socket, in whatever form, passes at once and as it is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.vm_event.abi import VmEventType
from harness.vm_event.acrn_dm import AcrnDmSource
from harness.vm_event.events import SettledRtcChange, VmEvent
from tests.acrn_dm_peer import ACK, Driven, Peer, printed, rtc_change
from tests.vm_event_support import NOON, nothing_left_open, open_descriptors


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    with nothing_left_open(), Peer(tmp_path / "monitor") as peer:
        yield peer


@pytest.fixture
def driven(peer: Peer, tmp_path: Path) -> Iterator[Driven]:
    """A source that is registered."""
    source = AcrnDmSource(tmp_path / "monitor", vm="vm0")
    driven = Driven(source)
    driven.registered_at(peer)
    yield driven
    source.close()
    source.close()


def settled(last_time: int, delta_time: int) -> SettledRtcChange:
    return SettledRtcChange(last_time, last_time + delta_time, delta_time, None, source="monitor", vm="vm0")


def test_an_event_passes_at_once_and_says_what_acrn_dm_said(peer: Peer, driven: Driven) -> None:
    # when acrn-dm tells of an update
    peer.send(rtc_change(NOON, 60))
    # then it is there, with the new time that follows, and without a count of raw events, which nobody told
    (event,) = driven.take(1)
    assert event == settled(NOON, 60)
    assert event.as_json() == {
        **{"vm_event": 0, "last_time": NOON, "new_time": NOON + 60, "delta_time": 60, "raw_events": None},
        **{"source": "monitor", "vm": "vm0"},
    }
    assert driven.status["settled"] == driven.status["events"] == 1
    assert driven.status["last_event"] == event.as_json()
    # and nothing is left to wait for
    assert driven.source.expire(2**62) is None and driven.idle()


def test_events_are_found_however_the_stream_is_cut(peer: Peer, driven: Driven) -> None:
    # given objects with tabs, newlines, and nothing between them
    expected = [settled(NOON + number, 60 - number) for number in range(40)]
    stream = b"".join(rtc_change(NOON + number, 60 - number) for number in range(40))
    # when they come in pieces of any size, each read before the next is sent
    chance = random.Random(8547)
    while stream:
        cut = chance.choice((1, 2, 3, 7, 30, 100, 400))
        peer.send(stream[:cut])
        stream = stream[cut:]
        driven.turn()
    # then each is an event
    assert driven.take(40) == expected
    assert driven.status["garbage"] == 0


def test_many_events_at_once_are_read_in_bounded_turns(peer: Peer, driven: Driven) -> None:
    # given more than one turn reads
    for number in range(50):
        peer.send(rtc_change(NOON + number, 1))
    # when the source has its turn
    driven.turn()
    # then others get theirs before it goes on, and nothing is lost
    assert 0 < len(driven.events) < 50
    assert driven.take(50) == [settled(NOON + number, 1) for number in range(50)]


def test_what_acrn_dm_does_not_know_is_null(peer: Peer, driven: Driven) -> None:
    # given an update that began with a broken clock: ACRN's last_time is -1, its delta counts from there
    peer.send(rtc_change(-1, NOON + 1))
    # then the beginning is unknown, and the end is what the sum says
    (event,) = driven.take(1)
    assert event == SettledRtcChange(None, NOON, None, None, estimated=True, source="monitor", vm="vm0")
    assert driven.status["estimated"] == 1


def test_power_off_and_triple_fault_pass_and_unknown_types_are_counted(peer: Peer, driven: Driven) -> None:
    for kind in (1, 2, 7, 21845):
        peer.send(printed(vm_event=kind))
    peer.send(rtc_change(NOON, 5))
    assert driven.take(3) == [
        VmEvent(VmEventType.POWER_OFF, "monitor", "vm0"),
        VmEvent(VmEventType.TRIPLE_FAULT, "monitor", "vm0"),
        settled(NOON, 5),
    ]
    status = driven.status
    assert (status["passed"], status["skipped"], status["settled"], status["garbage"]) == (2, 2, 1, 0)


def test_numbers_as_cjson_prints_them_when_they_are_large(peer: Peer, driven: Driven) -> None:
    peer.send(b'{"vm_event":0,"delta_time":1e+15,"last_time":4102444800}')
    assert driven.take(1) == [settled(4102444800, 10**15)]


@pytest.mark.parametrize(
    "garbage",
    [
        b"oops",
        b'{"vm_event":0}',
        b'{"vm_event":0,"last_time":"1","delta_time":2}',
        b'{"vm_event":0,"last_time":null,"delta_time":2}',
        b'{"vm_event":0,"last_time":1.5,"delta_time":2}',
        b'{"vm_event":0,"last_time":1e999,"delta_time":2}',
        b'{"vm_event":0,"last_time":true,"delta_time":2}',
        b'{"vm_event":true}',
        b'{"vm_event":"0"}',
        b'{"vm_event":[0]}',
        b'{"\\ud800":1}',
        b'["vm_event"]',
        b'{"ack":0}',
        b'{"ack":}',
        b"\xff\xfe",
        b'{"vm_event":0,"padding":"' + b"x" * 10_000 + b'"}',
    ],
)
def test_garbage_is_counted_once_and_the_next_event_is_read(peer: Peer, driven: Driven, garbage: bytes) -> None:
    peer.send(garbage)
    peer.send(rtc_change(NOON, 5))
    assert driven.take(1) == [settled(NOON, 5)]
    assert (driven.status["garbage"], driven.status["skipped"], driven.status["settled"]) == (1, 0, 1)
    assert driven.status["registered"], "and the connection is kept: events that come meanwhile would be lost"


@pytest.mark.parametrize("begun", [b'{"vm_event":\t0,', b'{"vm_event":0,"name":"', b"{" * 5000, b'{"x":[{"y":"\\'])
def test_an_object_that_never_ends_swallows_no_event(peer: Peer, driven: Driven, begun: bytes) -> None:
    # given the beginning of an object, and nothing behind it: answer and event share a buffer in acrn-dm
    peer.send(begun)
    driven.turn()
    # when whole events follow
    peer.send(rtc_change(NOON, 5))
    peer.send(rtc_change(NOON, 6))
    # then they are read
    assert driven.take(2) == [settled(NOON, 5), settled(NOON, 6)]
    assert driven.status["garbage"] >= 1


def test_attached_descriptors_are_discarded(peer: Peer, driven: Driven) -> None:
    # when acrn-dm attaches its own end of the connection to everything that it sends
    before = open_descriptors()
    for _ in range(50):
        peer.send(rtc_change(NOON, 1))
        driven.take(1)
    # then none of them stays with us
    assert open_descriptors() == before
    # and when it hangs up, it is gone: nobody else holds that end
    peer.send(rtc_change(NOON, 2))
    peer.hang_up()
    assert driven.take(1) == [settled(NOON, 2)]
    driven.until(lambda: driven.status["last_error"] == "the connection was closed", "the end of the connection")


def test_an_end_within_an_object_is_told_and_the_next_connection_is_read_from_its_beginning(
    peer: Peer, driven: Driven
) -> None:
    peer.send(rtc_change(NOON, 1)[:-10])
    peer.hang_up()
    driven.until(lambda: driven.status["garbage"] == 1, "the end of the connection")
    driven.registered_at(peer)
    peer.send(rtc_change(NOON, 2))
    assert driven.take(1) == [settled(NOON, 2)]
    assert (driven.status["garbage"], driven.status["reconnects"]) == (1, 1)


def test_an_event_may_come_before_the_answer_to_the_registration(peer: Peer, tmp_path: Path) -> None:
    source = AcrnDmSource(tmp_path / "monitor", vm="vm0")
    driven = Driven(source)
    driven.until(lambda: driven.status["connected"], "a connection")
    peer.accept()
    peer.send(rtc_change(NOON, 1))
    peer.send(ACK)
    assert driven.take(1) == [settled(NOON, 1)]
    driven.until(lambda: driven.status["registered"], "the registration")
    assert driven.status["garbage"] == 0
    source.close()
