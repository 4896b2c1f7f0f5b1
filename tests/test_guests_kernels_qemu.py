"""Debian's other kernels, and the NTP client below each: in a real QEMU. All that is fetched is used only where it is
in the cache already; at night every scenario that a kernel could make different is run on them, and they are fetched.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests import QEMU_TCG, AgentRefused, Console, ImageSpec, LinuxGuest, Pause, Write, prepare_image
from harness.guests.cache import Cache, default_cache_dir
from harness.guests.ntp_client import has_ntp_client
from harness.guests.parts import has_kernel
from harness.guests.steps import Step

pytestmark = pytest.mark.qemu

ROOT = Path(__file__).parents[1]
NONCE = "0123456789abcdef"
PATIENCE = 120.0
OCTOBER_2029 = 1_886_000_000


@contextmanager
def running(spec: ImageSpec, folder: Path, machine: str) -> Iterator[tuple[LinuxGuest, Path]]:
    """A guest that has proved where it is, and where QEMU traces its port writes."""
    image = prepare_image(spec, None, Deadline(PATIENCE))
    ours, theirs = socket.socketpair()
    trace = folder / "trace.log"
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-machine", machine, "-m", "128"),
        *("-display", "none", "-nodefaults", "-no-user-config", "-nic", "none", "-no-reboot"),
        *("-rtc", "base=2024-06-15T12:00:00,clock=vm", "-trace", "memory_region_ops_write", "-D", str(trace)),
        *("-chardev", f"socket,id=s0,fd={theirs.fileno()}", "-serial", "chardev:s0"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", image.command_line(NONCE)),
    ]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as qemu:
        theirs.close()
        guest = LinuxGuest(Console(ours, folder / "console.log", name=machine), nonce=NONCE, hypervisor=[QEMU_TCG])
        try:
            guest.boot(Deadline(PATIENCE))
            yield guest, trace
        finally:
            guest.close()
            qemu.kill()


def register_writes(trace: Path) -> list[tuple[int, int]]:
    """(index, value) of all that was written to the RTC so far."""
    index, writes = 0, []
    for match in re.finditer(r"ops_write .* value 0x(\w+) size 1 name '(rtc|rtc-index)'", trace.read_text()):
        if match[2] == "rtc-index":
            index = int(match[1], 16) & 0x7F
        else:
            writes.append((index, int(match[1], 16)))
    return writes


@pytest.mark.parametrize(("kernel", "machine"), [("debian-standard", "pc"), ("debian-rt", "q35")])
def test_a_kernel_by_its_name_boots_writes_and_keeps_pauses(tmp_path: Path, kernel: str, machine: str) -> None:
    if not has_kernel(Cache(default_cache_dir()), kernel):
        pytest.skip(f"{kernel} is not in the cache; `./lab nightly` fetches it")

    with running(ImageSpec(kernel), tmp_path, machine) as (guest, trace):
        report = guest.run("item", [Write(0, 1), Pause(0.05), Write(2, 3)], Deadline(PATIENCE))

        assert ("-rt-" in guest.facts["kernel"]) == (kernel == "debian-rt")
        (first, second) = report.writes
        assert second[2] - first[2] >= 50_000_000
        assert register_writes(trace)[-2:] == [(0, 1), (2, 3)]


@pytest.fixture(scope="module")
def with_client() -> ImageSpec:
    if not has_ntp_client(Cache(default_cache_dir())):
        pytest.skip("the NTP client is not in the cache; `./lab qemu` fetches it")
    return ImageSpec(ntp=True)


def test_the_kernel_writes_the_rtc_once_when_an_ntp_client_has_set_the_clock(
    tmp_path: Path, with_client: ImageSpec
) -> None:
    with running(with_client, tmp_path, "q35") as (guest, trace):
        before = len(register_writes(trace))

        report = guest.ntp("ntp", OCTOBER_2029, Deadline(PATIENCE))

        assert (report.ok, report.error, report.complete) == (True, None, False)
        written = register_writes(trace)[before:]
        dates = [(index, value) for index, value in written if index in {9, 8, 7, 4, 0x32}]
        assert dates == [(9, 0x29), (8, 0x10), (7, 0x06), (4, 0x16), (0x32, 0x20)]
        # The agent has the RTC again, and nobody else: what it writes next is all that is written.
        steps: list[Step] = [Write(4, 1), Pause(2.1), Write(4, 2)]
        assert guest.run("after", steps, Deadline(PATIENCE)).ok
        assert register_writes(trace)[before + len(written) :] == [(4, 1), (4, 2)]


def test_a_guest_without_a_client_refuses_and_says_why(tmp_path: Path) -> None:
    with running(ImageSpec(), tmp_path, "pc") as (guest, _):
        with pytest.raises(AgentRefused, match="no chronyd") as caught:
            guest.ntp("ntp", OCTOBER_2029, Deadline(PATIENCE))
        assert caught.value.reason == "client"


@pytest.mark.soak
def test_scenarios_that_a_kernel_could_make_different_pass_on_debians_others(tmp_path: Path) -> None:
    scenarios = [f"scenarios/test_{name}.py" for name in ("kernels", "hwclock", "ntp", "windows")]
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "qemu", "--rtc-updates", "100"),
        *("--bench", "fixtures/benches/kernels.yaml", "--run-dir", str(tmp_path / "run"), "--no-html", *scenarios),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    if done.returncode == 10:
        raise InfrastructureError("the run below was cut short", last_lines=done.stdout.splitlines()[-30:])
    assert done.returncode == 0, done.stdout[-5000:]
