"""What ran on an SSH host never outlives the harness: the link cut, standing still, any process of the chain killed."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.hosts.base import LinkLost
from harness.hosts.ssh import SshHost
from harness.onhost import pack
from harness.onhost.processes import of_session
from harness.rehearsal.loopback import LoopbackSshd
from tests.ssh_support import Proxy, await_truth, lives, needs_sshd, proxy, read_until, ssh_host, sshd
from tests.test_onhost_keeper import HIDES

__all__ = ["proxy", "sshd"]
pytestmark = needs_sshd

PATIENCE = 60.0
TOLD = 5.0 + 3.0
"""Seconds within which a lost link is told: 5, and some more where this machine is busy with other tests."""

HARNESS = """
import sys, time
from pathlib import Path
from harness.hosts.ssh import SshHost
from harness.bench import SshHostSpec
with SshHost(SshHostSpec(kind="ssh", address="rehearsal", ssh_config=sys.argv[1])) as host:
    process = host.start([sys.executable, "-c", sys.argv[2], sys.argv[3], "600"], log=Path(sys.argv[4]))
    print(host.folder, process.pid, flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def programs(host: SshHost, folder: Path) -> Iterator[list[int]]:
    """A program on the host, on a pipe and on a terminal, each with a descendant that hides; their pids."""
    pids = []
    for number, terminal in enumerate((False, True)):
        place = folder / f"pid-{number}"
        command = [sys.executable, "-c", HIDES, str(place), "600"]
        pids.append(host.start(command, log=folder / "log", terminal=terminal).pid)
        await_truth(place.exists)
        pids.append(int(place.read_text(encoding="ascii")))
    try:
        yield pids
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def await_clean(folder: str, pids: list[int]) -> None:
    await_truth(lambda: not any(lives(pid) for pid in pids))
    await_truth(lambda: not Path(folder).exists())
    await_truth(lambda: not of_session(folder))


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> float:
    """Tools whose lease lasts 3 s instead of 10: all else is as it is."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(pack.archive())) as source, zipfile.ZipFile(packed, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "harness/onhost/lease.py":
                assert b"LEASE_NS = 10_000_000_000" in data
                data = data.replace(b"LEASE_NS = 10_000_000_000", b"LEASE_NS = 3_000_000_000")
            target.writestr(name, data)
    monkeypatch.setattr("harness.hosts.ssh.archive", packed.getvalue)
    return 3.0


def test_the_harness_is_killed(sshd: LoopbackSshd, tmp_path: Path) -> None:
    # given a harness with a program on the host, which has a descendant that hides
    place = tmp_path / "pid"
    command = [sys.executable, "-c", HARNESS, str(sshd.keys.ssh_config), HIDES, str(place), str(tmp_path / "log")]
    environment = {**os.environ, "PYTHONPATH": str(Path(pack.__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as harness:
        assert harness.stdout
        folder, pid = harness.stdout.readline().decode().split()
        await_truth(place.exists)
        hidden = int(place.read_text(encoding="ascii"))
        assert lives(int(pid)) and lives(hidden) and Path(folder).exists()
        # when it is killed, then nothing is left on the host
        harness.kill()
    await_clean(folder, [int(pid), hidden])


def test_the_link_is_cut(sshd: LoopbackSshd, proxy: Proxy, tmp_path: Path) -> None:
    told: list[InfrastructureError] = []
    with ssh_host(sshd, proxy) as host, programs(host, tmp_path) as pids:
        folder = host.folder
        ended = threading.Event()
        host.on_lost(told.append)
        process = host.start(["sleep", "601"], log=tmp_path / "log")
        process.on_exit(ended.set)
        errors: list[BaseException] = []
        running = threading.Thread(target=run_into, args=(host, ["sleep", "602"], errors))
        running.start()
        await_truth(lambda: any("602" in command for command in host._running.values()))
        started = time.monotonic()
        proxy.cut()
        running.join(PATIENCE)
        assert ended.wait(PATIENCE)
        assert time.monotonic() - started < TOLD
        # then each command that was cut is named, and whoever asks is told
        assert isinstance(errors[0], LinkLost) and "sleep 602" in str(errors[0])
        assert isinstance(host.failure, LinkLost)
        assert "sleep 601" in str(host.failure) and "sleep 602" in str(host.failure)
        await_truth(lambda: bool(told))
        assert told == [host.failure]
        assert process.exit_status() == 255 and "was lost" in process.last_lines[-1]
        with pytest.raises(LinkLost, match="the link cut the command true"):
            host.run(["true"], Deadline(PATIENCE))
        process.close(Deadline(PATIENCE))
        await_clean(folder, pids)


def run_into(host: SshHost, command: list[str], errors: list[BaseException]) -> None:
    try:
        host.run(command, Deadline(PATIENCE))
    except InfrastructureError as error:
        errors.append(error)


def test_the_sshd_that_serves_the_connection_is_killed(tmp_path: Path) -> None:
    with LoopbackSshd(tmp_path / "sshd") as own, ssh_host(own) as host, programs(host, tmp_path) as pids:
        folder = host.folder
        started = time.monotonic()
        for pid in own.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await_truth(lambda: host.failure is not None)
        assert time.monotonic() - started < TOLD
        await_clean(folder, pids)


def test_the_session_on_the_host_is_killed(sshd: LoopbackSshd, tmp_path: Path) -> None:
    with ssh_host(sshd) as host, programs(host, tmp_path) as pids:
        folder = host.folder
        os.kill(host.facts["pid"], signal.SIGKILL)
        await_truth(lambda: host.failure is not None)
        assert isinstance(host.failure, LinkLost)
        await_truth(lambda: not any(lives(pid) for pid in pids))
    # nobody was left to remove the folder; the next session there does, when the lease is void
    lease = Path(folder, "lease")
    lease.write_bytes(b"%020d" % 1)
    with ssh_host(sshd):
        await_truth(lambda: not Path(folder).exists())


def test_a_keeper_is_killed(sshd: LoopbackSshd, tmp_path: Path) -> None:
    with ssh_host(sshd) as host, programs(host, tmp_path) as pids:
        folder = host.folder
        processes = [host.start(["sleep", "603"], log=tmp_path / "log")]
        parent = int(Path(f"/proc/{processes[0].pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        await_truth(lambda: processes[0].exit_status() is not None)
        assert not lives(processes[0].pid)
        with pytest.raises(InfrastructureError, match="its end is not proven"):
            processes[0].close(Deadline(1))
        assert host.failure is None
    await_clean(folder, pids)


def test_the_link_stands_still(sshd: LoopbackSshd, proxy: Proxy, tmp_path: Path, short_lease: float) -> None:
    with ssh_host(sshd, proxy) as host, programs(host, tmp_path) as pids:
        folder = host.folder
        started = time.monotonic()
        proxy.stall()
        await_truth(lambda: host.failure is not None)
        assert time.monotonic() - started < TOLD
        assert "has not answered for 4 s" in str(host.failure)
        await_clean(folder, pids)


def test_the_host_hangs(tmp_path: Path) -> None:
    # given a host of which no process gets on
    with LoopbackSshd(tmp_path / "sshd") as own, ssh_host(own) as host:
        started = time.monotonic()
        stopped = [*own.sessions()]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        await_truth(lambda: host.failure is not None)
        assert time.monotonic() - started < TOLD
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.soak
def test_the_link_stands_still_for_good(sshd: LoopbackSshd, proxy: Proxy, tmp_path: Path) -> None:
    with ssh_host(sshd, proxy) as host, programs(host, tmp_path) as pids:
        folder = host.folder
        console = host.start(["yes"], log=tmp_path / "log", terminal=True).console
        read_until(console, b"y\ny\n")
        proxy.stall()
        await_truth(lambda: host.failure is not None)
        assert lives(pids[0]), "the lease still holds"
        await_clean(folder, pids)
