"""`./lab bench check --connect`: each link is tried, and what is wrong with it is said with what mends it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import yaml

from harness.bench import Bench, load_bench
from harness.bench.command import main
from harness.hosts.check import steps
from harness.hosts.check_step import CheckStep
from harness.rehearsal.loopback import LoopbackSshd
from tests.ssh_support import needs_sshd, sshd
from tests.test_hosts_ssh_link import make_key, public

__all__ = ["sshd"]
pytestmark = needs_sshd


def bench_file(folder: Path, sshd: LoopbackSshd, host: dict[str, object], **keys: object) -> Path:
    guest = {
        "name": "vm",
        "hypervisor": ["TCGTCGTCGTCG"],
        "device_model": {"kind": "acrn-dm", "program": "cat", "arguments": ["{monitor}", "{vm}"]},
        **keys,
    }
    whole = {
        "version": 1,
        "name": f"check-{sshd.port}",
        "host": {"kind": "ssh", "address": "rehearsal", "ssh_config": str(sshd.keys.ssh_config), **host},
        "reservation": {"kind": "lock", "folder": str(folder / "locks")},
        "guests": [guest],
    }
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return path


def bench_of(place: Path, sshd: LoopbackSshd, **host: object) -> Bench:
    return load_bench(bench_file(place, sshd, host))


def failing(bench: Bench) -> CheckStep:
    """The step that fails, which is the last one that is tried."""
    tried = list(steps(bench))
    assert [step.ok for step in tried] == [True] * (len(tried) - 1) + [False], tried
    assert tried[-1].hint
    return tried[-1]


def test_a_bench_that_is_well(sshd: LoopbackSshd, tmp_path: Path) -> None:
    tried = list(steps(bench_of(tmp_path, sshd)))
    assert all(step.ok for step in tried), tried
    assert [step.name for step in tried] == [
        "reservation",
        "SSH configuration",
        "name",
        "port",
        "host key",
        "login",
        "python, folder, sudo",
        "device model of vm",
        "console of vm",
        "given back",
    ]


def test_a_name_without_address(sshd: LoopbackSshd, tmp_path: Path) -> None:
    step = failing(bench_of(tmp_path, sshd, address="no-such-host.invalid", ssh_config=None))
    assert step.name == "name" and "has no address" in step.detail


def test_a_port_where_nobody_listens(sshd: LoopbackSshd, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    step = failing(bench_of(tmp_path, sshd, port=port))
    assert step.name == "port" and "refuses the connection" in step.detail and "systemctl status ssh" in step.hint


def test_a_port_where_something_else_listens(sshd: LoopbackSshd, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as dumb:
        step = failing(bench_of(tmp_path, sshd, port=dumb.getsockname()[1], connect_timeout=1))
    assert step.name == "port" and "says nothing that an SSH server would" in step.detail


def test_a_host_key_that_is_not_known(sshd: LoopbackSshd, tmp_path: Path) -> None:
    other = public(make_key(tmp_path / "other"))
    step = failing(bench_of(tmp_path, sshd, host_key=other))
    assert step.name == "host key" and public(sshd.keys.host_key) in step.hint


def test_a_key_that_is_not_accepted(sshd: LoopbackSshd, tmp_path: Path) -> None:
    step = failing(bench_of(tmp_path, sshd, identity=str(make_key(tmp_path / "other"))))
    assert step.name == "login" and "accepts none" in step.detail


def test_a_host_without_python_or_a_folder(sshd: LoopbackSshd, tmp_path: Path) -> None:
    assert failing(bench_of(tmp_path, sshd, python="python9")).name == "python"
    assert failing(bench_of(tmp_path, sshd, folder="/proc/x")).name == "folder"


@pytest.mark.parametrize(
    ("keys", "name", "detail"),
    [
        (
            {"device_model": {"kind": "acrn-dm", "program": "no-acrn-dm", "arguments": ["{monitor}", "{vm}"]}},
            "device model of vm",
            "there is no no-acrn-dm",
        ),
        (
            {"device_model": {"kind": "script", "program": "/etc/passwd", "arguments": ["{monitor}"]}},
            "device model of vm",
            "there is no /etc/passwd that can be started",
        ),
        ({"hypervisor": ["ACRNACRNACRN"]}, "/dev/acrn_hsm of vm", "there is no /dev/acrn_hsm"),
        (
            {
                "device_model": {"kind": "running", "monitor": "/nowhere/m"},
                "console": {"kind": "pty", "path": "/dev/x"},
            },
            "monitor socket of vm",
            "there is no /nowhere/m",
        ),
        ({"console": {"kind": "serial", "device": "/dev/null"}}, "console of vm", "/dev/null cannot be used"),
    ],
)
def test_what_a_guest_wants_and_the_host_does_not_have(
    keys: dict[str, object], name: str, detail: str, sshd: LoopbackSshd, tmp_path: Path
) -> None:
    bad = [step for step in steps(load_bench(bench_file(tmp_path, sshd, {}, **keys))) if not step.ok]
    assert bad[0].name == name and detail in bad[0].detail and bad[0].hint


def test_what_is_wrong_with_the_way_there_is_no_matter_of_the_lock(sshd: LoopbackSshd, tmp_path: Path) -> None:
    for host in ({"password_env": "RTC_TEST_NOT_SET"}, {"proxy_jump": "a:b:c@@"}):
        assert failing(bench_of(tmp_path, sshd, **host)).name == "SSH configuration"


def test_a_bench_that_somebody_else_has(sshd: LoopbackSshd, tmp_path: Path) -> None:
    bench = bench_of(tmp_path, sshd)
    first = steps(bench)
    next(first)
    step = failing(bench)
    assert step.name == "reservation"
    first.close()  # type: ignore[attr-defined]
    assert all(step.ok for step in steps(bench))


def test_the_command_says_each_step_and_fails_with_the_one_that_fails(
    sshd: LoopbackSshd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--connect", str(bench_file(tmp_path, sshd, {}))]) == 0
    assert "given back" in capsys.readouterr().out
    assert main(["check", "--connect", str(bench_file(tmp_path, sshd, {"python": "python9"}))]) == 10
    assert "FAILED  python: " in capsys.readouterr().out
