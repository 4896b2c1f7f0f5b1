"""The device model's other monitor socket: every peculiarity of acrn-dm's, byte for byte."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.devicemodel.acrn_monitor import AcrnMonitor
from harness.vm_event import RtcChange, SettledRtcChange, VmEventService
from tests.vm_event_support import NOON, PATIENCE, eventually, nothing_left_open

ACK = b'{\n\t"ack":\t0\n}'
NACK = b'{\n\t"ack":\t-1\n}'
REGISTER = b'{"command":"register_vm_event_client"}'


class Raw:
    """A client that sees bytes and attached descriptors as they come."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.settimeout(PATIENCE)

    def ask(self, command: bytes) -> bytes:
        self.socket.sendall(command)
        return self.receive()

    def receive(self) -> bytes:
        """One message; it had exactly one descriptor attached, a socket."""
        data, descriptors, flags, _ = socket.recv_fds(self.socket, 4096, 4)
        assert flags & socket.MSG_CTRUNC == 0
        if data:
            (descriptor,) = descriptors
            assert stat.S_ISSOCK(os.fstat(descriptor).st_mode)
            os.close(descriptor)
        return data

    def unanswered(self) -> bool:
        """Whether nothing has come until now."""
        return not select.select([self.socket], [], [], 0)[0]

    def unread(self) -> int:
        """What is left in the buffers of what was sent: 0 when the other side has read it all."""
        return int.from_bytes(fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)

    def close(self) -> None:
        self.socket.close()


class Commands:
    """What was carried out, and whether it succeeds."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.success = True

    def carry_out(self, argument: str) -> bool:
        self.done.append(argument)
        return self.success


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def monitor(path: Path, commands: Commands) -> Iterator[AcrnMonitor]:
    with nothing_left_open():
        monitor = AcrnMonitor(path, {"blkrescan": commands.carry_out})
        yield monitor
        monitor.close()
    assert not path.exists()


@pytest.fixture
def client(monitor: AcrnMonitor, path: Path) -> Iterator[Raw]:
    client = Raw(path)
    yield client
    client.close()


def change(last_time: int | None, new_time: int) -> SettledRtcChange:
    return SettledRtcChange(last_time, new_time, None if last_time is None else new_time - last_time, 7)


def test_answers_and_events_are_laid_out_as_cjson_prints_them(monitor: AcrnMonitor, client: Raw) -> None:
    # given a client that has registered
    assert client.ask(REGISTER) == ACK
    # when an update has settled
    monitor.publish(change(NOON, NOON + 60))
    # then it is told as ACRN tells it: in this order, over several lines, with tabs, and nothing else
    assert client.receive() == b'{\n\t"vm_event":\t0,\n\t"delta_time":\t60,\n\t"last_time":\t1718452800\n}'
    # and where the beginning is not known, in ACRN's way
    monitor.publish(change(None, NOON))
    assert client.receive() == b'{\n\t"vm_event":\t0,\n\t"delta_time":\t1718452801,\n\t"last_time":\t-1\n}'


def test_one_connection_is_served_and_the_next_waits_unanswered(client: Raw, path: Path) -> None:
    assert client.ask(REGISTER) == ACK
    # given a second client, which has sent its command
    second = Raw(path)
    second.socket.sendall(REGISTER)
    # when the first is served once more
    assert client.ask(REGISTER) == NACK, "there is a client: also if it asks itself"
    # then the second has heard nothing
    assert second.unanswered()
    # until the first leaves
    client.close()
    assert second.receive() == ACK
    second.close()


def test_beyond_its_short_backlog_nobody_can_connect(client: Raw, path: Path) -> None:
    assert client.ask(REGISTER) == ACK, "one is being served"
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for connection in waiting:
        connection.setblocking(False)
    for connection in waiting[:2]:  # Linux takes one more than the backlog says
        connection.connect(str(path))
    with pytest.raises(BlockingIOError):
        waiting[2].connect(str(path))
    for connection in waiting:
        connection.close()


def test_commands_are_carried_out_and_their_failure_is_told(client: Raw, commands: Commands) -> None:
    assert client.ask(b'{"command":"blkrescan","arguments":"3,/new.img"}') == ACK
    commands.success = False
    assert client.ask(b'{"command":"blkrescan","arguments":"4,/other.img"}') == NACK
    assert commands.done == ["3,/new.img", "4,/other.img"]
    assert client.ask(b'{"command":"destroy"}') == NACK, "nobody carries that out here"


def test_an_argument_is_kept_for_the_next_command_and_cut(client: Raw, commands: Commands) -> None:
    for command in (
        b'{"command":"blkrescan"}',
        b'{"command":"blkrescan","arguments":"one"}',
        b'{"command":"blkrescan","arguments":2}',
        b'{"command":"blkrescan","arguments":"' + b"x" * 400 + b'"}',
    ):
        assert client.ask(command) == ACK
    assert commands.done == ["", "one", "one", "x" * 319]


@pytest.mark.parametrize(
    "unanswered",
    [
        b"nonsense",
        b'{"command":"status"}',
        b'{"command":1}',
        b"[]",
        b'{\n"command":"destroy"}',
        b'{"command":"register_vm_event_client"' + b" " * 4058 + b"}",
    ],
    ids=["nonsense", "unknown", "not a name", "not an object", "over two lines", "fills the buffer"],
)
def test_what_is_no_command_is_not_answered(client: Raw, unanswered: bytes) -> None:
    # when it is followed by a command, once it has been read
    client.socket.sendall(unanswered)
    eventually(lambda: client.unread() == 0, "the reading")
    assert client.ask(REGISTER) == ACK
    # then that command's answer is the only one
    assert client.unanswered()


def test_of_two_commands_in_one_buffer_the_second_is_lost(client: Raw, commands: Commands) -> None:
    for between in (b"", b"\n"):
        assert client.ask(b'{"command":"blkrescan","arguments":"a"}' + between + REGISTER) == ACK
    assert commands.done == ["a", "a"]
    assert client.ask(REGISTER) == ACK


def test_events_without_a_registered_client_are_told_to_nobody(monitor: AcrnMonitor, client: Raw) -> None:
    monitor.publish(change(NOON, NOON + 1))
    assert client.ask(REGISTER) == ACK
    monitor.publish(change(NOON, NOON + 2))
    assert b'"delta_time":\t2' in client.receive()
    assert client.unanswered()


def test_a_client_that_has_left_takes_its_registration_with_it(monitor: AcrnMonitor, client: Raw, path: Path) -> None:
    assert client.ask(REGISTER) == ACK
    client.close()
    second = Raw(path)
    monitor.publish(change(NOON, NOON + 1))
    assert second.ask(REGISTER) == ACK
    assert second.unanswered()
    second.close()


def test_a_client_that_does_not_read_is_waited_for_until_the_end(path: Path, commands: Commands) -> None:
    with nothing_left_open():
        monitor = AcrnMonitor(path, {})
        client = Raw(path)
        assert client.ask(REGISTER) == ACK
        # given more events than the socket holds
        told = []

        def tell() -> None:
            for number in range(1000):
                monitor.publish(change(NOON, NOON + number))
                told.append(number)

        teller = threading.Thread(target=tell)
        teller.start()
        eventually(lambda: len(told) > 20, "events on their way")
        # when the monitor is closed, then nobody waits any more
        monitor.close()
        teller.join(PATIENCE)
        assert not teller.is_alive()
        client.close()


def test_a_command_that_ends_it_is_answered_first_and_nobody_gets_in_any_more(path: Path) -> None:
    """As `destroy` does: the device model closes the socket while the command is still being carried out."""
    ends: list[threading.Thread] = []

    def refused() -> bool:
        with socket.socket(socket.AF_UNIX) as late:
            return late.connect_ex(str(path)) != 0

    def destroy(argument: str) -> bool:
        ends[0].start()
        eventually(refused, "the end of listening")
        return True

    with nothing_left_open():
        monitor = AcrnMonitor(path, {"destroy": destroy})
        ends.append(threading.Thread(target=monitor.close))
        client = Raw(path)
        assert client.ask(b'{"command":"destroy"}') == ACK
        assert client.receive() == b""
        ends[0].join(PATIENCE)
        client.close()


def test_an_answer_that_is_never_read_does_not_hold_up_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.devicemodel.acrn_monitor.LAST_ANSWER_PATIENCE", 0.01)
    with nothing_left_open():
        monitor = AcrnMonitor(path, {})
        client = Raw(path)
        client.socket.setblocking(False)
        sending = monitor._sending
        # given a client that asks and asks, and reads no answer, until its answers fill the socket
        for _ in range(500):
            with contextlib.suppress(BlockingIOError):
                client.socket.sendall(REGISTER)
            eventually(lambda: client.unread() == 0 or sending.locked(), "a reader that has read, or waits")
        assert sending.locked(), "an answer is waiting to be read"
        # then it can be closed
        monitor.close()
        client.close()


def test_with_the_python_service_behind_it_and_in_front_of_it(monitor: AcrnMonitor, path: Path) -> None:
    """The whole way: a service, its events told as acrn-dm tells them, another service with acrn-dm as its source."""
    heard: list[SettledRtcChange] = []
    with VmEventService("vm0", window=0.01) as inner, VmEventService("vm0", dm=False) as outer:
        inner.subscribe(monitor.publish)
        inner.start()
        outer.add_acrn_dm(path)
        outer.subscribe(heard.append)
        outer.start()
        eventually(lambda: outer.status()["sources"]["monitor"]["registered"], "the registration")
        inner.send(RtcChange(NOON, 70))
        eventually(lambda: heard, "the event")
    assert heard == [SettledRtcChange(NOON, NOON + 70, 70, None, source="monitor", vm="vm0")]
