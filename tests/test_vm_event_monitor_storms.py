"""The monitor socket under clients that come in thousands, ask without end, or break whatever can be broken."""

from __future__ import annotations

import array
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.vm_event import RtcChange, VmEventService
from harness.vm_event.loop import Loop
from harness.vm_event.monitor import ANSWER_LIMIT, CLIENT_LIMIT, Monitor
from harness.vm_event.sockets import ListeningSocket
from tests.vm_event_support import NOON, PATIENCE, Client, eventually, nothing_left_open

ROOT = Path(__file__).parent.parent


def come_and_go(path: Path) -> None:
    Client(path).socket.close()


def leave_half_a_command(path: Path) -> None:
    with Client(path) as client:
        client.send(b'{"command":"register_vm')


def ask_and_leave(path: Path) -> None:
    with Client(path) as client:
        client.send(b'{"command":"status"}' * 20)


def register_and_leave(path: Path) -> None:
    with Client(path) as client:
        client.send(b'{"command":"register_vm_event_client"}')


def hang_up_hard(path: Path) -> None:
    """With something unread: the other side's next look is an error, not an end."""
    with Client(path) as client:
        client.ask("status")
        client.send(b'{"command":"status"}')


def attach_descriptors(path: Path) -> None:
    with Client(path) as client, Path("/dev/null").open("rb") as null:
        rights = array.array("i", [null.fileno()] * 250)
        for _ in range(3):
            client.socket.sendmsg([b'{"x":'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def send_out_of_band(path: Path) -> None:
    with Client(path) as client:
        try:
            client.socket.send(b"!", socket.MSG_OOB)
        except OSError:
            pass  # unix sockets of older kernels know no such thing


STORMS: list[Callable[[Path], None]] = [
    come_and_go, leave_half_a_command, ask_and_leave, register_and_leave, hang_up_hard, attach_descriptors,
    send_out_of_band,
]  # fmt: skip


def test_storms_of_all_kinds_at_once_take_no_event_from_the_event_client(service: VmEventService, path: Path) -> None:
    """Threads that connect, do something rude and leave, hundreds of times, while events are told."""
    with Client(path) as client:
        assert client.register() == {"ack": 0}
        rude = [threading.Thread(target=lambda storm=storm: [storm(path) for _ in range(150)]) for storm in STORMS]
        for thread in rude:
            thread.start()
        number = 0
        while number < 300 or any(thread.is_alive() for thread in rude):
            service.send(RtcChange(NOON, number))
            assert client.receive()["delta_time"] == number
            number += 1
        for thread in rude:
            thread.join()
        eventually(lambda: service.status()["monitor"]["clients"] == 1, "all of them to be gone")


def test_clients_that_send_for_ever_and_read_nothing_slow_nobody_down(service: VmEventService, path: Path) -> None:
    ended = threading.Event()
    flooding = [Client(path) for _ in range(20)]

    def flood(client: Client, data: bytes) -> None:
        client.socket.settimeout(0.05)
        while not ended.is_set():
            try:
                client.socket.send(data)
            except TimeoutError:
                pass  # nothing is read while nothing is taken: the service keeps no more of it
            except OSError:
                return

    floods = [b'{"command":"status"}' * 50, b"{}" * 500, b"[" * 1000, b'{"command":"' + b"x" * 1000, b"\xff" * 1000]
    threads = [
        threading.Thread(target=flood, args=(client, floods[number % len(floods)]))
        for number, client in enumerate(flooding)
    ]
    with Client(path) as client:
        assert client.register() == {"ack": 0}
        for thread in threads:
            thread.start()
        for number in range(200):
            service.send(RtcChange(NOON, number))
            assert client.receive()["delta_time"] == number
        assert service.status()["monitor"]["event_client"]
        ended.set()
        for thread in threads:
            thread.join()
    for each in flooding:
        each.socket.close()


class Answers:
    """What a monitor asks of its service, counted."""

    given = 0

    def status(self) -> dict[str, Any]:
        self.given += 1
        return {"given": self.given}

    def execute(self, name: str, argument: str | None, done: Callable[[bool], None]) -> None:
        done(False)


def test_whoever_asks_for_much_gets_a_little_of_it_in_each_round(path: Path) -> None:
    with nothing_left_open():
        loop, commands = Loop(), Answers()
        monitor = Monitor(loop, ListeningSocket(path), commands)
        with Client(path) as greedy, Client(path) as modest:
            greedy.send(b'{"command":"status"}' * 40)
            loop.dispatch(loop.wait(None))  # accepts both
            loop.dispatch(loop.wait(None))
            assert 0 < commands.given <= 2 * ANSWER_LIMIT, "what it was read for, and what it had waiting"
            modest.send(b'{"command":"status"}')
            loop.dispatch(loop.wait(None))
            assert modest.receive()["status"]["given"] <= 4 * ANSWER_LIMIT + 1 < 40
            while commands.given < 41:
                loop.dispatch(loop.wait(time.monotonic_ns() + 10**9))
            given = [greedy.receive()["status"]["given"] for _ in range(40)]
            assert given == sorted(given)
        monitor.close()
        loop.close()


def test_an_object_without_end_is_told_once_and_keeps_nothing(service: VmEventService, path: Path) -> None:
    with Client(path) as endless, Client(path) as other:
        endless.send(b'{"a":"')
        for _ in range(100):
            endless.send(b"x" * 10_000)
        assert endless.receive() == {"ack": -1}
        endless.send(b'"}')
        assert endless.ask("status")["ack"] == 0
        assert other.status()["monitor"]["bad_input"] == 1


def test_a_thousand_connections_at_once_leave_the_event_client_its_place(service: VmEventService, path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with Client(path) as client:
            assert client.register() == {"ack": 0}
            crowd = [Client(path) for _ in range(1000)]
            service.send(RtcChange(NOON, 60))
            assert client.receive()["new_time"] == NOON + 60
            assert client.status()["monitor"]["clients"] <= CLIENT_LIMIT
            for each in crowd:
                each.socket.close()
        eventually(lambda: service.status()["monitor"]["clients"] == 0, "all of them to be gone")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_when_even_the_spare_descriptor_is_lost_it_does_not_spin_and_heals(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread takes the number in the moment in which it is free."""
    with nothing_left_open():
        loop = Loop()
        listener = ListeningSocket(path)
        monitor = Monitor(loop, listener, Answers())
        accept = listener.socket.accept
        out_of_descriptors = True

        class Socket:
            fileno = listener.socket.fileno

            def accept(self) -> Any:
                if out_of_descriptors:
                    raise OSError(24, os.strerror(24))
                return accept()

        real = listener.socket
        monkeypatch.setattr(listener, "socket", Socket())
        with monkeypatch.context() as patch, Client(path) as first:
            patch.setattr(os, "open", lambda *arguments: (_ for _ in ()).throw(OSError(24, os.strerror(24))))
            for _ in range(3):
                loop.dispatch(loop.wait(time.monotonic_ns()))
            assert loop.wait(time.monotonic_ns()) == [], "the connection waits, the loop sleeps"
            with Client(path) as second:
                ready = loop.wait(time.monotonic_ns())
                assert ready != []
                out_of_descriptors = False
                loop.dispatch(ready)
                for client in (first, second):
                    client.send(b'{"command":"status"}')
                loop.dispatch(loop.wait(time.monotonic_ns()))
                assert [client.receive()["ack"] for client in (first, second)] == [0, 0]
        loop.dispatch(loop.wait(time.monotonic_ns()))
        monkeypatch.setattr(listener, "socket", real)
        monitor.close()
        loop.close()


def test_a_program_with_the_default_action_for_sigpipe_lives_on() -> None:
    program = """if True:
        import signal, socket, tempfile, time
        from pathlib import Path
        from harness.vm_event import RtcChange, VmEventService
        from harness.vm_event.watch import MonitorClient
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        with tempfile.TemporaryDirectory() as folder, VmEventService(window=1e-6) as service:
            service.start(Path(folder) / "monitor")
            client = MonitorClient(Path(folder) / "monitor")
            client.register()
            client._socket.shutdown(socket.SHUT_RD)
            while service.status()["monitor"]["event_client"]:
                service.send(RtcChange(0, 1))
    """
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=PATIENCE, check=False).returncode == 0


def test_a_reset_by_the_other_end_is_an_end(service: VmEventService, path: Path) -> None:
    client = Client(path)
    assert client.register() == {"ack": 0}
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.send(b'{"command":"status"}')
    client.socket.close()
    eventually(lambda: not service.status()["monitor"]["event_client"], "it to be gone")
    service.send(RtcChange(NOON, 1))
    eventually(lambda: service.status()["monitor"]["events_unheard"] == 1, "the event")
