"""One command: its input, its end, its last words; and nothing is left of it, however it behaves."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.vm_event import process
from harness.vm_event.process import Outcome, problem_with, run
from tests.vm_event_support import PATIENCE, eventually, nothing_left_open


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with nothing_left_open():
        yield
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)  # no zombie: there is no child at all


@pytest.fixture
def interrupt() -> Iterator[int]:
    descriptor = os.eventfd(0, os.EFD_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def shell(script: str, interrupt: int, *, given: bytes = b"", timeout: float = PATIENCE) -> Outcome:
    return run(("sh", "-c", script), given, timeout=timeout, interrupt=interrupt)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_is_given_its_input_and_its_end_is_told(interrupt: int, tmp_path: Path) -> None:
    outcome = shell(f"cat > {tmp_path}/given; echo one >&2; echo two >&2; exit 7", interrupt, given=b"{}\n" * 50_000)
    assert (outcome.end, outcome.status, outcome.words) == ("exited", 7, "one\ntwo")
    assert (tmp_path / "given").read_bytes() == b"{}\n" * 50_000


def test_one_that_does_not_read_its_input_is_no_trouble(interrupt: int) -> None:
    outcome = shell("exit 0", interrupt, given=b"x" * 10**6)
    assert (outcome.end, outcome.status, outcome.words) == ("exited", 0, "")


def test_one_that_dies_by_a_signal_has_its_number(interrupt: int) -> None:
    assert shell("kill -SEGV $$", interrupt).status == -signal.SIGSEGV


@pytest.mark.parametrize("how", ["interrupted", "timed out"])
def test_its_whole_process_group_is_ended(
    interrupt: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Also the parts that ignore SIGTERM, and those in the background."""
    monkeypatch.setattr(process, "GRACE", 0.01)
    told = tmp_path / "pids"
    os.mkfifo(told)
    script = f"trap '' TERM; sleep 1000 & sh -c 'sleep 1000; :' & echo $! $$ > {told}; wait; sleep 1000"
    outcomes: list[Outcome] = []

    def run_it() -> None:
        outcomes.append(shell(script, interrupt, timeout=0.3 if how == "timed out" else PATIENCE))

    thread = threading.Thread(target=run_it)
    thread.start()
    pids: list[int] = []
    if how == "interrupted":
        pids = [int(pid) for pid in told.read_text(encoding="ascii").split()]
        assert len(pids) == 2 and all(map(alive, pids))
        os.eventfd_write(interrupt, 1)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert [(outcome.end, outcome.status) for outcome in outcomes] == [(how, -signal.SIGKILL)]
    eventually(lambda: not any(map(alive, pids)), "all of them to be gone")


def test_one_that_is_asked_to_end_may_say_something(
    interrupt: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE", PATIENCE)
    told = tmp_path / "ready"
    os.mkfifo(told)
    script = f"trap 'echo as you wish >&2; exit 5' TERM; echo > {told}; while :; do sleep 0.01; done"
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(shell(script, interrupt)))
    thread.start()
    told.read_text(encoding="ascii")
    os.eventfd_write(interrupt, 1)
    thread.join(PATIENCE)
    assert [(outcome.end, outcome.status) for outcome in outcomes] == [("interrupted", 5)]
    assert "as you wish" in outcomes[0].words.splitlines()


def test_what_it_leaves_running_ends_with_it_and_is_not_waited_for(interrupt: int, tmp_path: Path) -> None:
    """It holds stderr open, too."""
    outcome = shell(f"sleep 1000 & echo $! > {tmp_path}/pid", interrupt)
    assert (outcome.end, outcome.status) == ("exited", 0)
    pid = int((tmp_path / "pid").read_text(encoding="ascii"))
    eventually(lambda: not alive(pid), "the one in the background to be gone")


def test_one_that_never_stops_to_talk_is_ended_and_only_its_last_words_are_kept(interrupt: int) -> None:
    outcome = shell("while :; do echo on and on >&2; done", interrupt, timeout=0.1)
    assert outcome.end == "timed out"
    assert outcome.words.count("\n") < process.LAST_LINES


def test_it_finds_signals_as_a_shell_would_leave_them(interrupt: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        outcome = shell("grep -E '^Sig(Blk|Ign)' /proc/self/status >&2", interrupt)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    masks = {line.split(":")[0]: int(line.split(":")[1], 16) for line in outcome.words.splitlines()}
    assert masks["SigBlk"] == 0
    assert not masks["SigIgn"] & 1 << (signal.SIGPIPE - 1)


def test_it_has_a_session_of_its_own_and_none_of_our_descriptors(interrupt: int) -> None:
    outcome = shell("cut -d ' ' -f 6 /proc/$$/stat >&2; echo $$ >&2; ls -l /proc/$$/fd >&2", interrupt)
    session, pid, *descriptors = outcome.words.split("\n")
    assert session == pid
    assert "eventfd" not in str(descriptors)


def test_one_that_cannot_be_started_says_why(interrupt: int, tmp_path: Path) -> None:
    outcome = run((str(tmp_path / "nothing"),), b"", timeout=1, interrupt=interrupt)
    assert (outcome.end, outcome.status, outcome.words) == ("not started", None, "No such file or directory")


def test_what_is_no_command_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tool"
    file.write_text("#!/bin/sh\n", encoding="ascii")
    assert problem_with("sh") is None
    assert problem_with("no-such-tool") == "no-such-tool: no such command in PATH"
    assert problem_with(f"{file}x") == f"{file}x: no such file"
    assert problem_with(str(tmp_path)) == f"{tmp_path}: not an executable file"
    assert problem_with(str(file)) == f"{file}: not an executable file"
    file.chmod(0o755)
    assert problem_with(str(file)) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert problem_with("tool") is None
