"""Sources that read a tunnel: stamps and stalls, turns, overruns, the throttle, what cannot be read."""

from __future__ import annotations

import os
import struct

from hypothesis import given
from hypothesis import strategies as st

from harness.vm_event import RtcChange, SettledRtcChange, SharedRing, Tunnel, VmEvent, VmEventType
from harness.vm_event.abi import ELEMENT
from harness.vm_event.events import Event
from harness.vm_event.throttle import Throttle
from tests.vm_event_support import NOON, SECOND, UNHURRIED, all_due, dm_source, foreign_source


def test_a_stalled_service_neither_merges_nor_splits_updates() -> None:
    """Everything is read long after it happened; the stamps decide."""
    source = dm_source(Tunnel.create())
    for at in (10.0, 10.999999999, 11.9, 12.9, 12.95):
        source.send(RtcChange(NOON, 0), round(at * SECOND))
    source.collect(100 * SECOND)
    assert [event.raw_events for event in all_due(source, 100 * SECOND)] == [3, 2]
    source.close()


def test_elements_of_a_foreign_ring_are_stamped_on_arrival() -> None:
    tunnel = Tunnel.create()
    source = foreign_source(tunnel)
    tunnel.put(0, NOON, 5, 1)
    tunnel.put(0, NOON + 5, 5, 2)
    source.collect(50 * SECOND)
    assert source.deadline_ns() == 51 * SECOND
    assert [event.raw_events for event in all_due(source, 51 * SECOND)] == [2]
    source.close()


def test_stamps_of_another_process_are_believed_only_up_to_now() -> None:
    tunnel = Tunnel.create()
    source = foreign_source(tunnel, stamped=True)
    tunnel.put(0, NOON, 5, 49 * SECOND)
    source.collect(50 * SECOND)
    assert source.deadline_ns() == 50 * SECOND
    tunnel.put(0, NOON + 5, 5, 10**19)
    tunnel.put(0, NOON + 5, 5, 0)
    source.collect(50 * SECOND)
    assert [event.raw_events for event in all_due(source, 51 * SECOND)] == [1, 2]
    source.close()


def test_stamps_from_long_ago_make_no_flood_of_events() -> None:
    """Each a window apart, over all the time the machine is up: what is told at once stays bounded."""
    tunnel = Tunnel.create()
    source = foreign_source(tunnel, stamped=True)
    told: list[Event] = []
    for batch in range(40):
        for second in range(0, 120, 2):
            assert tunnel.put(0, NOON, 5, (batch * 120 + second + 1) * SECOND)
            assert tunnel.put(1, 0, 0, (batch * 120 + second + 1) * SECOND)
        told += source.collect(4800 * SECOND)
        told += all_due(source, 4800 * SECOND)
    for _ in range(1000):
        assert tunnel.put(0, NOON, 5, SECOND)
        told += source.collect(4800 * SECOND)
        told += all_due(source, 4800 * SECOND)
    changes = sum(isinstance(event, SettledRtcChange) for event in told)
    assert changes <= 301
    assert len(told) - changes <= 301
    source.close()


def test_set_rtc_takes_its_turn_among_the_events() -> None:
    source = dm_source(Tunnel.create())
    source.set_rtc(NOON, 10 * SECOND)
    source.send(RtcChange(-1, NOON + 101), 10 * SECOND)  # estimated from the first set_rtc
    source.set_rtc(NOON + 5000, 10 * SECOND)
    source.send(RtcChange(-1, NOON + 5001), 12 * SECOND)  # and this one from the second, 2 s later
    source.collect(20 * SECOND)
    first, second = all_due(source, 20 * SECOND)
    assert (first.last_time, first.new_time, first.delta_time) == (NOON, NOON + 100, 100)
    assert (second.last_time, second.new_time, second.delta_time) == (NOON + 5002, NOON + 5000, -2)
    source.close()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
@UNHURRIED
def test_set_rtc_keeps_its_turn_whenever_the_ring_is_read(steps: list[tuple[bool, bool]]) -> None:
    """Things happen 10 s apart; each update starts at what was last known of the RTC, and the time since."""
    source = dm_source(Tunnel.create())
    expected = []
    rtc, known_at = NOON, 0
    source.set_rtc(rtc, 0)
    for number, (is_reset, somebody_reads) in enumerate(steps, start=1):
        at = number * 10
        if is_reset:
            rtc = NOON + number * 10**6
            source.set_rtc(rtc, at * SECOND)
        else:
            expected.append(rtc + at - known_at)
            rtc = -NOON - number
            source.send(RtcChange(-1, rtc + 1), at * SECOND)
        known_at = at
        if somebody_reads:
            source.collect(at * SECOND)
    source.collect(10**6 * SECOND)
    assert [event.last_time for event in all_due(source, 10**6 * SECOND)] == expected
    source.close()


def test_what_was_due_before_a_restart_is_still_told_and_what_was_not_dies() -> None:
    source = dm_source(Tunnel.create())
    source.send(RtcChange(NOON, 1), 10 * SECOND)
    source.send(RtcChange(NOON, 2), 12 * SECOND)
    source.restart(12_900_000_000)
    source.send(RtcChange(NOON, 4), 12_950_000_000)
    told = source.collect(20 * SECOND) + all_due(source, 20 * SECOND)
    assert [event.delta_time for event in told if isinstance(event, SettledRtcChange)] == [1, 4]
    assert source.status()["settled"] == 2
    source.close()


def test_a_restart_ends_what_is_pending_even_if_nothing_is_sent_after_it() -> None:
    source = dm_source(Tunnel.create())
    source.send(RtcChange(NOON, 1), 10 * SECOND)
    source.restart(10 * SECOND)
    source.collect(10 * SECOND)
    assert source.deadline_ns() is None
    assert all_due(source, 99 * SECOND) == []
    source.close()


def test_a_full_ring_is_counted_and_the_next_event_says_so() -> None:
    source = dm_source(Tunnel.create())
    taken = [source.send(RtcChange(NOON, 0), 10 * SECOND) for _ in range(200)]
    assert taken.count(False) == 75
    source.collect(10 * SECOND)
    (event,) = all_due(source, 11 * SECOND)
    assert (event.raw_events, event.overrun) == (125, 75)
    assert source.status()["overrun"] == 75
    source.send(RtcChange(NOON, 0), 12 * SECOND)
    source.collect(12 * SECOND)
    (event,) = all_due(source, 13 * SECOND)
    assert event.overrun == 0
    source.close()


def test_power_off_and_triple_fault_pass_at_once_one_a_second_each() -> None:
    source = dm_source(Tunnel.create())
    for kind, at in ((1, 10.0), (2, 10.1), (1, 10.999), (1, 11.0), (1, 11.5), (2, 30.0)):
        source.send(VmEventType(kind), round(at * SECOND))
    passed = source.collect(30 * SECOND)
    assert passed == [VmEvent(VmEventType(kind), "dm", "vm0") for kind in (1, 2, 1, 2)]
    assert passed[0].as_json() == {"vm_event": 1, "source": "dm", "vm": "vm0"}
    assert source.status()["throttled"] == 2
    assert source.deadline_ns() is None
    source.close()


def test_rtc_changes_are_never_throttled() -> None:
    source = dm_source(Tunnel.create())
    for number in range(100):
        source.send(RtcChange(NOON, 0), number * SECOND)
    source.collect(200 * SECOND)
    assert len(all_due(source, 200 * SECOND)) == 100
    assert source.status()["throttled"] == 0
    source.close()


def test_unknown_types_are_counted_and_skipped() -> None:
    tunnel = Tunnel.create()
    source = dm_source(tunnel)
    for kind in (3, 77, 0, 0xFFFFFFFF):
        tunnel.put(kind, NOON, 5, SECOND)
    assert source.collect(SECOND) == []
    assert [event.raw_events for event in all_due(source, 9 * SECOND)] == [1]
    assert source.status()["skipped"] == 3
    source.close()


def test_a_change_to_a_time_that_64_bits_do_not_hold_is_skipped_and_the_rest_settles() -> None:
    tunnel = Tunnel.create()
    source = foreign_source(tunnel)
    for last, delta in ((NOON, 5), (2**63 - 1, 1), (-(2**63), -1), (2**63 - 1, 2**63 - 1), (NOON + 5, 6)):
        assert tunnel.put(0, last, delta)
    source.collect(SECOND)
    (event,) = all_due(source, 2 * SECOND)
    assert (event.last_time, event.new_time, event.delta_time, event.raw_events) == (NOON, NOON + 11, 11, 2)
    assert (source.status()["raw"], source.status()["skipped"]) == (2, 3)
    source.close()


def test_a_damaged_ring_disables_its_source_and_what_was_pending_still_settles() -> None:
    with SharedRing.create(shared=True) as ring:
        assert ring.descriptor is not None
        kick = os.eventfd(0)
        tunnel = Tunnel.attach(ring.descriptor, kick)
        source = foreign_source(tunnel)
        ring.put(ELEMENT.pack(0, NOON, 5, 0))
        source.collect(10 * SECOND)
        os.pwrite(ring.descriptor, struct.pack("<I", 13), 20)
        assert source.collect(10 * SECOND) == []
        assert source.error is not None and "tail 13" in source.error
        assert source.status()["error"] == source.error
        assert [event.new_time for event in all_due(source, 11 * SECOND)] == [NOON + 5]
        source.close()
        os.close(kick)


def test_the_throttles_window_begins_with_the_event_that_passed() -> None:
    throttle = Throttle(1.0)
    assert [throttle.admit(1, now) for now in (0.0, 0.5, 0.999, 1.0, 1.5, 2.0)] == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]
    assert throttle.admit(2, 2.0)
    assert throttle.dropped == 3
