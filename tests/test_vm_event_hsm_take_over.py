"""Taking over the HSM descriptor of a running process: the right one, or a clear word why not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.vm_event import SourceError
from harness.vm_event.hsm import take_over
from tests.hsm_double import DEVICE, ROOT, open_device
from tests.vm_event_support import PATIENCE, eventually, nothing_left_open

NOBODY = 65534


@contextmanager
def holder(*descriptors: int) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds these descriptors, and does nothing."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=descriptors) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def device() -> Iterator[int]:
    """Stands for the descriptor by which an acrn-dm has made its VM."""
    with open_device() as descriptor:
        yield descriptor


def test_the_descriptor_is_duplicated_and_refers_to_the_same_open_file(device: int) -> None:
    with holder(device) as process, nothing_left_open():
        own = take_over(process.pid, device=DEVICE)
        # then it is the very same open file: what is set on one shows on the other
        assert os.get_blocking(device) and os.get_blocking(own)
        os.set_blocking(own, False)
        assert not os.get_blocking(device)
        # and children of ours do not get it
        assert fcntl.fcntl(own, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.close(own)
    os.set_blocking(device, True)


def test_the_device_counts_and_not_the_name_it_was_opened_by(device: int, tmp_path: Path) -> None:
    link = tmp_path / "acrn_hsm"
    link.symlink_to(DEVICE)
    with holder(device) as process:
        os.close(take_over(process.pid, device=link))


def test_duplicates_over_there_count_as_one(device: int) -> None:
    second = os.dup(device)
    with holder(device, second) as process, nothing_left_open():
        os.close(take_over(process.pid, device=DEVICE))
    os.close(second)


def test_several_openings_are_not_guessed_between(device: int) -> None:
    with open_device() as other, holder(device, other) as process, nothing_left_open():
        first, second = sorted((device, other))
        with pytest.raises(SourceError, match=rf"opened {DEVICE} more than once .*\[{first}, {second}\].*descriptor=N"):
            take_over(process.pid, device=DEVICE)
        # but one of them can be named
        own = take_over(process.pid, device=DEVICE, descriptor=other)
        os.set_blocking(own, False)
        assert (os.get_blocking(device), os.get_blocking(other)) == (True, False)
        os.close(own)
        with pytest.raises(SourceError, match=f"descriptor 0 is not {DEVICE}"):
            take_over(process.pid, device=DEVICE, descriptor=0)


def test_a_process_that_is_no_acrn_dm_is_named() -> None:
    with holder() as process:
        named = rf"process {process.pid} \(cat\) has no descriptor of {DEVICE}: is it an acrn-dm\?"
        with nothing_left_open(), pytest.raises(SourceError, match=named):
            take_over(process.pid, device=DEVICE)


def test_a_process_that_has_gone_is_told(device: int) -> None:
    with holder(device) as process, nothing_left_open():
        process.kill()
        eventually(lambda: "\nState:\tZ" in Path(f"/proc/{process.pid}/status").read_text(), "its end")
        gone = rf"process {process.pid}: there is no such process"
        with pytest.raises(SourceError, match=gone):
            take_over(process.pid, device=DEVICE)
        process.wait()
        with pytest.raises(SourceError, match=gone):
            take_over(process.pid, device=DEVICE)
        for number in (0, -1, 2**80):
            with pytest.raises(SourceError, match=f"process {number}: there is no such process"):
                take_over(number, device=DEVICE)


def test_without_the_right_to_trace_it_nothing_is_taken(device: int) -> None:
    """As a user who is not root, from a process of another user."""
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from harness.vm_event.hsm import take_over\n"
        "from harness.vm_event import SourceError\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: take_over(int(sys.argv[1]), device=sys.argv[3])\n"
        "except SourceError as error: print(error)\n"
    )
    with holder(device) as process:
        other = process.pid if os.getuid() == 0 else 1
        said = subprocess.run(
            [sys.executable, "-c", program, str(other), str(ROOT), str(DEVICE)],
            text=True, capture_output=True, timeout=PATIENCE, check=True,
        )  # fmt: skip
    assert said.stdout.startswith(f"process {other}: its descriptor of {DEVICE} may not be taken by this user")


def test_a_machine_without_the_device_is_no_service_vm(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="missing: No such file or directory: this is no ACRN Service VM"):
        take_over(os.getpid(), device=tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="file: not a device"):
        take_over(os.getpid(), device=tmp_path / "file")
