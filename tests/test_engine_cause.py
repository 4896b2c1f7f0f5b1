"""Why a guest was lost: its device model's own word, wherever it could leave it, and the judge's need to know."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.devicemodel.exit_record import STDERR_MARK, ExitRecord
from harness.engine.cause import end_is_told, true_cause
from harness.errors import ConfigurationError, InfrastructureError

PROBLEM = InfrastructureError("the console ended", awaited="an answer", waited=1.5)
RECORD = ExitRecord("infrastructure", "trace-log", "the raw trace log cannot be written", ended_ns=5)


class EndedProcess:
    """A device model that has ended, and what it said on its standard error."""

    console: socket.socket

    def __init__(self, *said: str, status: int | None = 10) -> None:
        self.last_lines = list(said)
        self._status = status

    def exit_status(self) -> int | None:
        return self._status

    def on_exit(self, callback: Callable[[], object]) -> None:
        callback()

    def close(self, deadline: Deadline) -> None: ...


def left(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "exit.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_cause_is_what_the_device_model_said_last(tmp_path: Path) -> None:
    said = (STDERR_MARK + RECORD.as_json(), "exit record not written: No space left on device")
    cause = true_cause(PROBLEM, EndedProcess(*said), "vm0", tmp_path)
    assert isinstance(cause, InfrastructureError)
    assert "guest vm0: the raw trace log cannot be written (trace-log)" in str(cause)
    # and what it could not leave for the judge is left for it
    assert (left(tmp_path)["reason"], left(tmp_path)["ended_ns"]) == ("trace-log", 5)


def test_a_record_that_it_left_itself_is_not_touched(tmp_path: Path) -> None:
    RECORD.write(tmp_path / "exit.json")
    before = (tmp_path / "exit.json").read_bytes()
    true_cause(PROBLEM, EndedProcess(STDERR_MARK + RECORD.as_json()), "vm0", tmp_path)
    assert (tmp_path / "exit.json").read_bytes() == before


def test_a_device_model_that_was_killed_gets_a_record(tmp_path: Path) -> None:
    cause = true_cause(PROBLEM, EndedProcess("some words", status=-9), "vm0", tmp_path)
    assert "ended with status -9 and said not why" in str(cause) and "some words" in str(cause)
    assert (left(tmp_path)["class"], left(tmp_path)["reason"]) == ("infrastructure", "device-model-died")
    assert isinstance(left(tmp_path)["ended_ns"], int)


def test_a_wrong_configuration_is_nobody_elses_fault(tmp_path: Path) -> None:
    refused = ExitRecord("configuration", "qemu-refused", "no such CPU")
    cause = true_cause(PROBLEM, EndedProcess(STDERR_MARK + refused.as_json()), "vm0", tmp_path)
    assert isinstance(cause, ConfigurationError) and "no such CPU" in str(cause)
    mine = ConfigurationError("has no hwclock")
    assert true_cause(mine, EndedProcess(), "vm0", tmp_path) is mine


@pytest.mark.parametrize("text", [None, "", '{"class": "infra'])
def test_an_end_that_is_not_on_disk_whole_is_not_told(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "exit.json").write_text(text, encoding="utf-8")
    assert not end_is_told(tmp_path)


def test_where_the_disk_does_not_take_the_record_the_cause_is_known_and_the_end_is_not_told(tmp_path: Path) -> None:
    # given a disk that has no room for another file
    (tmp_path / ".exit.json.new").symlink_to("/dev/full")
    cause = true_cause(PROBLEM, EndedProcess(STDERR_MARK + RECORD.as_json()), "vm0", tmp_path)
    assert "trace-log" in str(cause)
    assert not end_is_told(tmp_path)
