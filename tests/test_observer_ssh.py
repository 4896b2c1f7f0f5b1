"""The observer behind a real sshd: events heard, a killed and a frozen sshd told apart, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bench import SshHostSpec
from harness.deadline import Deadline
from harness.hosts.base import Host
from harness.listener import remote
from harness.listener.remote import RemoteListening
from harness.rehearsal.keys import ALIAS
from harness.rehearsal.loopback import LoopbackSshd
from harness.vm_event import RtcChange, VmEventService
from tests.observer_support import Service, journal, told_of
from tests.vm_event_support import INSTANT, NOON, eventually

pytest.importorskip("paramiko")
pytestmark = pytest.mark.skipif(
    shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None, reason="no sshd on this machine"
)

PATIENCE = 60.0
MS = 1_000_000


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSshd]:
    with LoopbackSshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def ssh_host(sshd: LoopbackSshd) -> Host:
    from harness.hosts.ssh import SshHost

    return SshHost(
        SshHostSpec(kind="ssh", address=ALIAS, ssh_config=sshd.keys.ssh_config, python=sys.executable)
    )


def sessions_of(sshd: LoopbackSshd) -> list[int]:
    """The processes of sshd that hold a connection each, not what runs below them."""
    assert sshd.pid is not None
    found, todo = [], [sshd.pid]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            named = [child for child in children if Path(f"/proc/{child}/comm").read_text().startswith("sshd")]
            found += named
            todo += named
    return found


def test_events_are_heard_over_ssh_and_the_observer_ends_with_the_harness(sshd: LoopbackSshd, tmp_path: Path) -> None:
    with (
        ssh_host(sshd) as host,
        RemoteListening(host, tmp_path, Deadline(PATIENCE)) as listening,
        VmEventService("vm0", window=INSTANT) as service,
    ):
        service.start(tmp_path / "s")
        listener = listening.listener(tmp_path / "s", tmp_path / "e")
        listener.connect(Deadline(PATIENCE))
        service.send(RtcChange(NOON, 5))
        eventually(lambda: '"kind":"object"' in (tmp_path / "e").read_text(), "the event")
        listener.close()
        pid = listening.pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    assert [record["kind"] for record in told_of(tmp_path / "e")] == ["connected", "ack", "object", "end"]
    for record in journal(tmp_path / "e"):  # the host's clock is ours here: the truth is known
        assert abs(record["t_ns"] - record["host_ns"]) <= record["uncertainty_ns"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGKILL, "was lost"), (signal.SIGSTOP, "hangs, or the link to it stands still")],
)
def test_an_sshd_that_is_killed_or_frozen_is_told_for_what_it_is(
    sshd: LoopbackSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, expected: str
) -> None:
    monkeypatch.setattr(remote, "SILENCE_NS", 1_500 * MS)
    monkeypatch.setattr(remote, "DOUBT_NS", 100 * MS)
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(ssh_host(sshd))
        listening = stack.enter_context(RemoteListening(host, tmp_path, Deadline(PATIENCE)))
        stack.enter_context(Service(tmp_path / "s"))
        listener = listening.listener(tmp_path / "s", tmp_path / "e")
        listener.connect(Deadline(PATIENCE))
        hit = sessions_of(sshd)
        for pid in hit:
            os.kill(pid, number)
        try:
            eventually(lambda: listener.failure is not None, "the failure")
        finally:
            if number == signal.SIGSTOP:
                for pid in hit:
                    os.kill(pid, signal.SIGCONT)
        assert listener.failure is not None and expected in listener.failure
        assert "a sign of life from the observer on rehearsal" in str(listening.failure)
