"""The lock on a bench: one process has it, whoever died with it keeps nobody out, and who has it is named."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.bench import load_bench
from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.lock import Held, LockFile, Owner, birth
from harness.hosts.reservation import identity, reservation_for
from tests.docs_support import ROOT
from tests.vm_event_support import eventually

PATIENCE = 30.0

HOLD = """
    import sys, time
    from pathlib import Path
    from harness.hosts.lock import LockFile
    with LockFile(Path(sys.argv[1]), "the bench mine", lease=float(sys.argv[2])):
        print("held", flush=True)
        sys.stdin.read()
    print("released", flush=True)
"""


@contextlib.contextmanager
def holder(path: Path, lease: float = 60.0) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has the lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(path), str(lease)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "mine.lock"


def elsewhere(owner: Owner, **changes: object) -> Owner:
    """The same on another machine."""
    return Owner(**{**asdict(owner), "host": "elsewhere", "boot": "another", **changes})


def left(path: Path, owner: Owner, *, seconds_ago: float = 0.0) -> None:
    """A lock file whose owner wrote it so long ago, and is not on this machine's kernel."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(owner)))
    then = time.time() - seconds_ago
    os.utime(path, (then, then))


def test_it_says_who_has_it_and_nothing_is_left_of_it(path: Path) -> None:
    with LockFile(path, "the bench mine", lease=50):
        found = json.loads(path.read_text())
        assert (found["pid"], found["what"], found["lease_s"]) == (os.getpid(), "the bench mine", 50)
        assert found["born"] == birth(os.getpid()) and found["expires"] > found["started"]

    assert list(path.parent.iterdir()) == []


def test_a_refusal_names_who_has_it_since_when_until_when_and_how_to_wait(path: Path) -> None:
    with holder(path) as other, pytest.raises(Held) as caught, LockFile(path, "the bench mine"):
        pass

    text = str(caught.value)
    owner = Owner.this_process("", 1)
    assert f"the bench mine is in use by {owner.user} on {owner.host} (process {other.pid}) since 20" in text
    assert ", until 20" in text and "if not renewed" in text
    assert "wait: SECONDS" in text and str(path) in text


def test_within_one_process_it_is_had_once_too(path: Path) -> None:
    with LockFile(path, "the bench mine"), pytest.raises(Held), LockFile(path, "the bench mine"):
        pass


def test_whoever_waits_gets_it_when_it_is_released_and_was_told_for_whom(path: Path) -> None:
    told: list[str] = []
    with holder(path) as other:

        def release(line: str) -> None:
            told.append(line)
            assert other.stdin is not None
            other.stdin.close()
            other.stdin = None

        with LockFile(path, "the bench mine", wait=PATIENCE, tell=release):
            pass
        assert other.stdout is not None and other.stdout.read() == "released\n"

    assert len(told) == 1 and "waiting up to" in told[0] and f"process {other.pid}" in told[0]


def test_who_waited_in_vain_is_told_how_long(path: Path) -> None:
    with holder(path), pytest.raises(Held) as caught, LockFile(path, "the bench mine", wait=0.3, tell=str):
        pass

    assert caught.value.waited is not None and caught.value.waited >= 0.3


def test_of_an_owner_who_was_killed_it_is_taken_over_saying_so(path: Path) -> None:
    with holder(path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert path.exists()
    told: list[str] = []

    with LockFile(path, "the bench mine", tell=told.append) as lock:
        assert lock.former is not None and lock.former.pid == other.pid
        assert json.loads(path.read_text())["pid"] == os.getpid()

    assert len(told) == 1 and "the process is gone; it is taken over" in told[0]
    assert not path.exists()


def test_after_ctrl_c_no_lock_is_left(path: Path) -> None:
    with holder(path) as other:
        other.send_signal(signal.SIGINT)
        other.wait(PATIENCE)

    assert not path.exists()


def test_of_a_frozen_owner_on_this_machine_it_is_never_taken(path: Path) -> None:
    with holder(path, lease=0.2) as other:
        other.send_signal(signal.SIGSTOP)
        eventually(lambda: time.time() - path.stat().st_mtime > 0.4, "the end of the lease")
        with pytest.raises(Held), LockFile(path, "the bench mine"):
            pass
        other.send_signal(signal.SIGCONT)


MANY = """
    import os, sys
    from pathlib import Path
    from harness.hosts.lock import Held, LockFile
    path, inside = Path(sys.argv[1]), Path(sys.argv[2])
    print("there", flush=True)
    sys.stdin.readline()
    for turn in range(20):
        with LockFile(path, "it", wait=60, tell=lambda line: None):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another one is inside
            inside.unlink()
    print("done", flush=True)
"""


def test_processes_that_begin_at_the_same_instant_have_it_one_at_a_time(path: Path, tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(MANY), str(path), str(tmp_path / "inside")],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(6)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "there\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()

    assert [out for out, _ in said] == ["done\n"] * 6, [errors[-500:] for _, errors in said]
    assert list(path.parent.iterdir()) == []


@pytest.mark.soak
def test_owners_that_are_killed_all_the_time_never_leave_two_or_none(path: Path, tmp_path: Path) -> None:
    for _ in range(30):
        with holder(path) as first:
            first.send_signal(signal.SIGKILL)
            first.wait()
            test_processes_that_begin_at_the_same_instant_have_it_one_at_a_time(path, tmp_path)


# -- a folder that several machines share --------------------------------------------------------------------------


def test_of_an_owner_elsewhere_the_lease_counts(path: Path) -> None:
    owner = elsewhere(Owner.this_process("the bench mine", 30), pid=4711)
    left(path, owner, seconds_ago=20)

    with pytest.raises(Held, match=r"on elsewhere \(process 4711\)"), LockFile(path, "the bench mine"):
        pass

    told: list[str] = []
    left(path, owner, seconds_ago=31)
    with LockFile(path, "the bench mine", tell=told.append):
        pass
    assert "has not been renewed for 31 s" in told[0]


def test_a_process_of_the_same_number_that_was_born_later_is_not_the_owner(path: Path) -> None:
    owner = Owner.this_process("the bench mine", 1000)
    left(path, Owner(**{**asdict(owner), "born": "1"}))

    with LockFile(path, "the bench mine", tell=str) as lock:
        assert lock.former is not None and lock.former.born == "1"


def test_a_living_owner_without_the_kernels_lock_is_believed(path: Path) -> None:
    left(path, Owner.this_process("the bench mine", 1), seconds_ago=1000)

    with pytest.raises(Held), LockFile(path, "the bench mine"):
        pass


def test_it_is_renewed_while_it_is_held(path: Path) -> None:
    with LockFile(path, "the bench mine", lease=0.4):
        first = json.loads(path.read_text())
        begun = path.stat().st_mtime_ns
        eventually(lambda: path.stat().st_mtime_ns > begun, "a renewal")
        assert json.loads(path.read_text())["token"] == first["token"]


def test_who_lost_it_is_told_and_leaves_the_new_owner_his(path: Path) -> None:
    lock = LockFile(path, "the bench mine", lease=0.2)
    lock.__enter__()
    path.unlink()
    left(path, elsewhere(Owner.this_process("the bench mine", 60)))
    eventually(lambda: lock.failure is not None, "the discovery")

    with pytest.raises(InfrastructureError, match="was lost while it was held"):
        lock.__exit__(None, None, None)
    assert json.loads(path.read_text())["host"] == "elsewhere"


# -- files and folders that are none -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["who knows", "{}", '{"format": 2}', "[1]", "\0" * 100])
def test_what_is_no_lock_is_not_taken_silently(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.hosts.lock._TORN_FOR", 0.0)
    path.parent.mkdir()
    path.write_text(text)

    with pytest.raises(ConfigurationError, match="is no lock that this version knows") as caught:
        LockFile(path, "the bench mine").__enter__()

    assert "remove that file" in str(caught.value)
    assert path.read_text() == text


def test_a_lock_whose_writing_was_cut_off_before_it_began_is_free(path: Path) -> None:
    path.parent.mkdir()
    path.touch()

    with LockFile(path, "the bench mine"):
        pass


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    (tmp_path / "precious").write_text("")
    path.symlink_to(tmp_path / "precious")

    with pytest.raises(ConfigurationError, match="symbolic link"):
        LockFile(path, "the bench mine").__enter__()
    assert (tmp_path / "precious").read_text() == ""


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match=r"lock folder .* cannot be made"):
        LockFile(tmp_path / "file" / "mine.lock", "the bench mine").__enter__()


def test_where_all_may_write_to_the_folder_all_may_write_to_the_lock(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o770)

    with LockFile(path, "the bench mine"):
        assert path.stat().st_mode & 0o777 == 0o660


# -- of which bench ------------------------------------------------------------------------------------------------


def bench_file(folder: Path, name: str, host: str, **more: str) -> Path:
    keys = "".join(f"{key}: {value}\n" for key, value in more.items())
    path = folder / f"{name}.yaml"
    path.write_text(
        f"version: 1\nname: {name}\nhost: {host}\n{keys}guests:\n  - name: vm0\n"
        '    device_model: {kind: acrn-dm, arguments: ["--cmd_monitor", "{monitor}", "{vm}"]}\n'
    )
    return path


def test_two_files_about_one_machine_share_its_lock(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host lab\n  HostName 192.0.2.7\n  Port 2222\n")
    benches = [
        load_bench(bench_file(tmp_path, name, host, reservation="{kind: lock, folder: locks}"))
        for name, host in (
            ("alias", "{kind: ssh, address: lab, user: me, ssh_config: config}"),
            ("number", "{kind: ssh, address: 192.0.2.7, port: 2222}"),
            ("other", "{kind: ssh, address: 192.0.2.7, port: 2223}"),
        )
    ]

    assert identity(benches[0]) == identity(benches[1]) == "192.0.2.7:2222"
    with reservation_for(benches[0]), reservation_for(benches[2]), pytest.raises(Held, match="bench number is in use"):
        reservation_for(benches[1]).__enter__()


def test_a_rehearsal_keeps_its_lock_whatever_port_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTC_BENCH_CACHE", str(tmp_path / "cache"))
    bench = load_bench(bench_file(tmp_path, "mine", '{kind: ssh, address: x, ssh_config: "{scratch}/ssh_config"}'))
    before = identity(bench)
    bench.scratch.mkdir(parents=True)
    (bench.scratch / "ssh_config").write_text("Host x\n  HostName 127.0.0.1\n  Port 2222\n")

    assert identity(bench) == before


def test_an_image_is_locked_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "acrn.qcow2").touch()
    (tmp_path / "link.qcow2").symlink_to("acrn.qcow2")
    one, two = (
        load_bench(bench_file(tmp_path, name, f"{{kind: nested, image: {name}.qcow2, accelerator: tcg}}"))
        for name in ("acrn", "link")
    )

    assert identity(one) == identity(two)


def test_no_reservation_keeps_nobody_away(tmp_path: Path) -> None:
    bench = load_bench(bench_file(tmp_path, "mine", "{kind: ssh, address: 192.0.2.7}", reservation="null"))

    with reservation_for(bench) as one, reservation_for(bench) as two:
        assert one is not two


def test_a_run_that_another_one_keeps_out_is_told_by_its_thread(path: Path) -> None:
    """Two threads are as two processes: the renewing one of the first goes on while the second waits."""
    got = threading.Event()

    def second() -> None:
        with LockFile(path, "the bench mine", wait=PATIENCE, tell=str):
            got.set()

    with LockFile(path, "the bench mine", lease=0.4):
        thread = threading.Thread(target=second)
        thread.start()
        assert not got.wait(0.3)
    assert got.wait(PATIENCE)
    thread.join()


def test_a_file_system_without_locks_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(
        "harness.hosts.lock.fcntl", SimpleNamespace(flock=flock, LOCK_EX=2, LOCK_NB=4)
    )
    with pytest.raises(ConfigurationError, match="knows no locks"):
        LockFile(path, "the bench mine").__enter__()
