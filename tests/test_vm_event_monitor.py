"""ACRN's protocol on the monitor socket, among clients that do not keep to it."""

from __future__ import annotations

import array
import resource
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.vm_event import RtcChange, VmEventService
from harness.vm_event.monitor import CLIENT_LIMIT
from tests.vm_event_support import (
    NOON,
    PATIENCE,
    UNHURRIED,
    Client,
    eventually,
    open_descriptors,
)


def test_the_event_client_gets_events_as_acrn_words_them(service: VmEventService, path: Path) -> None:
    with Client(path) as client:
        client.send(b'{"command":"register_vm_event_client"}')
        assert client.receive() == {"ack": 0}
        service.send(RtcChange(NOON, 60))
        assert client.socket.recv(4096) == (
            b'{"vm_event":0,"last_time":1718452800,"new_time":1718452860,"delta_time":60,'
            b'"raw_events":1,"source":"dm","vm":"vm0"}\n'
        )


def test_there_is_one_event_client_and_the_next_may_come_when_it_has_left(service: VmEventService, path: Path) -> None:
    with Client(path) as second:
        with Client(path) as first:
            assert first.register() == {"ack": 0}
            assert second.register() == {"ack": -1}
            assert first.register() == {"ack": -1}
        assert second.register() == {"ack": 0}, "a hang-up counts before what is asked after it"
        assert second.status()["monitor"]["registrations_refused"] == 2


def test_who_registers_before_the_hang_up_of_its_predecessor_was_seen_is_not_refused(
    service: VmEventService, path: Path
) -> None:
    assert service._session is not None
    held, released = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert released.wait(PATIENCE)

    with Client(path) as first, Client(path) as second:
        assert first.register() == {"ack": 0}
        assert second.ask("status")["ack"] == 0
        # given a service that looks elsewhere while both happen, and is told of the registration first
        service._session._loop.post(hold)
        assert held.wait(PATIENCE)
        second.send(b'{"command":"register_vm_event_client"}')
        first.socket.close()
        released.set()
        assert second.receive() == {"ack": 0}
        service.send(RtcChange(NOON, 60))
        assert second.receive()["new_time"] == NOON + 60


def test_commands_and_status_are_for_everyone(service: VmEventService, path: Path) -> None:
    asked: list[object] = []

    def destroy(argument: str | None) -> bool:
        asked.append(argument)
        return True

    service.on_command("destroy", destroy)
    service.on_command("blkrescan", lambda argument: False)
    with Client(path) as first, Client(path) as second, Client(path) as third:
        assert first.register() == {"ack": 0}
        assert second.ask("destroy") == {"ack": 0}
        assert third.ask("destroy", arguments="now") == {"ack": 0}
        assert first.ask("blkrescan", arguments="0:0") == {"ack": -1}
        status = third.status()
        assert (status["vm"], status["running"], status["monitor"]["clients"]) == ("vm0", True, 3)
    assert asked == [None, "now"]


def test_a_command_that_fails_or_that_nobody_takes_is_refused(service: VmEventService, path: Path) -> None:
    def fails(argument: str | None) -> bool:
        raise RuntimeError("no disk")

    service.on_command("blkrescan", fails)
    with Client(path) as client:
        assert client.ask("blkrescan") == {"ack": -1}
        assert client.ask("destroy") == {"ack": -1}
        assert client.ask("reboot") == {"ack": -1}


def test_a_slow_command_holds_up_only_who_gave_it_and_answers_stay_in_order(
    service: VmEventService, path: Path
) -> None:
    released = threading.Event()
    service.on_command("destroy", lambda argument: released.wait(PATIENCE))
    with Client(path) as slow, Client(path) as other:
        slow.send(b'{"command":"destroy"}{"command":"status"}')
        assert other.register() == {"ack": 0}
        service.send(RtcChange(NOON, 1))
        assert other.receive()["new_time"] == NOON + 1
        released.set()
        assert slow.receive() == {"ack": 0}
        assert slow.receive()["status"]["settled"] == 1


BAD = {
    "not JSON": b"hello\n",
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a broken object": b'{"command":}',
    "an array": b'["command"]',
    "no command": b'{"cmd":"destroy"}',
    "a command that is no string": b'{"command":{"a":1}}',
    "an argument that is no string": b'{"command":"destroy","arguments":[1]}',
    "binary": b"\xff\xfe\x00\x01",
    "deep nesting": b'{"a":' + b"[" * 1900 + b"]" * 1900 + b"}",
    "an oversized command": b'{"command":"' + b"x" * 100_000 + b'"}',
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_answered_by_minus_one_and_the_connection_lives_on(
    service: VmEventService, path: Path, name: str
) -> None:
    service.on_command("destroy", lambda argument: True)
    with Client(path) as good, Client(path) as bad:
        assert good.register() == {"ack": 0}
        bad.send(BAD[name])
        assert bad.receive() == {"ack": -1}
        # What arrives in two pieces may be answered twice; then comes the answer to a good command.
        bad.send(b'{"command":"destroy"}')
        answers = list(iter(bad.receive, {"ack": 0}))
        assert all(answer == {"ack": -1} for answer in answers)
        service.send(RtcChange(NOON, 60))
        assert good.receive()["new_time"] == NOON + 60


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=5))
@settings(UNHURRIED, max_examples=60)
def test_no_bytes_from_one_client_reach_another(service: VmEventService, path: Path, pieces: list[bytes]) -> None:
    with Client(path) as bad, Client(path) as good:
        for piece in pieces:
            bad.send(piece)
        assert good.ask("status")["ack"] == 0


def test_pieces_newlines_and_several_commands_in_one_write(service: VmEventService, path: Path) -> None:
    service.on_command("destroy", lambda argument: True)
    with Client(path) as client:
        for byte in b'{\n\t"command" :\r\n "destroy"\n}\n':
            client.send(bytes([byte]))
        assert client.receive() == {"ack": 0}
        client.send(b'{"command":"destroy"}\0{"command":"x"}\n\n{"command":"destroy"}')
        assert [client.receive()["ack"] for _ in range(3)] == [0, -1, 0]


def test_a_command_is_carried_out_even_if_its_sender_leaves_at_once(service: VmEventService, path: Path) -> None:
    asked = threading.Event()

    def destroy(argument: str | None) -> bool:
        asked.set()
        return True

    service.on_command("destroy", destroy)
    with Client(path) as client:
        client.send(b'{"command":"destroy"}')
    assert asked.wait(PATIENCE)


def test_a_client_that_has_said_all_it_will_still_gets_its_answers_and_events(
    service: VmEventService, path: Path
) -> None:
    """`echo '{"command":…}' | nc -U …` shuts its sending side down."""
    with Client(path) as asker, Client(path) as listener:
        asker.send(b'{"command":"status"}')
        asker.socket.shutdown(socket.SHUT_WR)
        assert asker.receive()["ack"] == 0
        assert asker.receive() is None
        listener.send(b'{"command":"register_vm_event_client"}')
        listener.socket.shutdown(socket.SHUT_WR)
        assert listener.receive() == {"ack": 0}
        service.send(RtcChange(NOON, 60))
        assert listener.receive()["new_time"] == NOON + 60
    eventually(lambda: service.status()["monitor"]["clients"] == 0, "both to be gone")


def test_an_event_client_that_does_not_read_is_disconnected_and_counted(service: VmEventService, path: Path) -> None:
    with Client(path) as stalled, Client(path) as other:
        assert stalled.register() == {"ack": 0}

        def is_dropped() -> bool:
            for _ in range(50):
                service.send(RtcChange(NOON, 1))
            return bool(service.status()["monitor"]["stalled_clients"])

        eventually(is_dropped, "the stalled client to be disconnected")
        assert other.register() == {"ack": 0}
        status = service.status()["monitor"]
        assert (status["event_client"], status["clients"]) == (True, 1)
        sent = status["events_sent"]
        received = []
        while (event := read_or_end(stalled)) is not None:
            received.append(event)
        assert 0 < len(received) <= sent, "what was sent before arrives whole"


def read_or_end(client: Client) -> object:
    try:
        return client.receive()
    except ConnectionResetError:
        return None


def test_a_client_that_reads_no_answers_is_not_read_either(service: VmEventService, path: Path) -> None:
    """It cannot make the service keep more than a few answers; whoever sends blocks in the end."""
    with Client(path) as flooding, Client(path) as other:
        flooding.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                flooding.socket.send(b'{"command":"status"}' * 50)
        assert other.ask("status")["ack"] == 0
        monitor = service.status()["monitor"]
        assert (monitor["clients"], monitor["stalled_clients"]) == (2, 0)


def test_descriptors_that_a_client_attaches_are_discarded(service: VmEventService, path: Path) -> None:
    with Client(path) as client, Path("/dev/null").open("rb") as null:
        before = open_descriptors()
        rights = array.array("i", [null.fileno()] * 20)
        client.socket.sendmsg([b'{"command":"status"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert client.receive()["ack"] == 0
        assert client.ask("status")["ack"] == 0
        # The service's side of the connection may have been accepted after the first look.
        assert len(open_descriptors() - before) <= 1


def test_idle_connections_make_room_for_new_ones_and_never_the_event_client(
    service: VmEventService, path: Path
) -> None:
    with Client(path) as client:
        assert client.register() == {"ack": 0}
        idle = []
        for number in range(CLIENT_LIMIT + 50):
            idle.append(Client(path))
            if number % 10 == 0:
                assert idle[-1].ask("status")["ack"] == 0
        assert idle[-1].ask("status")["ack"] == 0
        status = client.status()["monitor"]
        assert status["clients"] <= CLIENT_LIMIT
        assert status["evicted_clients"] > 0
        service.send(RtcChange(NOON, 60))
        assert client.receive()["new_time"] == NOON + 60
        for other in idle:
            other.socket.close()


def test_running_out_of_descriptors_turns_connections_away_and_heals(service: VmEventService, path: Path) -> None:
    with Client(path) as client:
        assert client.register() == {"ack": 0}
        # Made first: with the limit down, this process cannot make them either.
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(5)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(entry.split()[0]) for entry in open_descriptors())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        try:
            holes = fill_holes()
            try:
                for connection in waiting:
                    connection.connect(str(path))
                    connection.settimeout(PATIENCE)
                assert [connection.recv(10) for connection in waiting] == [b""] * 5
                service.send(RtcChange(NOON, 60))
                assert client.receive()["new_time"] == NOON + 60
            finally:
                for hole in holes:
                    hole.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for connection in waiting:
            connection.close()
        with Client(path) as late:
            assert late.ask("status")["ack"] == 0


def fill_holes() -> list[socket.socket]:
    """Take every descriptor number that is left below the limit."""
    taken = []
    while True:
        try:
            taken.append(socket.socket(socket.AF_UNIX))
        except OSError:
            return taken


def test_events_without_an_event_client_are_counted_as_unheard(service: VmEventService, path: Path) -> None:
    service.send(RtcChange(NOON, 60))
    eventually(lambda: service.status()["monitor"]["events_unheard"] == 1, "the event")
    with Client(path) as client:
        assert client.register() == {"ack": 0}
        service.send(RtcChange(NOON + 60, 60))
        assert client.receive()["last_time"] == NOON + 60, "not the one from before"


def test_thousands_of_connections_leave_nothing_behind(service: VmEventService, path: Path) -> None:
    with Client(path) as client:
        assert client.register() == {"ack": 0}
        for _ in range(2000):
            Client(path).socket.close()
        eventually(lambda: service.status()["monitor"]["clients"] == 1, "all to be gone")
        service.send(RtcChange(NOON, 60))
        assert client.receive()["new_time"] == NOON + 60
