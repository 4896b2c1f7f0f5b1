"""A stop in the middle of everything: it returns, nothing is left, and what settled before was told."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.vm_event import RtcChange, ServiceError, SettledRtcChange, SharedRing, Tunnel, VmEventService
from harness.vm_event import listeners as listeners_module
from harness.vm_event.actions import RunCommands
from tests.acrn_dm_peer import ACK, Peer
from tests.vm_event_support import INSTANT, NOON, PATIENCE, SECOND, Client, eventually, nothing_left_open


@pytest.fixture
def kick() -> Iterator[int]:
    descriptor = os.eventfd(0, os.EFD_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def test_with_callbacks_commands_relays_clients_and_senders_in_flight(
    kick: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners_module, "PATIENCE", 0.05)
    pid_told = tmp_path / "pid"
    os.mkfifo(pid_told)
    told: list[tuple[str, int | None]] = []
    stop_sending = threading.Event()

    with nothing_left_open(), SharedRing.create(shared=True) as ring, Peer(tmp_path / "acrn-dm") as peer:
        assert ring.descriptor is not None
        service = VmEventService("vm0", window=INSTANT)
        service.add_ring("hv", ring.descriptor, kick, stamped=True)
        service.add_acrn_dm(tmp_path / "acrn-dm")
        service.add_action(
            "on-rtc-change", RunCommands([("sh", "-c", f"echo $$ > {pid_told}; sleep 1000")], timeout=PATIENCE)
        )
        service.subscribe(lambda event: told.append((event.source, event.new_time)))
        events = service.events()
        service.start(tmp_path / "monitor")
        tunnel = Tunnel.attach(ring.descriptor, kick)

        def send() -> None:
            rtc = NOON
            while not stop_sending.is_set():
                rtc += 1
                service.send(RtcChange(rtc, 1))
                tunnel.put(0, rtc, 1)

        # given a command that runs,
        service.send(RtcChange(NOON, 1), stamp_ns=SECOND)
        pid = int(pid_told.read_text(encoding="ascii"))
        # one relayed to an acrn-dm that does not answer,
        peer.accept()
        peer.send(ACK)
        eventually(lambda: service.status()["sources"]["monitor"]["registered"], "the registration")
        with Client(tmp_path / "monitor") as asking, Client(tmp_path / "monitor") as stalled:
            asking.send(b'{"command":"destroy"}')
            assert json.loads(peer.read()) == {"command": "destroy"}
            # a client that does not read, senders that do not stop,
            assert stalled.register() == {"ack": 0}
            sender = threading.Thread(target=send)
            sender.start()
            # and somebody who waits for the next event
            waiting = threading.Thread(target=lambda: [event for event in events])
            waiting.start()
            eventually(lambda: len(told) > 50, "events")
            # when it is stopped
            service.stop()
            # then nothing goes on, and everybody knows
            assert asking.receive() is None
            stalled.socket.settimeout(PATIENCE)
            while stalled.socket.recv(65536):
                pass
            waiting.join(PATIENCE)
            assert not waiting.is_alive()
            assert not Path(f"/proc/{pid}").exists()
            assert not (tmp_path / "monitor").exists()
            status = service.status()
            eventually(lambda: len(told) >= status["settled"] - status["missed"], "what settled before to be told")
            stop_sending.set()
            sender.join(PATIENCE)
            assert not service.running and len(told) <= status["settled"]
            for source in ("dm", "hv"):
                times = [rtc for name, rtc in told if name == source and rtc is not None]
                assert times == sorted(set(times)), "in order, and nothing twice"
        peer.hang_up()
        tunnel.close()


def test_a_callback_that_never_returns_is_left_behind_and_serves_no_later_life(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listeners_module, "PATIENCE", 0.01)
    begun, released = threading.Event(), threading.Event()
    seen: list[int | None] = []

    def stuck(event: SettledRtcChange) -> None:
        begun.set()
        if event.delta_time == 1:
            released.wait(PATIENCE)
        seen.append(event.delta_time)

    with nothing_left_open(), VmEventService("vm0", window=INSTANT) as service:
        service.subscribe(stuck)
        service.start()
        service.send(RtcChange(NOON, 1), stamp_ns=SECOND)
        service.send(RtcChange(NOON, 2), stamp_ns=3 * SECOND)
        assert begun.wait(PATIENCE)
        eventually(lambda: service.status()["settled"] == 2, "both to settle")
        service.stop()
        assert "vm_event-vm0-subscriber is busy even after the stop; its thread is left to it" in caplog.text
        service.start()
        service.send(RtcChange(NOON, 3), stamp_ns=SECOND)
        eventually(lambda: service.status()["settled"] == 1, "the next life's")
        assert seen == [], "one call at a time, whatever life it is from"
        released.set()
        eventually(lambda: seen == [1, 2, 3], "all, in order")


def test_starting_and_stopping_from_many_threads_ends_stopped(tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    with nothing_left_open():
        service = VmEventService("vm0", window=INSTANT)
        events: list[SettledRtcChange] = []
        service.subscribe(events.append)
        refused: list[ServiceError] = []

        def work(number: int) -> None:
            for _ in range(25):
                try:
                    service.start(path)
                except ServiceError as error:
                    refused.append(error)
                service.send(RtcChange(NOON, number))
                service.status()
                service.stop()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert not service.running
        assert all("running already" in str(error) for error in refused)
        assert not path.exists()


def test_nobody_gets_in_after_the_stop(tmp_path: Path) -> None:
    with nothing_left_open(), VmEventService(window=INSTANT) as service:
        service.start(tmp_path / "monitor")
        with Client(tmp_path / "monitor") as client:
            service.stop()
            assert client.receive() is None
        with pytest.raises(OSError), socket.socket(socket.AF_UNIX) as late:
            late.connect(str(tmp_path / "monitor"))
        assert not service.send(RtcChange(NOON, 1))
        assert service.status()["unheeded"] == 0, "the last counts are those of the life that ended"
