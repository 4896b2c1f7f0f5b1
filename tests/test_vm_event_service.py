"""The service as its users see it: exactly once, from any thread, through any number of lives."""

from __future__ import annotations

import struct
import threading
import time
from pathlib import Path

import pytest

from harness.vm_event import (
    MonitorError,
    RtcChange,
    ServiceError,
    SettledRtcChange,
    VmEventService,
    VmEventType,
)
from tests.vm_event_support import INSTANT, NOON, PATIENCE, SECOND, Client, Heard, nothing_left_open


def test_an_update_is_told_once_and_not_before_its_window_has_passed() -> None:
    with nothing_left_open(), VmEventService("vm0", window=0.3) as service:
        heard = Heard(service)
        service.start()
        last = time.monotonic_ns() + SECOND  # nothing is due while this is being sent
        for number in range(7):
            assert service.send(RtcChange(NOON + number * 60, 60), stamp_ns=last)
        event = heard.next()
        assert time.monotonic_ns() >= last + 300_000_000
        assert event == SettledRtcChange(NOON, NOON + 420, 420, 7, source="dm", vm="vm0")
        assert (service.status()["raw"], service.status()["settled"]) == (7, 1)


def test_the_window_counts_from_the_stamp_not_from_the_arrival() -> None:
    with VmEventService(window=10.0) as service:
        heard = Heard(service)
        service.start()
        service.send(RtcChange(NOON, 60), stamp_ns=time.monotonic_ns() - 10 * SECOND)
        assert heard.next().new_time == NOON + 60


def test_an_event_sent_right_after_start_is_never_overlooked() -> None:
    service = VmEventService(window=INSTANT)
    heard = Heard(service)
    with nothing_left_open():
        for number in range(200):
            service.start()
            assert service.send(RtcChange(NOON + number, 1))
            assert heard.next().last_time == NOON + number
            service.stop()


def test_what_many_threads_send_is_in_the_events_once(instant: VmEventService) -> None:
    heard = Heard(instant)
    together = threading.Barrier(8)

    def send_fifty() -> None:
        together.wait()
        for _ in range(50):
            while not instant.send(RtcChange(NOON, 3)):
                time.sleep(0)  # full: the service is behind

    threads = [threading.Thread(target=send_fifty) for _ in range(8)]
    for thread in threads:
        thread.start()
    raw = delta = 0
    while raw < 400:
        event = heard.next()
        assert event.raw_events is not None and event.delta_time is not None
        raw += event.raw_events
        delta += event.delta_time
    for thread in threads:
        thread.join()
    assert (raw, delta) == (400, 1200)
    assert instant.status()["raw"] == 400
    assert heard.events.empty()


def test_what_is_known_of_the_rtc_counts_from_its_stamp(instant: VmEventService) -> None:
    heard = Heard(instant)
    instant.set_rtc(NOON, stamp_ns=10 * SECOND)
    instant.send(RtcChange(-1, NOON + 1001), stamp_ns=15 * SECOND)
    assert heard.next() == SettledRtcChange(NOON + 5, NOON + 1000, 995, 1, estimated=True, vm="vm0")


def test_what_is_known_of_the_rtc_before_the_start_is_kept_for_one_life() -> None:
    with VmEventService(window=INSTANT) as service:
        heard = Heard(service)
        service.set_rtc(NOON, stamp_ns=10 * SECOND)
        service.start()
        service.send(RtcChange(-1, NOON + 1001), stamp_ns=10 * SECOND)
        assert heard.next().last_time == NOON
        service.stop()
        service.start()
        service.send(RtcChange(-1, NOON + 1001), stamp_ns=10 * SECOND)
        assert heard.next().last_time is None, "what the last life knew died with it"


def test_the_rtc_of_a_source_that_there_is_not_is_a_mistake_at_any_time() -> None:
    with VmEventService("vm0") as service:
        for _ in ("before the start", "while it runs"):
            service.set_rtc(NOON)
            with pytest.raises(ServiceError, match="vm0: there is no source 'hv'"):
                service.set_rtc(NOON, source="hv")
            if not service.running:
                service.start()


def test_a_pending_update_dies_with_its_life_and_is_in_no_later_event() -> None:
    with VmEventService(window=0.2) as service:
        heard = Heard(service)
        service.start()
        service.send(RtcChange(NOON, 5000), stamp_ns=time.monotonic_ns() + 3600 * SECOND)
        service.stop()
        service.start()
        service.send(RtcChange(NOON, 60))
        assert heard.next() == SettledRtcChange(NOON, NOON + 60, 60, 1)
        assert service.status()["settled"] == 1


def test_a_restart_ends_what_is_pending_and_keeps_the_connections(path: Path) -> None:
    with VmEventService(window=1.0) as service:
        service.start(path)
        with Client(path) as client:
            assert client.register() == {"ack": 0}
            at = time.monotonic_ns() + SECOND  # nothing is due while this is being sent
            service.set_rtc(NOON, stamp_ns=at)
            service.send(RtcChange(NOON, 5000), stamp_ns=at)
            service.restart(stamp_ns=at)
            service.send(RtcChange(-1, NOON + 61), stamp_ns=at)
            event = client.receive()
            assert (event["raw_events"], event["new_time"], event["last_time"]) == (1, NOON + 60, None)
            assert service.status()["settled"] == 1


def test_a_restart_needs_a_service_that_runs() -> None:
    with pytest.raises(ServiceError, match="not running"):
        VmEventService().restart()


def test_an_event_for_a_service_that_does_not_run_is_refused_and_never_told_later() -> None:
    service = VmEventService(window=INSTANT)
    heard = Heard(service)
    assert not service.send(RtcChange(NOON, 1))
    service.start()
    service.send(RtcChange(NOON, 2))
    assert heard.next().delta_time == 2
    service.stop()
    assert not service.send(RtcChange(NOON, 3))
    service.start()
    service.send(RtcChange(NOON, 4))
    assert heard.next().delta_time == 4
    service.stop()


def test_what_is_given_to_a_service_that_has_failed_is_counted_as_unheeded(monkeypatch: pytest.MonkeyPatch) -> None:
    with nothing_left_open(), VmEventService() as service:
        service.start()
        assert service._session is not None

        def fail() -> None:
            raise RuntimeError("struck by lightning")

        monkeypatch.setattr(service._session, "_turn", fail)
        service.send(RtcChange(NOON, 1))
        assert service.wait(PATIENCE)
        assert not service.send(RtcChange(NOON, 2))
        assert service.status()["unheeded"] == service.status()["dropped"] == 1


def test_hundreds_of_lives_with_all_there_is_leave_nothing_behind(path: Path) -> None:
    with nothing_left_open():
        service = VmEventService("vm0", window=INSTANT)
        heard = Heard(service)
        for number in range(300):
            service.start(path)
            with Client(path) as client:
                assert client.register() == {"ack": 0}
                service.send(RtcChange(NOON, number))
                assert client.receive()["delta_time"] == number
                service.send(RtcChange(NOON, 1), stamp_ns=time.monotonic_ns() + 3600 * SECOND)
                service.stop()
                assert client.receive() is None
            assert not path.exists()
            assert heard.next().delta_time == number
        assert heard.events.empty()


def test_exactly_one_thread_serves(path: Path) -> None:
    before = threading.active_count()
    with VmEventService() as service:
        service.start(path)
        with Client(path) as client:
            assert client.register() == {"ack": 0}
            assert threading.active_count() == before + 1


def test_stop_does_not_wait_for_a_stalled_client_or_for_the_window(path: Path) -> None:
    with nothing_left_open(), VmEventService(window=INSTANT) as service:
        service.start(path)
        with Client(path) as client:
            assert client.register() == {"ack": 0}
            for _ in range(400):
                service.send(RtcChange(NOON, 1))
            service.send(RtcChange(NOON, 1), stamp_ns=time.monotonic_ns() + 3600 * SECOND)
            service.stop()
            service.stop()


def test_stop_may_come_from_every_thread_at_once(path: Path) -> None:
    with nothing_left_open():
        service = VmEventService(window=INSTANT)
        for _ in range(20):
            service.start(path)
            threads = [threading.Thread(target=service.stop) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
                assert not thread.is_alive()
            assert not service.running


def test_power_off_passes_at_once(path: Path) -> None:
    with VmEventService("vm0", window=3600.0) as service:
        service.start(path)
        with Client(path) as client:
            assert client.register() == {"ack": 0}
            service.send(RtcChange(NOON, 1))
            service.send(VmEventType.POWER_OFF)
            service.send(VmEventType.TRIPLE_FAULT)
            assert client.receive() == {"vm_event": 1, "source": "dm", "vm": "vm0"}
            assert client.receive() == {"vm_event": 2, "source": "dm", "vm": "vm0"}


def test_a_second_start_is_a_mistake_and_a_failed_one_leaves_nothing(path: Path) -> None:
    with nothing_left_open(), VmEventService() as service:
        service.start(path)
        with pytest.raises(ServiceError, match="running already"):
            service.start()
        other = VmEventService()
        with pytest.raises(MonitorError, match="listening"):
            other.start(path)
        with pytest.raises(MonitorError, match="Not a directory"):
            other.start(path / "below")
        other.start()
        other.stop()
        assert path.exists()


def test_status_before_during_and_after() -> None:
    service = VmEventService("vm0", window=INSTANT)
    assert (service.status()["running"], service.status()["vm"]) == (False, "vm0")
    heard = Heard(service)
    service.start()
    service.send(RtcChange(NOON, 1))
    heard.next()
    status = service.status()
    assert status["running"] and status["uptime"] >= 0
    assert (status["raw"], status["settled"], status["dropped"], status["overrun"]) == (1, 1, 0, 0)
    assert status["last_event"] == status["sources"]["dm"]["last_event"]
    assert status["last_event"]["new_time"] == NOON + 1
    service.stop()
    assert not service.status()["running"]
    assert service.status()["settled"] == 1
    assert not service.send(RtcChange(NOON, 1))
    service.start()
    assert service.status()["settled"] == 0
    service.stop()


def test_numbers_that_do_not_fit_are_the_senders_mistake(instant: VmEventService) -> None:
    with pytest.raises(struct.error):
        instant.send(RtcChange(2**63, 0))
    heard = Heard(instant)
    instant.send(RtcChange(NOON, 1))
    assert heard.next().delta_time == 1
