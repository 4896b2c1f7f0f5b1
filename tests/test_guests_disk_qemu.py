"""A guest that boots from a user's disk image: logged in to through its console, and given back as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import ConfigurationError
from harness.guests import QEMU_TCG, Login, Pause, SystemGuest, Write
from harness.guests.cache import Cache, default_cache_dir
from harness.guests.login import Shell
from harness.guests.parts import compiled_agent, fetched_kernel, static_busybox
from harness.guests.steps import Step
from tests.disk_image import PASSWORD, make_disk_image, missing_tools
from tests.system_machine import SystemMachine, started

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(bool(missing_tools()), reason=f"to make a disk image takes {', '.join(missing_tools())}"),
]

PATIENCE = 120.0
ROOT = Login("root", PASSWORD)


def guest_of(machine: SystemMachine, login: Login = ROOT) -> SystemGuest:
    """What the harness makes of it; not booted yet."""
    agent, _ = compiled_agent(Cache(default_cache_dir()), Deadline(PATIENCE))
    return SystemGuest(machine.console, nonce="0123456789abcdef", hypervisor=[QEMU_TCG], agent=agent, login=login)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache, deadline = Cache(default_cache_dir()), Deadline(PATIENCE)
    return make_disk_image(
        tmp_path_factory.mktemp("disk"), fetched_kernel(cache, deadline), static_busybox(cache, deadline)
    )


@pytest.fixture(scope="module")
def machine(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemMachine]:
    """One machine for all: each test leaves it as it found it, somebody may log in."""
    drive = f"file={disk},if=virtio,format=raw,snapshot=on"
    with started(tmp_path_factory.mktemp("machine"), 128, "-drive", drive) as running:
        yield running


LONGEST_GAP = "awk 'NR > 1 && $1 - last > most { most = $1 - last } { last = $1 } END { print most }' /run/daemon"


def test_a_user_who_cannot_become_root_is_told(machine: SystemMachine) -> None:
    with pytest.raises(ConfigurationError, match="tester is not root"):
        guest_of(machine, Login("tester", PASSWORD)).boot(Deadline(PATIENCE))


def test_a_wrong_password_is_the_users_to_mend_and_is_not_logged(machine: SystemMachine) -> None:
    with pytest.raises(ConfigurationError, match=r"refused the login of root.*incorrect") as caught:
        guest_of(machine, Login("root", "a-wrong-secret")).boot(Deadline(PATIENCE))
    assert "a-wrong-secret" not in machine.logged() + str(caught.value)


def test_logged_in_agent_brought_in_rtc_written_and_all_given_back(machine: SystemMachine, disk: Path) -> None:
    before = (disk.stat().st_mtime_ns, disk.read_bytes())
    guest = guest_of(machine)
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
    assert (disk.stat().st_mtime_ns, disk.read_bytes()) == before


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
