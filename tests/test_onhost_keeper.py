"""What runs on a host: the keeper ends a program and all its descendants, and says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.onhost.lease import LEASE_NS, Lease, LeaseOwner, is_stale
from harness.onhost.pack import archive
from tests.ssh_support import await_truth, lives

PATIENCE = 60.0
HIDES = """
import os, sys, time, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for descriptor in range(3):
            os.close(descriptor)
        with open(sys.argv[1] + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        time.sleep(600)
    os._exit(0)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
time.sleep(float(sys.argv[2]))
"""
"""A program that leaves a descendant which is in no way connected with it any more, and pays no heed to SIGTERM."""

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tools") / "tools.pyz"
    path.write_bytes(archive())
    return path


@pytest.fixture
def session(tmp_path: Path) -> Iterator[LeaseOwner]:
    owner = LeaseOwner(str(tmp_path))
    yield owner
    owner.end()


def kept(tools: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-IS", str(tools), "keep", "--mark", "MARK", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def last_words(errors: bytes) -> dict[str, object]:
    words: dict[str, object] = json.loads(errors.splitlines()[-1])
    return words


def hidden_pid(path: Path) -> int:
    await_truth(path.exists)
    return int(path.read_text(encoding="ascii"))


def test_a_programs_streams_are_the_keepers_own(tools: Path) -> None:
    with kept(tools, "--input", "5", "--", "sh", "-c", "cat; echo words >&2; exit 3") as keeper:
        assert keeper.stdin and keeper.stdout and keeper.stderr
        keeper.stdin.write(b"hello")
        keeper.stdin.flush()
        assert keeper.stdout.read() == b"MARK {}\nhello"
        errors = keeper.stderr.read()
        assert b"\nwords\n" in errors
        assert last_words(errors) == {"keeper": "ended", "status": 3, "left": [], "survivors": []}
        assert keeper.wait(PATIENCE) == 3


def test_the_end_of_the_input_ends_a_program_that_minds_it(tools: Path) -> None:
    with kept(tools, "--", "cat") as keeper:
        output, errors = keeper.communicate(timeout=PATIENCE)
        assert output == b"MARK {}\n"
        assert last_words(errors)["status"] == 0


def test_the_end_of_the_input_ends_a_program_that_minds_neither_that_nor_sigterm(tools: Path) -> None:
    with kept(tools, "--", sys.executable, "-c", DEAF) as keeper:
        assert keeper.stdout
        keeper.stdout.readline()
        assert keeper.stdout.readline() == b"deaf\n"
        _, errors = keeper.communicate(timeout=PATIENCE)
        assert last_words(errors)["status"] == -signal.SIGKILL


def test_a_descendant_that_hides_is_found_and_ended_with_the_program(tools: Path, tmp_path: Path) -> None:
    # given a program with a descendant in a session of its own, whose parent is gone
    with kept(tools, "--", sys.executable, "-c", HIDES, str(tmp_path / "pid"), "600") as keeper:
        pid = hidden_pid(tmp_path / "pid")
        # when the link ends, then both are gone
        keeper.communicate(timeout=PATIENCE)
        assert not lives(pid)


def test_a_descendant_that_is_left_behind_is_ended_and_named(tools: Path, tmp_path: Path) -> None:
    # given a program that ends by itself and leaves a descendant
    with kept(tools, "--", sys.executable, "-c", HIDES, str(tmp_path / "pid"), "0") as keeper:
        assert keeper.stderr
        errors = keeper.stderr.read()
        # then it is ended, too
        words = last_words(errors)
        assert words["status"] == 0 and words["survivors"] == []
        assert not lives(hidden_pid(tmp_path / "pid"))


def test_a_program_dies_with_a_keeper_that_is_killed(tools: Path) -> None:
    with kept(tools, "--", "sh", "-c", "echo $$; exec sleep 600") as keeper:
        assert keeper.stdout
        keeper.stdout.readline()
        pid = int(keeper.stdout.readline())
        keeper.kill()
        await_truth(lambda: not lives(pid))


def test_a_terminal_passes_every_byte_as_it_is_and_is_the_programs_own(tools: Path) -> None:
    with kept(tools, "--terminal", "--", "sh", "-c", "tty; stty size; exec cat") as keeper:
        assert keeper.stdin and keeper.stdout
        keeper.stdout.readline()
        assert keeper.stdout.readline().startswith(b"/dev/pts/")
        assert keeper.stdout.readline() == b"50 200\n"
        sent = bytes(range(256))
        keeper.stdin.write(sent)
        keeper.stdin.flush()
        got = b""
        while len(got) < len(sent):
            got += os.read(keeper.stdout.fileno(), 4096)
        assert got == sent
        _, errors = keeper.communicate(timeout=PATIENCE)
        assert last_words(errors)["status"] == -signal.SIGTERM


def test_the_last_words_on_a_terminal_come_before_the_end(tools: Path) -> None:
    with kept(tools, "--terminal", "--", "sh", "-c", "seq 1 20000; exit 4") as keeper:
        assert keeper.stdout and keeper.stderr
        output = keeper.stdout.read()
        assert output.splitlines()[1:] == [b"%d" % n for n in range(1, 20001)]
        assert last_words(keeper.stderr.read())["status"] == 4


@pytest.mark.parametrize(("program", "why"), [("/no/such", "No such file"), ("/etc/passwd", "Permission denied")])
def test_a_program_that_cannot_be_started_is_told_of(program: str, why: str, tools: Path) -> None:
    with kept(tools, "--", program) as keeper:
        _, errors = keeper.communicate(timeout=PATIENCE)
        assert last_words(errors)["keeper"] == "failed" and why in str(last_words(errors)["why"])


def test_a_void_lease_ends_a_program(tools: Path, session: LeaseOwner, tmp_path: Path) -> None:
    with kept(tools, "--folder", str(tmp_path), "--", "sleep", "600") as keeper:
        assert keeper.stderr
        keeper.stderr.readline()
        pid = int(json.loads(keeper.stderr.readline())["pid"])
        session.end()
        assert last_words(keeper.stderr.read())["survivors"] == []
        assert not lives(pid)


def test_nothing_starts_in_a_session_that_is_over(tools: Path, session: LeaseOwner, tmp_path: Path) -> None:
    session.end()
    with kept(tools, "--folder", str(tmp_path), "--", "touch", str(tmp_path / "started")) as keeper:
        output, _ = keeper.communicate(timeout=PATIENCE)
        assert b"is over" in output
    assert not (tmp_path / "started").exists()


def test_a_lease_is_void_when_it_was_not_renewed_or_when_the_host_started_anew(
    session: LeaseOwner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease(str(tmp_path))
    assert not lease.void
    now = time.monotonic_ns()
    for moment, void in ((now + LEASE_NS // 2, False), (now + 2 * LEASE_NS, True), (now - 2 * LEASE_NS, True)):
        monkeypatch.setattr("harness.onhost.lease.time.monotonic_ns", lambda moment=moment: moment)
        assert lease.void == void
    lease.release()


def test_a_folder_is_stale_only_when_its_session_is_over_and_nobody_holds_it(
    session: LeaseOwner, tmp_path: Path
) -> None:
    assert not is_stale(str(tmp_path / "none"))
    assert not is_stale(str(tmp_path))
    lease = Lease(str(tmp_path))
    session.end()
    assert not is_stale(str(tmp_path)), "a tool has still to end what it runs"
    lease.release()
    assert is_stale(str(tmp_path))
