"""A guest's console: recorded with times, bounded, and ended at once by a dying guest."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests.console import Console, ConsoleClosed, ConsoleTimeout, GuestDied
from tests.guests_support import console_pair

PROMPT = re.compile(rb"login: ")
DEATHS = {
    "Kernel panic - not syncing: sysrq triggered crash": b"[  4.1] Kernel panic - not syncing: sysrq triggered crash",
    "Oops: 0002": b"[  4.1] Oops: 0002 [#1] PREEMPT SMP PTI",
    "BUG: kernel NULL pointer": b"[  4.1] BUG: kernel NULL pointer dereference, address: 0",
    "Unable to mount root fs": b"[  4.1] VFS: Unable to mount root fs on unknown-block(0,0)",
}


def test_what_is_awaited_is_found_across_reads_and_what_follows_is_kept(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, end):
        end.sendall(b"Debian\r\nlog")
        console.check()
        end.sendall(b"in: more\r\n")
        assert console.wait_for(PROMPT, "a login prompt", Deadline(20))
        assert console.wait_for(re.compile(rb"more"), "the rest", Deadline(20))


def test_each_line_is_recorded_with_its_times_and_the_bytes_beside_it(tmp_path: Path) -> None:
    before = time.monotonic_ns()
    with console_pair(tmp_path) as (console, end):
        end.sendall(b"one\r\r\ntwo \xff\r\npart")
        console.wait_for(re.compile(rb"part"), "the end", Deadline(20))
    after = time.monotonic_ns()
    lines = (tmp_path / "console.log").read_bytes().splitlines()
    stamps, walls, texts = zip(*(line.split(b" ", 2) for line in lines), strict=True)
    assert texts == (b"one", b"two \xff", b"part")
    assert all(before <= int(stamp) <= after for stamp in stamps)
    assert all(re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", wall) for wall in walls)
    assert (tmp_path / "console.raw").read_bytes() == b"one\r\r\ntwo \xff\r\npart"


@pytest.mark.parametrize("named", DEATHS)
def test_a_dying_kernel_ends_the_wait_by_name(tmp_path: Path, named: str) -> None:
    with console_pair(tmp_path, "vm7") as (console, end):
        end.sendall(b"last words\r\n" + DEATHS[named] + b"\r\n")
        with pytest.raises(GuestDied, match=re.escape(named)) as caught:
            console.wait_for(PROMPT, "a login prompt", Deadline(60))
    error = caught.value
    assert error.awaited == "a login prompt"
    assert error.waited is not None
    assert error.waited < 50
    assert "last words" in error.last_lines
    assert error.log == tmp_path / "console.log"
    assert "vm7" in str(error)


def test_a_dead_guest_stays_dead_for_everybody_who_asks_later(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, end):
        end.sendall(DEATHS["Oops: 0002"] + b"\r\n")
        for use in (console.check, lambda: console.send(b"x", "nothing", Deadline(20))):
            with pytest.raises(GuestDied, match="Oops"):
                use()


def test_what_came_before_the_death_is_still_delivered(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, end):
        end.sendall(b"login: " + DEATHS["Oops: 0002"] + b"\r\n")
        console.wait_for(PROMPT, "a login prompt", Deadline(20))
        with pytest.raises(GuestDied):
            console.wait_for(PROMPT, "another", Deadline(20))


def test_a_lockup_message_of_a_starved_guest_is_no_death(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, end):
        end.sendall(b"watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\r\nlogin: ")
        assert console.wait_for(PROMPT, "a login prompt", Deadline(20))


def test_a_console_that_ends_is_a_death(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, end):
        end.sendall(b"half a li")
        end.close()
        with pytest.raises(GuestDied, match="its console ended") as caught:
            console.wait_for(PROMPT, "a login prompt", Deadline(60))
        assert caught.value.last_lines == ("half a li",)


def test_the_deadline_ends_a_wait_even_when_the_wall_clock_runs_backwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = iter(range(2_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(wall)))
    with console_pair(tmp_path) as (console, end):
        end.sendall(b"something else\r\n")
        with pytest.raises(ConsoleTimeout, match="a login prompt did not come") as caught:
            console.wait_for(PROMPT, "a login prompt", Deadline(0.05))
        assert caught.value.last_lines == ("something else",)


def test_close_from_another_thread_ends_a_wait_at_once(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, _end):
        caught: list[BaseException] = []

        def wait() -> None:
            try:
                console.wait_for(PROMPT, "a login prompt", Deadline(60))
            except InfrastructureError as error:
                caught.append(error)

        waiter = threading.Thread(target=wait)
        waiter.start()
        console.close()
        waiter.join(30)
        assert not waiter.is_alive()
        assert [type(error) for error in caught] == [ConsoleClosed]
        with pytest.raises(ConsoleClosed):
            console.check()


def test_nothing_is_left_open_after_close(tmp_path: Path) -> None:
    def open_descriptors() -> set[str]:
        return {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}

    before = open_descriptors()
    with console_pair(tmp_path) as (console, end):
        end.sendall(b"login: ")
        console.wait_for(PROMPT, "a login prompt", Deadline(20))
        console.close()
    assert open_descriptors() <= before


def test_input_that_nobody_takes_is_a_timeout(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, _end), pytest.raises(ConsoleTimeout, match="takes no input"):
        console.send(bytes(16 << 20), "nothing", Deadline(0.05))


def test_a_flood_without_what_is_awaited_ends_the_wait(tmp_path: Path) -> None:
    with console_pair(tmp_path) as (console, end):

        def pour() -> None:
            with contextlib.suppress(OSError):  # the console hangs up in the middle of it
                end.sendall((b"x" * 79 + b"\n") * (5 << 20 >> 6))

        flood = threading.Thread(target=pour)
        flood.start()
        with pytest.raises(InfrastructureError, match="flooded"):
            console.wait_for(PROMPT, "a login prompt", Deadline(60))
        console.close()
        flood.join(30)


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "console.raw").symlink_to("/dev/full")
    with console_pair(tmp_path) as (console, end):
        end.sendall(b"login: \r\n")
        with pytest.raises(InfrastructureError, match="No space left"):
            console.wait_for(PROMPT, "a login prompt", Deadline(20))


def test_a_log_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(InfrastructureError, match="console log"):
        Console(ours, tmp_path / "not there" / "console.log")
    assert ours.fileno() == -1


def test_a_pty_works_as_a_socket_does(tmp_path: Path) -> None:
    master, slave = os.openpty()
    console = Console(master, tmp_path / "console.log")
    try:
        os.write(slave, b"login: ")
        assert console.wait_for(PROMPT, "a login prompt", Deadline(20))
        console.send(b"root\n", "the name to be taken", Deadline(20))
        assert os.read(slave, 100) == b"root\n"
        os.close(slave)
        with pytest.raises(GuestDied, match="its console ended"):
            console.wait_for(PROMPT, "a login prompt", Deadline(60))
    finally:
        console.close()
