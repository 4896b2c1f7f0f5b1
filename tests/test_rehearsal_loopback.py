"""The private sshd that plays a bench's host: on, off, and nothing of it left."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.rehearsal.loopback import LoopbackSshd, main
from tests.ssh_support import PATIENCE, await_truth, lives, needs_sshd, ssh_host

pytestmark = needs_sshd


def test_it_is_switched_on_and_off_by_commands_and_outlives_them(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"

    def do(what: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness.rehearsal.loopback", what, str(folder)]
        root = Path(__file__).parents[1]
        return subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=PATIENCE, check=False)

    assert do("status").returncode == 1
    assert do("off").returncode == 0
    try:
        assert do("on").returncode == 0
        assert do("status").stdout.startswith("on: port ")
        first = LoopbackSshd(folder).pid
        assert do("on").returncode == 0, "it is on: nothing is to do"
        running = LoopbackSshd(folder)
        assert running.pid == first is not None
        with ssh_host(running) as host:
            assert host.run(["echo", "up"], Deadline(PATIENCE)).output == b"up\n"
    finally:
        assert do("off").returncode == 0
    assert not lives(first)
    assert do("status").returncode == 1


def test_off_is_a_power_cut_after_which_nothing_runs(tmp_path: Path) -> None:
    sshd = LoopbackSshd(tmp_path)
    sshd.start()
    with ssh_host(sshd) as host:
        process = host.start(["sleep", "600"], log=tmp_path / "log")
        sshd.stop()
        assert not lives(process.pid), "off says that nothing is left"
        await_truth(lambda: host.failure is not None)
    assert sshd.pid is None
    # and on again, with the same keys
    with sshd, ssh_host(sshd) as host:
        host.run(["true"], Deadline(PATIENCE))


def test_a_pid_that_another_process_has_by_now_is_not_the_sshds(tmp_path: Path) -> None:
    sshd = LoopbackSshd(tmp_path)
    (tmp_path / "sshd.running").write_text(f"{os.getpid()} 1 22\n", encoding="ascii")
    assert sshd.pid is None
    sshd.stop()


def test_a_port_that_is_taken_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InfrastructureError, match=f"does not start on port {port}") as caught:
            LoopbackSshd(tmp_path, port=port).start()
        assert "in use" in str(caught.value)
        with pytest.raises(SystemExit, match="10"):
            main(["on", str(tmp_path), "--port", str(port)])
        assert "in use" in capsys.readouterr().err
