"""MonitorClient: what comes between a command and its answer is an event all the same; a late answer is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.vm_event import MonitorClient, MonitorError
from tests.vm_event_support import PATIENCE

EVENT = b'{"vm_event":0,"last_time":1,"delta_time":60}\n'


@contextmanager
def served(path: Path, serve: Callable[[socket.socket], object]) -> Iterator[MonitorClient]:
    """A client of a socket whose other end does as `serve`, then hangs up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with MonitorClient(path) as client:
            connection, _ = listener.accept()
            connection.settimeout(PATIENCE)

            def run() -> None:
                with connection:
                    serve(connection)

            thread = threading.Thread(target=run)
            thread.start()
            yield client
            thread.join(PATIENCE)


def test_an_event_that_comes_before_an_answer_is_kept_for_the_events(tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(EVENT + b'{"ack":0}\n' + EVENT)
        connection.recv(4096)
        connection.sendall(EVENT + b'{"ack":0,"status":{}}\n')

    with served(tmp_path / "monitor", serve) as client:
        client.register()
        assert client.command("status") == {"ack": 0, "status": {}}
        assert [event for event in client.events() if isinstance(event, dict)] == 3 * [
            {"vm_event": 0, "last_time": 1, "delta_time": 60}
        ]


def test_an_answer_that_does_not_come_in_time_ends_no_events_and_is_nobody_elses(tmp_path: Path) -> None:
    given_up = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        assert given_up.wait(PATIENCE)
        connection.sendall(b'{"ack":0}\n' + EVENT)

    with served(tmp_path / "monitor", serve) as client:
        with pytest.raises(MonitorError, match="no answer to 'status'"):
            client.command("status", timeout=0.001)
        with pytest.raises(MonitorError, match="'status' was not answered"):
            client.command("destroy")
        given_up.set()
        assert list(client.events()) == [{"vm_event": 0, "last_time": 1, "delta_time": 60}]
