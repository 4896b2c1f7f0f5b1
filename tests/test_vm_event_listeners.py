"""Subscribers, streams and actions: everybody is told everything once, at their own pace, and delays nobody."""

from __future__ import annotations

import gc
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.vm_event import (
    EventStream,
    RtcChange,
    ServiceError,
    SettledRtcChange,
    VmEvent,
    VmEventService,
    VmEventType,
)
from harness.vm_event import listeners as listeners_module
from tests.vm_event_support import INSTANT, NOON, PATIENCE, SECOND, Client, Heard, eventually, nothing_left_open


def settle(service: VmEventService, deltas: range) -> None:
    """Have an update a second settle, in the past: however they are read, none merges with another."""
    for number in deltas:
        assert service.send(RtcChange(NOON, number), stamp_ns=number * SECOND)


def test_stop_may_come_from_its_own_callbacks(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def stop_first(argument: str | None) -> bool:
        service.stop()
        return True

    with nothing_left_open():
        service = VmEventService(window=INSTANT)
        service.on_command("destroy", stop_first)
        unsubscribe = service.subscribe(lambda event: service.stop())
        service.start(path)
        service.send(RtcChange(NOON, 1))
        eventually(lambda: not service.running, "the subscriber to stop it")
        unsubscribe()
        eventually(lambda: not path.exists(), "the end")
        service.start(path)
        with Client(path) as client:
            client.send(b'{"command":"destroy"}')
            assert client.receive() is None
        service.stop()
    assert caplog.records == []


def test_a_subscriber_that_is_slow_or_fails_delays_nobody(path: Path) -> None:
    released = threading.Event()

    slow: list[int | None] = []

    def fails(event: SettledRtcChange) -> None:
        raise RuntimeError("not today")

    def waits(event: SettledRtcChange) -> None:
        released.wait(PATIENCE)
        slow.append(event.delta_time)

    with nothing_left_open(), VmEventService(window=INSTANT) as service:
        service.subscribe(waits)
        service.subscribe(fails)
        heard = Heard(service)
        service.start(path)
        with Client(path) as client:
            assert client.register() == {"ack": 0}
            for number in range(20):
                service.send(RtcChange(NOON, number))
                assert client.receive()["delta_time"] == number
                assert heard.next().delta_time == number
        assert slow == []
        released.set()
        service.stop()
        assert slow == list(range(20)), "what was settled before the stop is still told"


def test_unsubscribing_ends_the_calls(instant: VmEventService) -> None:
    seen: list[SettledRtcChange] = []
    unsubscribe = instant.subscribe(seen.append)
    unsubscribe()
    unsubscribe()
    heard = Heard(instant)
    instant.send(RtcChange(NOON, 1))
    heard.next()
    assert seen == []


def test_power_offs_are_told_to_those_who_want_every_event(instant: VmEventService) -> None:
    everything: list[object] = []
    instant.subscribe_all(everything.append)
    changes = Heard(instant)
    instant.send(VmEventType.POWER_OFF)
    instant.send(RtcChange(NOON, 5))
    assert changes.next().delta_time == 5
    eventually(lambda: len(everything) == 2, "both")
    assert everything == [VmEvent(VmEventType.POWER_OFF, "dm", "vm0"), SettledRtcChange(NOON, NOON + 5, 5, 1, vm="vm0")]


def test_every_iterator_gives_every_event_and_ends_at_the_stop(instant: VmEventService) -> None:
    given: list[list[int | None]] = [[], [], []]
    streams = [instant.events() for _ in given]

    def consume(number: int) -> None:
        given[number] = [event.delta_time for event in streams[number]]

    threads = [threading.Thread(target=consume, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    settle(instant, range(1, 101))
    eventually(lambda: instant.status()["settled"] == 100, "all to settle")
    instant.stop()
    for thread in threads:
        thread.join(PATIENCE)
    assert given == [list(range(1, 101))] * 3, "what settled before the stop is still given"
    assert [stream.missed for stream in streams] == [0, 0, 0]
    assert list(streams[0]) == []


def test_an_iterator_may_be_made_before_the_start_and_lasts_for_one_life() -> None:
    with nothing_left_open(), VmEventService(window=INSTANT) as service:
        events = service.events()
        service.start()
        settle(service, range(1, 2))
        assert next(events).delta_time == 1
        service.stop()
        service.start()
        settle(service, range(2, 3))
        assert next(events, None) is None
        assert service.status()["subscribers"] == 0


def test_a_slow_consumer_delays_nobody_and_learns_what_it_missed(
    instant: VmEventService, caplog: pytest.LogCaptureFixture
) -> None:
    slow, heard = instant.events(limit=3), Heard(instant)
    settle(instant, range(1, 11))
    for number in range(1, 11):
        assert heard.next().delta_time == number
    eventually(lambda: instant.status()["missed"] == 7, "the count")
    assert next(slow).delta_time == 8
    assert slow.missed == 7, "known before the event that follows the gap is looked at"
    assert instant.status()["behind"] == 1
    assert instant.status()["subscribers"] == 2
    assert "somebody is too slow" in caplog.text
    instant.stop()
    assert [event.delta_time for event in slow] == [9, 10]


def test_a_subscriber_that_is_too_slow_misses_the_oldest_and_is_counted(
    instant: VmEventService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners_module, "WAITING_LIMIT", 3)
    begun, released = threading.Event(), threading.Event()
    seen: list[int | None] = []

    def waits(event: SettledRtcChange) -> None:
        seen.append(event.delta_time)
        begun.set()
        released.wait(PATIENCE)

    instant.subscribe(waits)
    settle(instant, range(1, 2))
    assert begun.wait(PATIENCE)
    settle(instant, range(2, 10))
    eventually(lambda: instant.status()["missed"] == 5, "the count")
    assert instant.status()["behind"] == 1
    released.set()
    instant.stop()
    assert seen == [1, 7, 8, 9]


def test_an_abandoned_iterator_is_not_filled_for_ever(instant: VmEventService) -> None:
    heard = Heard(instant)
    events = instant.events()
    settle(instant, range(1, 3))
    for event in events:
        assert event.delta_time == 1
        break
    heard.next()
    assert instant.status()["subscribers"] == 2
    del events
    gc.collect()
    assert instant.status()["subscribers"] == 1


def test_waiting_for_an_event_can_be_given_up(instant: VmEventService) -> None:
    with instant.events() as events:
        with pytest.raises(TimeoutError):
            events.take(timeout=0.0)
        settle(instant, range(1, 2))
        event = events.take(timeout=PATIENCE)
        assert event is not None and event.delta_time == 1
    assert events.take() is None
    with pytest.raises(ValueError, match="at least one"):
        instant.events(limit=0)


def test_an_iterator_of_a_service_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with nothing_left_open(), VmEventService(window=INSTANT) as service:
        service.start()
        events = service.events()
        session = service._session
        assert session is not None

        def fail() -> None:
            raise RuntimeError("struck by lightning")

        monkeypatch.setattr(session, "_turn", fail)
        service.send(VmEventType.POWER_OFF)
        with pytest.raises(ServiceError, match="failed: RuntimeError: struck by lightning"):
            next(events)


def test_an_iterator_that_is_made_while_a_life_ends_is_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    service = VmEventService("vm0", window=INSTANT)
    late: list[EventStream] = []
    end = EventStream.end

    def end_and_make_another(stream: EventStream, failure: str | None = None) -> None:
        end(stream, failure)
        if not late:
            late.append(service.events())

    with monkeypatch.context() as patch, nothing_left_open(), service:
        first = service.events()
        service.start()
        patch.setattr(EventStream, "end", end_and_make_another)
        service.stop()
        assert list(first) == []
        service.start()
        settle(service, range(1, 2))
        assert late[0].take(PATIENCE) is not None
        service.stop()
        assert list(late[0]) == []


def test_an_event_that_is_on_its_way_to_one_who_unsubscribes_starts_no_thread_and_is_not_missed(
    instant: VmEventService,
) -> None:
    # Given somebody who unsubscribes after those who are to be told have been looked up, and before it is told.
    told: list[SettledRtcChange] = []
    listeners = instant._listeners
    with nothing_left_open():
        unsubscribe = instant.subscribe(told.append)
        (subscriber,) = listeners._subscribers
        unsubscribe()
        assert subscriber.offer(SettledRtcChange(NOON, NOON + 60, 60, 1, source="dm", vm="vm0"))
    assert told == []
    assert subscriber.missed == 0


class Recorder:
    """An action that can be held up, and notes what it is told."""

    def __init__(self) -> None:
        self.acts: list[int | None] = []
        self.lives = 0
        self.begun, self.released = threading.Event(), threading.Event()

    def begin(self) -> None:
        self.lives += 1
        self.acts.clear()

    def act(self, event: SettledRtcChange) -> None:
        self.acts.append(event.delta_time)
        self.begun.set()
        assert self.released.wait(PATIENCE)

    def interrupt(self) -> None:
        self.released.set()

    def status(self) -> dict[str, Any]:
        return {"run": len(self.acts)}


def test_actions_are_done_in_order_and_counted_by_life() -> None:
    action = Recorder()
    action.released.set()
    with nothing_left_open(), VmEventService("vm0", window=INSTANT) as service:
        service.add_action("record", action)
        with pytest.raises(ServiceError, match="action 'record' already"):
            service.add_action("record", action)
        for life in (1, 2):
            service.start()
            with pytest.raises(ServiceError, match="before the service is started"):
                service.add_action("late", action)
            settle(service, range(1, 30))
            eventually(lambda: service.status()["actions"]["record"]["run"] == 29, "the actions")
            service.stop()
            assert action.acts == list(range(1, 30))
            assert action.lives == life
            assert service.status()["actions"] == {"record": {"run": 29, "missed": 0, "abandoned": 0}}


def test_a_stop_interrupts_what_an_action_is_doing_and_gives_up_what_waited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listeners_module, "PATIENCE", 0.0)
    action = Recorder()
    with nothing_left_open(), VmEventService("vm0", window=INSTANT) as service:
        service.add_action("record", action)
        service.start()
        settle(service, range(1, 6))
        assert action.begun.wait(PATIENCE)
        eventually(lambda: service.status()["settled"] == 5, "all to settle")
        service.stop()
        assert action.acts == [1]
        assert service.status()["actions"]["record"]["abandoned"] == 4
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "vm_event-vm0-record is interrupted by the stop; 4 events are given up" in caplog.text
