"""A guest that boots from a user's disk image: logged in to through its console, and given back as it was."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import ConfigurationError
from harness.guests import QEMU_TCG, Console, Login, Pause, SystemGuest, Write
from harness.guests.cache import Cache, default_cache_dir
from harness.guests.login import Shell
from harness.guests.parts import compiled_agent, fetched_kernel, static_busybox
from harness.guests.steps import Step
from tests.disk_image import PASSWORD, make_disk_image, missing_tools

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(bool(missing_tools()), reason=f"to make a disk image takes {', '.join(missing_tools())}"),
]

PATIENCE = 120.0
ROOT = Login("root", PASSWORD)


@dataclass
class Machine:
    """A machine that has been started from the disk image."""

    console: Console
    disk: Path
    trace: Path

    def guest(self, login: Login = ROOT) -> SystemGuest:
        """What the harness makes of it; not booted yet."""
        agent, _ = compiled_agent(Cache(default_cache_dir()), Deadline(PATIENCE))
        return SystemGuest(self.console, nonce="0123456789abcdef", hypervisor=[QEMU_TCG], agent=agent, login=login)

    def logged(self) -> str:
        """All that has been logged of the console."""
        log = self.console.log_path
        return (log.read_bytes() + log.with_suffix(".raw").read_bytes()).decode("utf-8", "replace")

    def rtc_writes(self) -> list[tuple[int, int]]:
        """(index, value) of every write to the RTC so far."""
        index, writes = 0, []
        for match in re.finditer(r"ops_write .* value 0x(\w+) size 1 name '(rtc|rtc-index)'", self.trace.read_text()):
            if match[2] == "rtc-index":
                index = int(match[1], 16) & 0x7F
            else:
                writes.append((index, int(match[1], 16)))
        return writes


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache, deadline = Cache(default_cache_dir()), Deadline(PATIENCE)
    return make_disk_image(
        tmp_path_factory.mktemp("disk"), fetched_kernel(cache, deadline), static_busybox(cache, deadline)
    )


@pytest.fixture(scope="module")
def machine(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One machine for all: each test leaves it as it found it, somebody may log in."""
    folder = tmp_path_factory.mktemp("machine")
    ours, theirs = socket.socketpair()
    trace = folder / "trace.log"
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-m", "128"),
        *("-display", "none", "-nodefaults", "-no-user-config", "-nic", "none", "-no-reboot"),
        *("-trace", "memory_region_ops_write", "-D", str(trace)),
        *("-chardev", f"socket,id=s0,fd={theirs.fileno()}", "-serial", "chardev:s0"),
        *("-drive", f"file={disk},if=virtio,format=raw,snapshot=on"),
    ]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as qemu:
        theirs.close()
        console = Console(ours, folder / "console.log", name="mine")
        try:
            yield Machine(console, disk, trace)
        finally:
            console.close()
            qemu.kill()


LONGEST_GAP = "awk 'NR > 1 && $1 - last > most { most = $1 - last } { last = $1 } END { print most }' /run/daemon"


def test_a_user_who_cannot_become_root_is_told(machine: Machine) -> None:
    with pytest.raises(ConfigurationError, match="tester is not root"):
        machine.guest(Login("tester", PASSWORD)).boot(Deadline(PATIENCE))


def test_a_wrong_password_is_the_users_to_mend_and_is_not_logged(machine: Machine) -> None:
    with pytest.raises(ConfigurationError, match=r"refused the login of root.*incorrect") as caught:
        machine.guest(Login("root", "a-wrong-secret")).boot(Deadline(PATIENCE))
    assert "a-wrong-secret" not in machine.logged() + str(caught.value)


def test_logged_in_agent_brought_in_rtc_written_and_all_given_back(machine: Machine) -> None:
    before = (machine.disk.stat().st_mtime_ns, machine.disk.read_bytes())
    guest = machine.guest()
    deadline = Deadline(PATIENCE)

    guest.boot(deadline)

    # the first of them: a daemon that was just about to start a program was two
    name, _, pid = guest.facts["time_daemons"].split(",")[0].partition(":")
    assert (name, guest.facts["hypervisor"]) == ("ntpd", QEMU_TCG)
    seen = len(machine.rtc_writes())
    steps: list[Step] = [Write(0x0B, 0x82), Write(9, 0x31), Pause(1.0), Write(0x0B, 0x02)]
    assert guest.run("item", steps, deadline).ok
    assert machine.rtc_writes()[seen:] == [(0x0B, 0x82), (9, 0x31), (0x0B, 0x02)]
    guest.set_system_time(1_700_000_000, deadline)
    assert guest.hwclock("hwclock", deadline).ok

    guest.leave(deadline)

    shell = Shell(machine.console, ROOT, deadline)
    assert shell.ask("ls /sys/bus/pnp/drivers/rtc_cmos | grep -c 00:", deadline) == "1"
    assert shell.ask("ls -a /run /tmp | grep -c rtc-agent", deadline) == "0"
    assert shell.ask("stty -a | grep -cw icanon", deadline) == "1"
    assert float(shell.ask(LONGEST_GAP, deadline)) >= 1.0, "the time daemon stood still meanwhile"
    count = "wc -l </run/daemon"
    lines = shell.ask(count, deadline)
    while shell.ask(count, deadline) == lines:  # and goes on now
        assert not deadline.expired
    assert shell.ask(f"cat /proc/{pid}/comm", deadline) == "ntpd"
    assert PASSWORD not in machine.logged()
    assert (machine.disk.stat().st_mtime_ns, machine.disk.read_bytes()) == before


@pytest.mark.soak
def test_scenarios_pass_on_a_users_disk_image_and_no_secret_is_left_behind(disk: Path, tmp_path: Path) -> None:
    kind = f"machine: pc, memory: 128, disk: {disk}, login: {{password_env: SECRET_OF_MINE}}"
    (tmp_path / "bench.yaml").write_text(
        f"version: 1\nname: disk\nhost: {{kind: local}}\nguests:\n"
        f"  - {{name: mine, {kind}}}\n  - {{name: mine-hv, vrtc: hv, {kind}}}\n"
    )
    scenarios = [f"scenarios/test_{name}.py" for name in ("random_orders", "hwclock", "windows", "background")]
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "qemu", "--rtc-updates", "10"),
        *("--bench", str(tmp_path / "bench.yaml"), "--run-dir", str(tmp_path / "run"), *scenarios),
    ]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "SECRET_OF_MINE": PASSWORD},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert PASSWORD not in done.stdout + done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
