"""Thousands of lives of one service: nothing is overlooked in any, and nothing is left of any."""

from __future__ import annotations

import os
import queue
import threading
import time
from pathlib import Path

import pytest

from harness.vm_event import RtcChange, SettledRtcChange, SharedRing, Tunnel, VmEventService
from tests.vm_event_support import INSTANT, NOON, PATIENCE, SECOND, Client, nothing_left_open, open_descriptors


@pytest.mark.parametrize("lives", [200, pytest.param(10_000, marks=pytest.mark.soak)])
def test_no_life_loses_an_event_and_none_leaves_a_descriptor_a_thread_or_a_file(tmp_path: Path, lives: int) -> None:
    """Each has both tunnels, an event from each, and an update that is pending when it ends."""
    path = tmp_path / "monitor"
    kick = os.eventfd(0)
    told: queue.SimpleQueue[SettledRtcChange] = queue.SimpleQueue()
    with nothing_left_open(), SharedRing.create(shared=True) as ring:
        assert ring.descriptor is not None
        writer = Tunnel.attach(ring.descriptor, kick)
        service = VmEventService("vm0", window=INSTANT)
        service.add_ring("hv", ring.descriptor, kick, stamped=True)
        service.subscribe(told.put)
        before, threads = open_descriptors(), set(threading.enumerate())
        for life in range(lives):
            service.start(path)
            assert service.send(RtcChange(NOON, life))
            assert writer.put(0, NOON, life)
            events = {event.source: event.delta_time for event in (told.get(timeout=PATIENCE) for _ in range(2))}
            assert events == {"dm": life, "hv": life}
            if life % 10 == 0:
                with Client(path) as client:
                    assert client.register() == {"ack": 0}
            assert service.send(RtcChange(NOON, 1), stamp_ns=time.monotonic_ns() + 3600 * SECOND)
            service.stop()
            assert not path.exists()
            if life % 100 == 0:
                assert open_descriptors() == before
                assert set(threading.enumerate()) <= threads
        assert told.empty()
        writer.close()
    os.close(kick)


def test_a_client_that_comes_while_it_starts_is_told_that_it_runs(tmp_path: Path) -> None:
    """The socket is there before `start` returns."""
    path = tmp_path / "monitor"
    service = VmEventService("vm0")
    answers: list[dict[str, object]] = []

    def ask() -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                with Client(path) as client:
                    answers.append(client.status())
                return
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0)  # not yet, and nothing announces it

    for _ in range(30):
        asking = threading.Thread(target=ask)
        asking.start()
        service.start(path)
        asking.join()
        service.stop()
    assert [(answer["running"], answer["sources"] != {}) for answer in answers] == [(True, True)] * 30
