"""One real QEMU from start to proven end: QMP, death, and what is left of it (nothing)."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.qemu.arguments import Machine
from harness.qemu.process import Qemu

pytestmark = pytest.mark.qemu

PATIENCE = 60.0
SMALL = Machine(memory=8)
"""Runs its firmware, and then looks for something to boot."""


def descriptors() -> set[str]:
    """The open descriptors of this process and what they are."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except OSError:
            pass  # the listing's own
    return found


def own_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"qmp", "qemu-stderr", "trace-drain"}


def answer(qemu: Qemu, command: str, **arguments: Any) -> object:
    return qemu.qmp.execute(command, Deadline(PATIENCE), **arguments)


class Events:
    """QMP events, as they come."""

    def __init__(self) -> None:
        self._seen: list[str] = []
        self._changed = threading.Condition()

    def put(self, event: Mapping[str, Any]) -> None:
        with self._changed:
            self._seen.append(str(event["event"]))
            self._changed.notify_all()

    def wait_for(self, name: str) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: name in self._seen, PATIENCE)


def test_commands_are_answered_and_events_heard_while_the_guest_runs() -> None:
    events = Events()
    with Qemu(SMALL, on_event=events.put) as qemu:
        assert qemu.exit_code() is None
        status = answer(qemu, "query-status")
        assert isinstance(status, dict) and status["running"]
        answer(qemu, "stop")
        assert events.wait_for("STOP")
        status = answer(qemu, "query-status")
        assert isinstance(status, dict) and not status["running"]


def test_what_qemu_refuses_is_an_infrastructure_error_with_its_words() -> None:
    with Qemu(SMALL) as qemu:
        with pytest.raises(InfrastructureError, match=r"refused no-such-command: .*not been found"):
            answer(qemu, "no-such-command")
        with pytest.raises(InfrastructureError, match="refused trace-event-get-state"):
            answer(qemu, "trace-event-get-state", nme="x")
        assert answer(qemu, "query-status"), "the session goes on"


def test_an_answer_that_does_not_come_in_time_is_an_infrastructure_error() -> None:
    with Qemu(SMALL) as qemu:
        answer(qemu, "query-status")
        os.kill(qemu.pid, signal.SIGSTOP)
        with pytest.raises(InfrastructureError, match="did not answer query-status"):
            qemu.qmp.execute("query-status", Deadline(0.05))
        os.kill(qemu.pid, signal.SIGCONT)
        assert answer(qemu, "query-status"), "the late answer was nobody else's"


def test_a_command_under_way_when_qemu_dies_is_told_so() -> None:
    # given a QEMU that stands still, and a command that waits for its answer
    with Qemu(SMALL) as qemu:
        answer(qemu, "query-status")
        os.kill(qemu.pid, signal.SIGSTOP)
        raised: list[BaseException] = []

        def ask() -> None:
            try:
                answer(qemu, "query-status")
            except BaseException as error:
                raised.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        # when it is killed
        os.kill(qemu.pid, signal.SIGKILL)
        # then the command fails long before its deadline, by whose fault it is
        asking.join(PATIENCE / 2)
        assert [type(error) for error in raised] == [InfrastructureError]
        with pytest.raises(InfrastructureError):
            answer(qemu, "query-status")


def test_a_kill_shows_at_the_pidfd_and_ends_the_trace_after_its_last_line() -> None:
    trace_ended = threading.Event()
    with Qemu(SMALL, on_trace_end=trace_ended.set) as qemu:
        first = qemu.trace.chunks.get(timeout=PATIENCE)
        assert first is not None and first.data.endswith(b"\n")
        assert select.select([qemu.pidfd], [], [], 0)[0] == []
        assert qemu.wait(Deadline(0)) is None
        os.kill(qemu.pid, signal.SIGKILL)
        assert select.select([qemu.pidfd], [], [], PATIENCE)[0] == [qemu.pidfd]
        assert qemu.wait(Deadline(PATIENCE)) == -signal.SIGKILL
        assert trace_ended.wait(PATIENCE)
        while qemu.trace.chunks.get(timeout=PATIENCE) is not None:
            pass


def test_the_reason_of_an_orderly_end_is_heard_before_the_session_is_closed() -> None:
    events = Events()
    with Qemu(SMALL, on_event=events.put) as qemu:
        answer(qemu, "quit")
        assert qemu.wait(Deadline(PATIENCE)) == 0
        assert qemu.qmp.close(PATIENCE)
        assert events.wait_for("SHUTDOWN")


@pytest.mark.parametrize("moment", ["at once", "while it runs", "when it is dead"])
def test_closing_leaves_no_process_thread_or_descriptor(moment: str) -> None:
    # given one QEMU before it, so that what Python makes once is made
    Qemu(SMALL).close(Deadline(PATIENCE))
    before = descriptors()
    qemu = Qemu(SMALL)
    if moment != "at once":
        answer(qemu, "query-status")
    if moment == "when it is dead":
        os.kill(qemu.pid, signal.SIGKILL)
        qemu.wait(Deadline(PATIENCE))
    qemu.close(Deadline(PATIENCE))
    assert not Path(f"/proc/{qemu.pid}").exists(), "not even a zombie"
    assert not own_threads()
    assert descriptors() == before
    qemu.close(Deadline(PATIENCE))


def test_arguments_that_qemu_refuses_end_it_with_its_words_on_stderr() -> None:
    with Qemu(Machine(memory=8, machine="no-such-machine")) as qemu:
        assert qemu.wait(Deadline(PATIENCE)) == 1
        qemu.close(Deadline(PATIENCE))
        assert any("unsupported machine type" in line for line in qemu.stderr_lines)
        with pytest.raises(InfrastructureError, match="no QMP session"):
            answer(qemu, "query-status")


def test_a_missing_binary_is_the_users_to_mend_and_leaves_no_descriptor() -> None:
    before = descriptors()
    with pytest.raises(ConfigurationError, match="qemu-system-nowhere") as caught:
        Qemu(Machine(binary="qemu-system-nowhere"))
    assert "apt-get install" in caught.value.hint
    assert descriptors() == before and not own_threads()


def test_a_start_that_fails_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a machine that has a QEMU, and not the program that starts it
    binary = tmp_path / "qemu"
    binary.write_text("#!/bin/sh\n", encoding="ascii")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    before = descriptors()
    with pytest.raises(InfrastructureError, match="setpriv"):
        Qemu(Machine(binary="qemu"))
    assert descriptors() == before and not own_threads()


def test_what_survives_a_close_is_named(tmp_path: Path) -> None:
    # given a QEMU that leaves a process behind, which holds what it inherited
    wrapper, survivor = tmp_path / "qemu", tmp_path / "survivor"
    wrapper.write_text(f"#!/bin/sh\nsleep 600 & echo $! > {survivor}.new\nmv {survivor}.new {survivor}\nwait\n")
    wrapper.chmod(0o755)
    before = descriptors()
    qemu = Qemu(Machine(binary=str(wrapper)))
    deadline = Deadline(PATIENCE)
    while not survivor.exists():
        assert not deadline.expired
        select.select([], [], [], 0.01)
    # when it is closed, then the close says what is still there
    with pytest.raises(InfrastructureError, match="trace reader"):
        qemu.close(Deadline(0.3))
    # and when that process has gone, all the rest goes
    os.kill(int(survivor.read_text()), signal.SIGKILL)
    qemu.close(Deadline(PATIENCE))
    assert descriptors() == before and not own_threads()
