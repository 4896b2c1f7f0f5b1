"""The log: as text, as JSON, to journald in its own protocol; and who does not read it holds up nobody."""

from __future__ import annotations

import array
import errno
import fcntl
import io
import json
import logging
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.vm_event import ActionError
from harness.vm_event.logs import JOURNAL_SOCKET, JournalHandler, Log
from tests.vm_event_support import PATIENCE, eventually, nothing_left_open

LOGGER = logging.getLogger("harness.vm_event.test")
EVENT = {"vm_event": 0, "last_time": None, "new_time": 60, "delta_time": -5, "source": "dm", "vm": "vm\n0"}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with nothing_left_open():
        yield


def replaced_stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """To be called by the test itself: pytest replaces it, too, once the fixtures are made."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """What journald listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "journal"))
        listener.settimeout(PATIENCE)
        yield listener


def log_something() -> None:
    LOGGER.debug("not told")
    LOGGER.info("an event", extra={"event": EVENT})
    counts = [1]
    LOGGER.warning("so many: %s", counts)
    counts.append(2)
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        LOGGER.exception("oh")


def test_text_is_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = replaced_stderr(monkeypatch)
    with Log("text"):
        log_something()
    first, second, third, *traceback = stderr.getvalue().splitlines()
    assert (first, second, third) == ("info: an event", "warning: so many: [1]", "error: oh")
    assert traceback[0].startswith("Traceback") and traceback[-1] == "RuntimeError: a bug"


def test_json_is_an_object_a_line_with_both_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = replaced_stderr(monkeypatch)
    before = time.time_ns(), time.monotonic_ns()
    with Log("json"):
        log_something()
    event, counts, error = map(json.loads, stderr.getvalue().splitlines())
    assert event["event"] == EVENT
    assert (event["level"], event["logger"], event["message"]) == ("info", LOGGER.name, "an event")
    assert before[0] <= event["wall_ns"] <= counts["wall_ns"] <= time.time_ns()
    assert before[1] <= event["monotonic_ns"] <= counts["monotonic_ns"] <= time.monotonic_ns()
    whole = event["wall_ns"] // 10**9
    assert event["time"] == time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(whole)) + (
        f"{event['wall_ns'] // 1000 % 10**6:06}Z"
    )
    assert counts["message"] == "so many: [1]" and "event" not in counts
    assert error["exception"].endswith("RuntimeError: a bug")


def fields(datagram: bytes) -> dict[str, str]:
    """An entry of journald's native protocol."""
    found = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
        else:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        found[name.decode()] = value.decode()
        datagram = rest
    return found


def test_journald_gets_entries_with_fields(journal: socket.socket) -> None:
    with Log("journald", journal=journal.getsockname()):
        log_something()
        event, counts, error = (fields(journal.recv(65536)) for _ in range(3))
    assert int(event.pop("MONOTONIC_NS")) > 0
    assert event == {
        "MESSAGE": "an event",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "vm_event",
        "LOGGER": LOGGER.name,
        "VM_EVENT": "0",
        "VM_EVENT_LAST_TIME": "null",
        "VM_EVENT_NEW_TIME": "60",
        "VM_EVENT_DELTA_TIME": "-5",
        "VM_EVENT_SOURCE": "dm",
        "VM_EVENT_VM": "vm\n0",
    }
    assert (counts["MESSAGE"], counts["PRIORITY"]) == ("so many: [1]", "4")
    assert error["MESSAGE"].startswith("oh\nTraceback") and error["PRIORITY"] == "3"


def test_an_entry_too_long_for_a_datagram_goes_as_a_sealed_file(journal: socket.socket) -> None:
    long = "x" * 2_000_000
    with Log("journald", journal=journal.getsockname()):
        LOGGER.warning(long)
        data, ancillary, _, _ = journal.recvmsg(65536, socket.CMSG_SPACE(4))
    assert data == b""
    ((_, kind, descriptors),) = ancillary
    assert kind == socket.SCM_RIGHTS
    (descriptor,) = array.array("i", descriptors)
    try:
        assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
        assert fields(os.pread(descriptor, 3_000_000, 0))["MESSAGE"] == long
    finally:
        os.close(descriptor)


def test_without_a_journald_it_says_so_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    with pytest.raises(ActionError, match=f"{path}: No such file.*: there is no journald here; --log text and --log"):
        Log("journald", journal=path)
    assert JOURNAL_SOCKET == "/run/systemd/journal/socket"


def test_a_journald_that_is_restarted_is_found_again_and_meanwhile_stderr_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = replaced_stderr(monkeypatch)
    path = tmp_path / "journal"

    def journald() -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(path))
        listener.settimeout(PATIENCE)
        return listener

    first = journald()
    with Log("journald", journal=str(path)):
        LOGGER.warning("one")
        assert fields(first.recv(65536))["MESSAGE"] == "one"
        first.close()
        LOGGER.warning("two")
        eventually(stderr.getvalue, "the one that was not taken")
        path.unlink()
        with journald() as second:
            LOGGER.warning("three")
            assert fields(second.recv(65536))["MESSAGE"] == "three"
    assert stderr.getvalue() == "warning: two\n"


def test_who_does_not_read_the_log_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as much as the pipe takes."""
    heard, told = os.pipe()
    with open(told, "w", encoding="utf-8") as stream, open(heard, "rb") as reader:
        monkeypatch.setattr(sys, "stderr", stream)
        with Log("text"):
            for number in range(6500):
                LOGGER.info("%d %s", number, "x" * 100)
            # It did not block. Now somebody reads:
            lines = [reader.readline() for _ in range(6500)]
        assert [int(line.split()[1]) for line in lines] == list(range(6500))


def test_lines_that_are_lost_are_counted_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    class Held(io.StringIO):
        """Takes its time with the first line."""

        def write(self, text: str) -> int:
            if not self.getvalue():
                begun.set()
                assert released.wait(PATIENCE)
            return super().write(text)

    begun, released = threading.Event(), threading.Event()
    stream = Held()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("harness.vm_event.logs.WAITING_LIMIT", 2)
    with Log("text"):
        LOGGER.info("first")
        assert begun.wait(PATIENCE)
        for number in range(5):
            LOGGER.info("%d", number)
        released.set()
        eventually(lambda: "info: 1" in stream.getvalue(), "what waited")
        LOGGER.info("last")
    assert stream.getvalue().splitlines() == [
        "info: first",
        "info: 0",
        "info: 1",
        "warning: 3 lines before this one are lost: they were written too fast",
        "info: last",
    ]


def test_a_log_that_fails_disturbs_nobody(journal: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "full")

    def fail(self: JournalHandler, record: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(sys, "stderr", Broken())
    with Log("text"):
        LOGGER.info("in vain")
    monkeypatch.setattr(JournalHandler, "emit", fail)
    with Log("journald", journal=journal.getsockname()):
        LOGGER.info("in vain")
