"""Every update once, settled and right, whatever else goes on; judged from stamps, so that no machine is too busy."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.vm_event import RtcChange, SettledRtcChange, SharedRing, Tunnel, VmEventService, VmEventType
from harness.vm_event.abi import ELEMENT
from harness.vm_event.source import TunnelSource
from tests.vm_event_support import NOON, PATIENCE, SECOND, Client, Heard, eventually, nothing_left_open

WINDOW_NS = 4_000_000


class Sender:
    """Sends raw events with the default stamp, and knows between which moments each was stamped.

    Each goes on where the one before it ended, as a halted clock's would, with a delta that no other has.
    """

    def __init__(self, source: str, put: Callable[[RtcChange], bool]) -> None:
        self.source = source
        self._put = put
        self._rtc = NOON
        self.sent: list[tuple[int, RtcChange, int]] = []

    def send(self) -> None:
        change = RtcChange(self._rtc, len(self.sent) + 1)
        before = time.monotonic_ns()
        while not self._put(change):
            before = time.monotonic_ns()  # the ring was full
        self.sent.append((before, change, time.monotonic_ns()))
        self._rtc += change.delta_time

    def work(self, seed: int, updates: int) -> None:
        """Bursts, and pauses from far below to far above the window: most end close to it."""
        rng = random.Random(seed)
        pause = threading.Event()
        for _ in range(updates):
            for _ in range(rng.choice((1, 2, 7))):
                self.send()
            pause.wait(WINDOW_NS / 1e9 * rng.choice((0.5, 0.9, 0.95, 1.0, 1.0, 1.05, 1.5)))

    def check(self, told: list[SettledRtcChange]) -> None:
        """Whether this is what has to be told: everything once, and cut into updates where the silence was."""
        position = 0
        for event in told:
            assert event.raw_events is not None
            run = self.sent[position : position + event.raw_events]
            first, last = run[0][1], run[-1][1]
            end = last.last_time + last.delta_time
            payload = (first.last_time, end, end - first.last_time, len(run))
            assert event == SettledRtcChange(*payload, overrun=event.overrun, source=self.source, vm="vm0")
            position += event.raw_events
            for (_, _, after), (before, _, _) in itertools.pairwise(run):
                assert before - after < WINDOW_NS, "these were certainly two updates"
            if position < len(self.sent):
                (before, _, _), (_, _, after) = self.sent[position - 1 : position + 1]
                assert after - before >= WINDOW_NS, "these were certainly one update"
        assert position == len(self.sent)


@pytest.fixture
def kick() -> Iterator[int]:
    descriptor = os.eventfd(0, os.EFD_CLOEXEC)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("seed", [1, 2])
def test_both_tunnels_busy_with_events_around_the_end_of_the_window(kick: int, tmp_path: Path, seed: int) -> None:
    """With a slow subscriber, one that fails, a stalled client, and others that come and go."""
    path = tmp_path / "monitor"
    released, finished = threading.Event(), threading.Event()

    def slow(event: SettledRtcChange) -> None:
        released.wait(PATIENCE)

    def fails(event: SettledRtcChange) -> None:
        raise RuntimeError("not today")

    def come_and_go() -> None:
        while not finished.is_set():
            with Client(path) as client:
                client.ask("status")

    with (
        nothing_left_open(),
        SharedRing.create(shared=True) as ring,
        VmEventService("vm0", window=WINDOW_NS / 1e9) as service,
    ):
        assert ring.descriptor is not None
        service.add_ring("hv", ring.descriptor, kick, stamped=True)
        events = service.events(limit=10**6)
        service.subscribe(slow)
        service.subscribe(fails)
        service.start(path)
        tunnel = Tunnel.attach(ring.descriptor, kick)
        senders = [Sender("dm", service.send), Sender("hv", lambda it: tunnel.put(0, it.last_time, it.delta_time))]
        workers = [threading.Thread(target=sender.work, args=(seed, 150)) for sender in senders]
        with Client(path) as stalled:
            assert stalled.register() == {"ack": 0}  # and never reads again
            visitor = threading.Thread(target=come_and_go)
            for thread in (*workers, visitor):
                thread.start()
            for thread in workers:
                thread.join()
            sent = sum(len(sender.sent) for sender in senders)
            told: list[SettledRtcChange] = []
            while sum(event.raw_events or 0 for event in told) < sent:
                event = events.take(PATIENCE)
                assert event is not None
                told.append(event)
            finished.set()
            visitor.join()
        status = service.status()
        released.set()
        service.stop()
        assert list(events) == [], "nothing was told twice"
        tunnel.close()
    for sender in senders:
        mine = [event for event in told if event.source == sender.source]
        sender.check(mine)
        counts = status["sources"][sender.source]
        assert (counts["raw"], counts["settled"]) == (len(sender.sent), len(mine))
        assert (counts["lost"], counts["estimated"], counts["throttled"], counts["skipped"]) == (0, 0, 0, 0)
    assert status["missed"] == 0


def test_a_sender_that_has_its_stamp_is_not_overtaken_by_the_end_of_the_window() -> None:
    """It was held up before it put its element, which belongs to the update all the same."""
    tunnel = Tunnel.create()
    source = TunnelSource("dm", tunnel, vm="vm0", window=1.0, stamped=True, trusted=True)
    source.send(RtcChange(NOON, 1), 10 * SECOND)
    source.collect(10 * SECOND)
    told: list[SettledRtcChange | None] = []
    looking = threading.Event()

    def look() -> None:
        looking.set()
        source.collect(11 * SECOND)
        told.append(source.expire(11 * SECOND))

    thread = threading.Thread(target=look)
    with tunnel.lock:
        thread.start()
        assert looking.wait(PATIENCE)
        thread.join(0.05)
        assert tunnel._ring.put(ELEMENT.pack(0, NOON + 1, 2, 10_900_000_000))
    thread.join(PATIENCE)
    assert told == [None]
    assert source.expire(12 * SECOND) == SettledRtcChange(NOON, NOON + 3, 3, 2, vm="vm0")
    source.close()


def test_what_many_threads_send_at_once_is_told_once() -> None:
    with nothing_left_open(), VmEventService("vm0", window=1e-3) as service:
        events = service.events()
        service.start()
        go = threading.Barrier(4)

        def send() -> None:
            for _ in range(100):
                go.wait()
                while not service.send(RtcChange(NOON, 1)):
                    pass

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        raw = delta = 0
        while raw < 400:
            event = events.take(PATIENCE)
            assert event is not None and event.raw_events is not None and event.delta_time is not None
            raw, delta = raw + event.raw_events, delta + event.delta_time
        assert (raw, delta) == (400, 400)


def test_clients_that_join_and_leave_are_told_every_event_at_most_once_in_order(tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    with nothing_left_open(), VmEventService("vm0", window=1e-6) as service:
        service.start(path)
        heard = Heard(service)
        seen: list[int] = []
        finished = threading.Event()

        def come_and_go() -> None:
            rng = random.Random(3)
            while not finished.is_set():
                with Client(path) as client:
                    assert client.register() == {"ack": 0}
                    for _ in range(rng.randrange(4)):
                        seen.append(client.receive()["delta_time"])
                        if finished.is_set():
                            return

        thread = threading.Thread(target=come_and_go)
        thread.start()
        number = 0
        while len(seen) < 100:
            number += 1
            service.send(RtcChange(NOON, number), stamp_ns=number * SECOND)
            assert heard.next().delta_time == number
        finished.set()
        while thread.is_alive():
            number += 1
            service.send(RtcChange(NOON, number), stamp_ns=number * SECOND)
            assert heard.next().delta_time == number
        assert seen == sorted(set(seen))
        monitor = service.status()["monitor"]
        assert monitor["events_sent"] + monitor["events_unheard"] == number
        assert monitor["events_sent"] >= len(seen)
        eventually(lambda: not service.status()["monitor"]["event_client"], "the last one to be gone")
        with Client(path) as last:
            assert last.register() == {"ack": 0}
            service.send(RtcChange(NOON, -1), stamp_ns=(number + 1) * SECOND)
            assert last.receive()["delta_time"] == -1, "the next event is the next one told"


def test_power_offs_pass_at_once_by_source_and_what_is_throttled_is_counted(kick: int, tmp_path: Path) -> None:
    with (
        nothing_left_open(),
        SharedRing.create(shared=True) as ring,
        VmEventService("vm0", window=3600.0) as service,
    ):
        assert ring.descriptor is not None
        service.add_ring("hv", ring.descriptor, kick, stamped=True)
        service.start(tmp_path / "monitor")
        tunnel = Tunnel.attach(ring.descriptor, kick)
        with Client(tmp_path / "monitor") as client:
            assert client.register() == {"ack": 0}
            service.send(RtcChange(NOON, 1))
            for at in (1.0, 1.5, 1.999, 2.0, 2.5):
                service.send(VmEventType.POWER_OFF, stamp_ns=round(at * SECOND))
            for _ in range(2):
                assert client.receive() == {"vm_event": 1, "source": "dm", "vm": "vm0"}
            for kind, at in ((1, 2.5), (2, 2.6), (2, 2.7)):
                tunnel.put(kind, 0, 0, round(at * SECOND))
            assert client.receive() == {"vm_event": 1, "source": "hv", "vm": "vm0"}
            assert client.receive() == {"vm_event": 2, "source": "hv", "vm": "vm0"}
        status = service.status()
        assert {name: (it["passed"], it["throttled"]) for name, it in status["sources"].items()} == {
            "dm": (2, 3),
            "hv": (2, 1),
        }
        assert (status["passed"], status["throttled"], status["settled"]) == (4, 4, 0)
        assert status["sources"]["dm"]["pending"], "the RTC change has its hour"
        tunnel.close()


def test_the_wall_clock_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So it may be stepped."""

    def stepped() -> float:
        raise AssertionError("somebody looked at the wall clock")

    with VmEventService("vm0", window=0.01) as service:
        events = service.events()
        monkeypatch.setattr(time, "time", stepped)
        monkeypatch.setattr(time, "time_ns", stepped)
        service.start(tmp_path / "monitor")
        service.set_rtc(NOON)
        service.send(RtcChange(-1, NOON + 61))
        event = events.take(PATIENCE)
        assert event is not None and event.new_time == NOON + 60 and event.estimated
        assert service.status()["uptime"] >= 0.0
