"""An SSH host cut at random moments: whatever was under way, the error is the right one, told soon, nothing left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.hosts.ssh import SshHost
from harness.onhost import pack, processes
from harness.rehearsal.loopback import LoopbackSshd
from tests.ssh_support import Proxy, await_truth, needs_sshd, spec_of

PATIENCE = 60.0
pytestmark = needs_sshd
TOLD = 5.0 + 5.0
"""Seconds within which it is told: 5, and some more, as many are cut at once here."""

AT_WORK = """
import sys
from pathlib import Path
from harness.bench import SshHostSpec
from tests.test_hosts_ssh_cuts import work
from harness.hosts.ssh import SshHost
spec = SshHostSpec(kind="ssh", address="rehearsal", ssh_config=sys.argv[1], folder=sys.argv[2])
print("begun", flush=True)
with SshHost(spec) as host:
    work(host, Path(sys.argv[3]), lambda: False)
"""


def work(host: SshHost, folder: Path, done: Callable[[], bool]) -> None:
    """All that a host can do, until it is done or an error ends it."""
    hides = "setsid sleep 611 </dev/null >/dev/null 2>&1 & echo up; exec cat"
    for number in range(1000):
        if done():
            return
        process = host.start(["sh", "-c", hides], log=folder / "log", terminal=number % 2 == 0)
        host.put(os.urandom(300_000), f"file-{number % 3}", Deadline(PATIENCE))
        host.run(["cat"], Deadline(PATIENCE), data=b"x" * 100_000)
        with contextlib.suppress(OSError):
            process.console.sendall(b"hello")
        process.close(Deadline(PATIENCE))


def left_in(folder: Path) -> list[str]:
    """Folders of sessions, and processes of theirs, that are still there."""
    found = [str(path) for path in folder.iterdir()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                said = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
                if os.fsencode(folder) + b"/rtc-bench-" in said:
                    found.append(said.replace(b"\0", b" ").decode("utf-8", "replace")[:200])
    return found


def cut_link(sshd: LoopbackSshd, base: Path, seed: int) -> None:
    proxy = Proxy(sshd.port)
    cut_at = []

    def cut() -> None:
        cut_at.append(time.monotonic())
        proxy.cut()

    timer = threading.Timer(random.Random(seed).uniform(0, 3), cut)
    timer.start()
    try:
        host = SshHost(spec_of(sshd, folder=str(base)), address_override=("127.0.0.1", proxy.port))
        with pytest.raises(InfrastructureError), host:
            work(host, base.parent, lambda: False)
        assert cut_at, "nothing fails before it is cut"
        assert time.monotonic() - cut_at[0] < TOLD
    finally:
        timer.cancel()
        proxy.close()


def kill_sshd(sshd: LoopbackSshd, base: Path, seed: int) -> None:
    with LoopbackSshd(base.parent / f"sshd-{seed}") as own:
        cut_at = []

        def cut() -> None:
            cut_at.append(time.monotonic())
            processes.send([pid for pid in (own.pid, *own.sessions()) if pid is not None], signal.SIGKILL)

        timer = threading.Timer(random.Random(seed).uniform(0, 3), cut)
        timer.start()
        with pytest.raises(InfrastructureError), SshHost(spec_of(own, folder=str(base))) as host:
            work(host, base.parent, lambda: False)
        timer.cancel()
        assert cut_at and time.monotonic() - cut_at[0] < TOLD


def kill_harness(sshd: LoopbackSshd, base: Path, seed: int) -> None:
    command = [sys.executable, "-c", AT_WORK, str(sshd.keys.ssh_config), str(base), str(base.parent)]
    environment = {**os.environ, "PYTHONPATH": str(Path(pack.__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as harness:
        assert harness.stdout and harness.stdout.readline() == b"begun\n"
        time.sleep(random.Random(seed).uniform(0, 3))
        assert harness.poll() is None, "nothing fails before it is killed"
        harness.kill()


@pytest.mark.parametrize("cut", [cut_link, kill_sshd, kill_harness], ids=lambda cut: cut.__name__)
@pytest.mark.parametrize("times", [10, pytest.param(100, marks=pytest.mark.soak)])
def test_whenever_it_is_cut(
    cut: Callable[[LoopbackSshd, Path, int], None], times: int, tmp_path: Path
) -> None:
    base = tmp_path / "host"
    base.mkdir()
    with LoopbackSshd(tmp_path / "sshd", options=["MaxStartups 100"]) as sshd, ThreadPoolExecutor(5) as at_once:
        for done in [at_once.submit(cut, sshd, base, seed) for seed in range(times)]:
            done.result()
        await_truth(lambda: not left_in(base))
