"""Attaching to a guest: whom, by what, and what then goes wrong; beside a service in this process, without a guest."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.engine.attach import Attachment, AttachSettings
from harness.engine.running_guest import find_guest
from harness.errors import ConfigurationError, InfrastructureError
from harness.judge.verdict import Verdict
from harness.vm_event import MonitorClient, RtcChange, VmEventService
from tests.judge_run import RTC0, SECOND, RunWriter

PATIENCE = 60.0
WINDOW = 0.2


class Guest:
    """The monitor socket and the trace log of a guest that there is not; this process is its device model."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "monitor.sock"
        self.writer = RunWriter(folder / "theirs")
        self.trace = self.writer.dir / "trace.log"
        self.service = VmEventService("vm0", window=WINDOW)
        self.started_ns = time.monotonic_ns()
        self.writer.start(self.started_ns, window_ns=int(WINDOW * SECOND))
        self.service.set_rtc(RTC0, stamp_ns=self.started_ns)
        self.service.describe(trace_log=str(self.trace), exit_record=None)
        self.service.start(self.socket)

    def write(self) -> None:
        """The guest writes its day of month, which is now tomorrow."""
        stamp_ns = time.monotonic_ns()
        self.writer.write(stamp_ns, 0x07, 0x16, lag_ns=0)
        now = RTC0 + stamp_ns // SECOND - self.started_ns // SECOND
        self.service.send(RtcChange(now, 86_400), stamp_ns=stamp_ns)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path)
    with made.service:
        yield made


@pytest.fixture
def attachment(guest: Guest, tmp_path: Path) -> Iterator[Attachment]:
    """An attachment that listens."""
    with Attachment(AttachSettings(tmp_path / "run", 1, guest.socket)) as made:
        made.start()
        yield made


def verdict_of(attachment: Attachment) -> Verdict:
    """The first verdict that comes."""
    deadline = Deadline(PATIENCE)
    while not attachment.beside():
        assert attachment.watch(0.02) and not deadline.expired
    return attachment.beside()[0]


def watched_to_its_end(attachment: Attachment) -> str:
    deadline = Deadline(PATIENCE)
    while attachment.watch(0.02):
        assert not deadline.expired
    attachment.close()
    assert attachment.ended is not None
    return attachment.ended


def problem_of(socket: Path, trace: Path | None = None) -> str:
    """Why there is nothing to attach to; nothing stays open."""
    with pytest.raises(ConfigurationError) as error:
        find_guest(socket, trace)
    assert not [each for each in Path("/proc/self/fd").iterdir() if "pidfd" in os.path.realpath(each)]
    return str(error.value)


# -- whom --------------------------------------------------------------------------------------------------------


def test_all_that_is_to_be_known_of_a_guest_is_found_out_from_its_socket(guest: Guest) -> None:
    guest.writer.write(guest.started_ns + 1, 0x07, 0x16)
    found = find_guest(guest.socket)
    os.close(found.pidfd)
    assert (found.vm, found.window_ns, found.trace, found.pid) == ("vm0", WINDOW * SECOND, guest.trace, os.getpid())
    assert (found.start["vrtc"], found.begin) == ("dm", 0)


def test_of_several_lives_in_one_trace_log_the_last_one_counts(guest: Guest) -> None:
    guest.writer.write(guest.started_ns + 1, 0x07, 0x16)
    guest.writer.record("end", guest.started_ns + 2, reason="destroyed")
    begin = guest.trace.stat().st_size
    guest.writer.start(guest.started_ns + 3, window_ns=SECOND)
    guest.writer.record("clock-step", guest.started_ns + 4, by_ns=1)
    found = find_guest(guest.socket)
    os.close(found.pidfd)
    assert (found.begin, found.window_ns) == (begin, SECOND)


def test_a_socket_with_nobody_behind_it(tmp_path: Path) -> None:
    assert "there is no guest to attach to" in problem_of(tmp_path / "nowhere.sock")


def test_a_device_model_without_a_trace_log(guest: Guest) -> None:
    guest.service.describe(trace_log=None)
    said = problem_of(guest.socket)
    assert "the device model of vm0 writes no trace log" in said and "--trace-log FILE" in said


def test_a_service_that_does_not_say_where_a_trace_log_is(tmp_path: Path, guest: Guest) -> None:
    with VmEventService("vm0") as other:
        other.start(tmp_path / "other.sock")
        assert "--attach-trace FILE" in problem_of(tmp_path / "other.sock")
        found = find_guest(tmp_path / "other.sock", guest.trace)
        os.close(found.pidfd)
        assert found.vm == "vm0"


def test_a_trace_log_of_a_guest_that_has_ended(guest: Guest) -> None:
    guest.writer.record("end", guest.started_ns + 1, reason="destroyed")
    assert "has ended (destroyed)" in problem_of(guest.socket)


def test_a_trace_log_of_another_guest(guest: Guest) -> None:
    guest.writer.start(guest.started_ns, vm="vm1")
    assert "tells of the guest vm1, and vm0 is attached to" in problem_of(guest.socket)


@pytest.mark.parametrize("text", ["", "1 2 not a record\n", "# {", '# {"event": "start"}\n'])
def test_what_is_no_trace_log(guest: Guest, tmp_path: Path, text: str) -> None:
    (tmp_path / "other").write_text(text, encoding="utf-8")
    said = problem_of(guest.socket, tmp_path / "other")
    assert "is no trace log" in said or "cannot be read" in said


def test_a_trace_log_that_is_not_there(guest: Guest, tmp_path: Path) -> None:
    assert "no such file" in problem_of(guest.socket, tmp_path / "nowhere.log")


# -- what then happens -------------------------------------------------------------------------------------------


def test_an_update_is_judged_as_it_happens(guest: Guest, attachment: Attachment) -> None:
    guest.write()
    verdict = verdict_of(attachment)
    assert verdict.verdict in {"pass", "inconclusive"}, verdict.diagnosis
    assert attachment.interrupt() and not attachment.interrupt(), "the first time only"
    assert watched_to_its_end(attachment) == "Ctrl-C"


def test_it_ends_when_its_time_is_over(guest: Guest, tmp_path: Path) -> None:
    with Attachment(AttachSettings(tmp_path / "run", 1, guest.socket, seconds=0.05)) as made:
        made.start()
        assert watched_to_its_end(made) == "0.05 s are over"
    assert guest.service.running


def test_a_stream_that_ends_while_the_device_model_lives_is_a_fault(guest: Guest, attachment: Attachment) -> None:
    guest.service.stop()
    assert watched_to_its_end(attachment) == "the event stream ended: closed by the service"
    (verdict,) = attachment.beside()
    assert (verdict.verdict, verdict.faults) == ("product fault", ("closed",))


def test_somebody_else_who_listens_is_left_alone(guest: Guest, tmp_path: Path) -> None:
    with MonitorClient(guest.socket) as client, Attachment(AttachSettings(tmp_path / "run", 1, guest.socket)) as made:
        client.register()
        with pytest.raises(InfrastructureError, match="one event client is admitted per guest"):
            made.start()
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert [error["class"] for error in run["errors"]] == ["infrastructure"]
    assert run["ended"] is not None


def test_a_trace_log_that_is_emptied_ends_it_as_an_infrastructure_error(guest: Guest, attachment: Attachment) -> None:
    guest.write()
    attachment.watch(0)
    os.truncate(guest.trace, 0)
    assert watched_to_its_end(attachment) == "judging failed"
    assert "was cut from" in str(attachment.errors[0])


def test_a_trace_log_that_is_removed_is_read_on(guest: Guest, attachment: Attachment) -> None:
    with guest.trace.open("ab") as log:
        guest.trace.unlink()
        log.write(b"1 2 x\n")
        log.flush()
        attachment.watch(0)
    attachment.close()
    copy = attachment.rundir.path / "vm0" / "trace.log"
    assert copy.read_bytes().endswith(b"\n1 2 x\n")


def test_of_the_trace_only_whole_lines_are_copied(guest: Guest, attachment: Attachment) -> None:
    copy = attachment.rundir.path / "vm0" / "trace.log"
    guest.writer.append("trace.log", "1 2 half")
    attachment.watch(0)
    first = copy.read_text(encoding="utf-8")
    guest.writer.append("trace.log", " a line\n")
    attachment.watch(0)
    assert first.endswith("\n") and "half" not in first
    assert copy.read_text(encoding="utf-8") == first + "1 2 half a line\n"
