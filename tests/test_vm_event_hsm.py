"""The hypervisor's ring by `/dev/acrn_hsm`: what is registered, what comes of it, and what goes wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.vm_event import SourceError
from harness.vm_event.hsm import SETUP_VM_EVENT_FD, SETUP_VM_EVENT_RING, open_hsm_tunnel
from tests.hsm_double import DEVICE, ROOT, hsm_library, open_device, with_double
from tests.vm_event_support import NOON, PATIENCE, Client, nothing_left_open

__all__ = ["hsm_library"]

ROOM = 125
"""Elements that a ring holds."""


@pytest.fixture
def device() -> Iterator[int]:
    with open_device() as descriptor:
        yield descriptor


def serve(monitor: Path, device: int, *more: str) -> list[str]:
    return ["-m", "harness.vm_event", "serve", "--hsm", str(device), "--vm", "vm0", "--monitor", str(monitor), *more]


def the_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def status(client: Client) -> dict[str, Any]:
    found = client.status()["sources"]["hv"]
    assert isinstance(found, dict)
    return found


def test_what_the_hypervisor_puts_arrives_settled(hsm_library: Path, device: int, tmp_path: Path) -> None:
    """A service as a user starts it; the double takes page and eventfd, or would refuse them as the kernel does."""
    path = tmp_path / "monitor"
    with with_double(hsm_library, serve(path, device), device) as (process, hypervisor):
        assert the_line(process).startswith(f"serving vm0 on {path} from hv")
        with Client(path) as watcher, Client(path) as other:
            assert watcher.register() == {"ack": 0}
            # given the page where it was registered
            assert hypervisor.page() == "mapped overrun 0"
            # when an update of seven raw events comes, without stamps, kicked once: as fast as the ring is filled
            assert hypervisor.put_unheard(7, NOON, 10) == 7
            hypervisor.kick()
            # then it is one event
            assert watcher.receive() == {
                **{"vm_event": 0, "last_time": NOON, "new_time": NOON + 70, "delta_time": 70, "raw_events": 7},
                **{"source": "hv", "vm": "vm0"},
            }
            # and a power-off passes at once
            hypervisor.put(kind=1)
            assert watcher.receive() == {"vm_event": 1, "source": "hv", "vm": "vm0"}
            # and when the ring is filled to the brim and beyond, what was refused is counted by nobody, as in ACRN
            assert hypervisor.put_unheard(200, NOON + 70, 1) == ROOM
            hypervisor.kick()
            assert watcher.receive()["raw_events"] == ROOM
            assert (status(other)["raw"], status(other)["overrun"]) == (7 + ROOM, 0)
            assert hypervisor.page() == "mapped overrun 0", "the same page all the time"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


PROGRAM = textwrap.dedent("""
    import gc, json, os, sys
    from harness.vm_event import SourceError
    from harness.vm_event.hsm import open_hsm_tunnel
    device = int(sys.argv[1])

    def opened():
        return sorted(int(name) for name in os.listdir("/proc/self/fd") if int(name) < 500)[:-1]

    def say(thing):
        print(json.dumps(thing), flush=True)
        return input()

    def attempt():
        try:
            return open_hsm_tunnel(device)
        except SourceError as error:
            return str(error)
""")


class Steps:
    """A program that says what it has done, and waits to be told to go on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def said(self) -> Any:
        return json.loads(the_line(self._process))

    def go_on(self) -> Any:
        """Have the next step done; what it says then."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.said()


def test_the_page_lives_as_long_as_the_tunnel_and_closing_takes_nothing_from_the_hypervisor(
    hsm_library: Path, device: int
) -> None:
    program = PROGRAM + textwrap.dedent("""
        child_waits, ours_ends = os.pipe()
        before = opened()
        tunnel = attempt()
        say("registered")
        say(len(tunnel.drain()))
        if os.fork() == 0:
            os.close(ours_ends)
            os.read(child_waits, 1)
            os._exit(0)
        say("forked")
        say(len(tunnel.drain()))
        say(len(tunnel.drain()))
        tunnel.close()
        say("closed")
        again = attempt()
        say(len(again.drain()))
        say(len(again.drain()))
        again.close()
        say(opened() == before)
    """)
    with with_double(hsm_library, ["-c", program, str(device)], device) as (process, hypervisor):
        steps = Steps(process)
        # given a registered page: what is put is read from it
        assert steps.said() == "registered"
        assert hypervisor.put(3) == 3
        assert steps.go_on() == 3 * 32
        # when the process forks, then the page stays one: no copy comes of the reader's next write to it
        assert steps.go_on() == "forked"
        for _ in range(2):
            assert hypervisor.put(2) == 2
            assert steps.go_on() == 2 * 32
        assert hypervisor.page() == "mapped overrun 0"
        # when the tunnel is closed, then the page is unmapped, and the hypervisor goes on writing into what is pinned
        assert steps.go_on() == "closed"
        assert hypervisor.page() == "unmapped overrun 0"
        assert hypervisor.put(1) == 1
        # and a new tunnel is a new page, with nothing in it of the old one
        assert steps.go_on() == 0
        assert hypervisor.page() == "mapped overrun 0"
        assert hypervisor.put(4) == 4
        assert steps.go_on() == 4 * 32
        # and at the end nothing is left open
        assert steps.go_on() is True


def test_what_comes_before_the_eventfd_is_registered_is_looked_for(hsm_library: Path, device: int) -> None:
    program = PROGRAM + textwrap.dedent("""
        import select
        tunnel = attempt()
        ready = select.select([tunnel], [], [], 0)[0] == [tunnel]
        tunnel.acknowledge()
        say([ready, len(tunnel.drain()), select.select([tunnel], [], [], 0)[0]])
    """)
    with with_double(hsm_library, ["-c", program, str(device)], device, HSM_DOUBLE_EARLY="1") as (process, _):
        assert Steps(process).said() == [True, 32, []]


def test_each_refusal_has_its_own_words_and_leaves_nothing_open(hsm_library: Path, device: int) -> None:
    codes = [errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTTY, errno.ENODEV, errno.ENOENT, errno.EFAULT, errno.EIO]
    program = PROGRAM + textwrap.dedent(f"""
        before = opened()
        said = {{}}
        for request in (0xa0, 0xa1):
            for code in {codes}:
                os.environ["HSM_DOUBLE_FAIL"] = f"{{request}}:{{code}}"
                said[f"{{request}} {{code}}"] = attempt()
        gc.collect()
        maps = open("/proc/self/maps").read()
        say([said, opened() == before, maps.count("/dev/zero (deleted)")])
    """)
    with with_double(hsm_library, ["-c", program, str(device)], device) as (process, _):
        said, closed, pages = json.loads(the_line(process))
    for code in codes:
        ring, kick = said[f"160 {code}"], said[f"161 {code}"]
        assert ring.startswith(f"HSM descriptor {device}: SETUP_VM_EVENT_RING (0x4008a2a0): {os.strerror(code)}")
        # a failure of the second request must say that the first one has had its effect
        assert "acrn-dm's ring is replaced" in kick and "acrn-dm's ring is replaced" not in ring
        assert kick.endswith(f"SETUP_VM_EVENT_FD (0x4004a2a1): {os.strerror(code)}")
    for code, hint in {
        errno.EPERM: "root",
        errno.EACCES: "root",
        errno.EINVAL: "owns no VM",
        errno.ENOTTY: "not /dev/acrn_hsm",
        errno.ENODEV: "no ACRN Service VM",
        errno.ENOENT: "no ACRN Service VM",
        errno.EFAULT: "page",
    }.items():
        assert hint in said[f"160 {code}"]
    assert closed
    assert pages == 1, "the one that the double has pinned; of ours none is mapped any more"


def test_a_descriptor_that_is_no_hsm_is_refused(device: int, tmp_path: Path) -> None:
    regular = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    closed = os.dup(regular)
    os.close(closed)
    with nothing_left_open():
        # by the kernel itself
        with pytest.raises(SourceError, match=f"HSM descriptor {device}: .*Inappropriate ioctl.*not /dev/acrn_hsm"):
            open_hsm_tunnel(device)
        # before it is asked
        with pytest.raises(SourceError, match=f"HSM descriptor {regular}: not a device, so not /dev/acrn_hsm"):
            open_hsm_tunnel(regular)
        with pytest.raises(SourceError, match=f"HSM descriptor {closed}: Bad file descriptor: .* was it passed on"):
            open_hsm_tunnel(closed)
        for number in (-1, 2**31, 2**32 + device):
            with pytest.raises(SourceError, match=f"HSM descriptor {number}: "):
                open_hsm_tunnel(number)
    os.close(regular)


def test_the_command_line_says_what_is_wrong_with_a_descriptor_or_a_process(device: int, tmp_path: Path) -> None:
    inherited = serve(tmp_path / "monitor", device)
    taken_over = ["--hsm-of" if word == "--hsm" else word for word in serve(tmp_path / "monitor", os.getpid())]
    for arguments, text in (
        (inherited, f"HSM descriptor {device}: SETUP_VM_EVENT_RING (0x4008a2a0): Inappropriate ioctl for device"),
        (taken_over, "/dev/acrn_hsm: No such file or directory: this is no ACRN Service VM"),
    ):
        failed = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT, pass_fds=[device], text=True, capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert failed.returncode == 1
        assert f"error: {text}" in failed.stderr
        assert not (tmp_path / "monitor").exists()


def _ptrace_is_forbidden() -> bool:
    probe = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return probe.returncode != 0


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_two_requests_as_the_kernel_sees_them(device: int, tmp_path: Path) -> None:
    """Under strace, which answers 0 in the kernel's place: the numbers and arguments of the calls themselves."""
    if _ptrace_is_forbidden():
        pytest.skip("this machine forbids ptrace, and strace with it")
    log = tmp_path / "strace.log"
    path = tmp_path / "monitor"
    command = [
        *("strace", "-f", "-X", "raw", "-e", "trace=ioctl", "-e", "inject=ioctl:retval=0", "-P", str(DEVICE)),
        *("-o", str(log), sys.executable, *serve(path, device)),
    ]
    # given a service whose calls on the device are answered by strace
    with subprocess.Popen(command, cwd=ROOT, pass_fds=[device], text=True, stdout=subprocess.PIPE) as strace:
        assert strace.stdout is not None
        try:
            assert strace.stdout.readline().startswith(f"serving vm0 on {path} from hv")
            children = Path(f"/proc/{strace.pid}/task/{strace.pid}/children").read_text(encoding="ascii")
            proc = Path("/proc") / children.split()[0]
            calls = re.findall(r"ioctl\((\d+), (0x\w+), (0x\w+)\) += 0 \(INJECTED\)", log.read_text(encoding="ascii"))
            # then it made two, in this order, on the descriptor that it was given
            assert [(int(descriptor), int(request, 16)) for descriptor, request, _ in calls] == [
                (device, SETUP_VM_EVENT_RING),
                (device, SETUP_VM_EVENT_FD),
            ]
            assert (SETUP_VM_EVENT_RING, SETUP_VM_EVENT_FD) == (0x4008A2A0, 0x4004A2A1)
            # with the address of a page of its own, shared and writable
            address, kick = (int(argument, 16) for *_, argument in calls)
            assert address % 4096 == 0
            area = f"{address:x}-{address + 4096:x} "
            lines = (proc / "maps").read_text(encoding="utf-8").splitlines()
            assert [line.split()[1] for line in lines if line.startswith(area)] == ["rw-s"]
            # that holds a ring's header
            with (proc / "mem").open("rb") as memory:
                memory.seek(address)
                assert int.from_bytes(memory.read(8), "little") == 0x5AA57AA71AA13AA3
            # and with an eventfd of its own, as such and not by address
            assert "eventfd" in str((proc / "fd" / str(kick)).readlink())
        finally:
            for child in Path(f"/proc/{strace.pid}/task/{strace.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGTERM)
        assert strace.wait(PATIENCE) == 0
