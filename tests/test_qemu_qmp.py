"""QMP beside the guest, with a QEMU that says things in an order that a real one chooses rarely."""

from __future__ import annotations

import json
import queue
import socket
import threading
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.qemu.qmp import QmpMonitor

PATIENCE = 60.0
GREETING = {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}
RTC_CHANGE = {
    "event": "RTC_CHANGE",
    "data": {"offset": 1, "qom-path": "/machine/rtc"},
    "timestamp": {"seconds": 1_795_511_679, "microseconds": 1},
}


def qemu(connection: socket.socket, *before_the_answer: dict[str, Any]) -> None:
    """Greets, answers every command with nothing, and the first one only after it has said something else."""
    with connection:
        connection.sendall(json.dumps(GREETING).encode() + b"\n")
        while command := connection.recv(65536):
            said = json.loads(command)
            for message in (*before_the_answer, {"return": {}} | {key: said[key] for key in ("id",) if key in said}):
                connection.sendall(json.dumps(message).encode() + b"\n")
            before_the_answer = ()


def test_a_guest_that_sets_its_rtc_before_qmp_is_ready_costs_nobody_the_session() -> None:
    ours, theirs = socket.socketpair()
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    thread = threading.Thread(target=qemu, args=(theirs, RTC_CHANGE))
    thread.start()
    monitor = QmpMonitor(ours, events.put)
    monitor.start()
    # when an event comes before the answer to the first command, then the session stands, and the event is told
    assert monitor.execute("query-status", Deadline(PATIENCE)) == {}
    assert events.get(timeout=PATIENCE)["event"] == "RTC_CHANGE"
    assert monitor.close(PATIENCE)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_qemu_that_says_something_else_than_qmp_is_told() -> None:
    ours, theirs = socket.socketpair()
    monitor = QmpMonitor(ours, lambda event: None)
    monitor.start()
    with theirs:
        theirs.sendall(b"hello\n")
        with pytest.raises(InfrastructureError, match="no QMP session"):
            monitor.execute("query-status", Deadline(PATIENCE))
    assert monitor.close(PATIENCE)
