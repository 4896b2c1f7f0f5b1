"""The agent's three kinds speak one protocol and refuse alike: on a laptop, on a Service VM, in another's guest."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.guests import ACRN, QEMU_KVM, AgentRefused, Console, LinuxGuest, Pause, Read, Write, variants
from harness.guests.frames import decode_parts, encode_command
from harness.guests.steps import Step
from tests.agent_variants import LAPTOP, OTHER, SERVICE_VM, SHELLS, USER_VM, Pretence, agent_command, running

NONCE = "0123456789abcdef"
HERE = [shell for shell, command in SHELLS.items() if shutil.which(command[0])]
ALL = ["c", "python", *HERE]
WITH_PORTS = ["python", *HERE]
"""Those that take a file for ports; the compiled one has them in QEMU (test_guests_linux_qemu.py)."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where nobody may read, too."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@contextmanager
def guest(
    variant: str, pretence: Pretence, folder: Path, tmp_path: Path, *, nonce: str = NONCE
) -> Iterator[LinuxGuest]:
    with running(variant, pretence, NONCE, folder) as end:
        guest = LinuxGuest(Console(end, tmp_path / "console.log"), nonce=nonce, hypervisor=[ACRN, QEMU_KVM])
        try:
            yield guest
        finally:
            guest.close()


def file_of_ports(folder: Path) -> str:
    path = folder / "ports"
    path.write_bytes(bytes(0x80))
    path.chmod(0o666)
    return str(path)


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize(
    ("pretence", "nonce", "reason"),
    [
        (Pretence(LAPTOP), NONCE, "hypervisor"),
        (Pretence(OTHER), NONCE, "hypervisor"),
        (Pretence(SERVICE_VM), NONCE, "service-vm"),
        (Pretence(USER_VM), "fedcba9876543210", "nonce"),
        (Pretence(USER_VM), NONCE, "root"),
    ],
    ids=["laptop", "other hypervisor", "Service VM", "other guest", "not root"],
)
def test_it_refuses_where_it_must_and_says_why(
    variant: str, pretence: Pretence, nonce: str, reason: str, folder: Path, tmp_path: Path
) -> None:
    with guest(variant, pretence, folder, tmp_path, nonce=nonce) as refusing:
        with pytest.raises(AgentRefused) as caught:
            refusing.boot(Deadline(30))
        assert caught.value.reason == reason
        report = refusing.run("item", [Write(0, 0)], Deadline(30))
        assert (report.ok, report.writes) == (False, ())
        for command in ("hwclock", "clock", "poweroff"):
            with pytest.raises(AgentRefused):
                refusing.command(command, Deadline(30), "1")


@pytest.mark.parametrize("variant", WITH_PORTS)
@pytest.mark.parametrize("reason", ["lockdown", "ports", "other-driver", "dev-port"])
def test_ways_to_the_ports_that_are_shut_are_told_apart(
    variant: str, reason: str, folder: Path, tmp_path: Path
) -> None:
    ports = file_of_ports(folder)
    if reason in ("lockdown", "ports"):
        Path(ports).chmod(0o400 if os.geteuid() == 0 else 0o000)
    pretence = Pretence(
        ports="" if reason == "dev-port" else ports,
        root=True,
        lockdown="none [integrity] confidentiality" if reason == "lockdown" else "[none] integrity confidentiality",
        ioports="0070-0077 : pnp\n  0070-0071 : rtc0\n" if reason == "other-driver" else "0070-0077 : pnp\n",
    )
    expected = "ports" if (variant, reason) == ("python", "dev-port") else reason
    with guest(variant, pretence, folder, tmp_path) as refusing:
        with pytest.raises(AgentRefused) as caught:
            refusing.boot(Deadline(30))
        assert caught.value.reason == expected
        assert not refusing.run("item", [Write(0, 0)], Deadline(30)).ok


@pytest.mark.parametrize("variant", HERE)
@pytest.mark.parametrize(
    ("kernel_log", "hsm", "reason"),
    [
        ("[ 0.0] Hypervisor detected: KVM\n", False, None),
        ("[ 0.0] Hypervisor detected: ACRN\n", False, "cpuid"),
        ("[ 0.0] Hypervisor detected: ACRN\n", True, "service-vm"),
        ("[ 0.0] Hypervisor detected: KVM\n", True, "service-vm"),
        ("", False, "cpuid"),
    ],
)
def test_where_the_processor_cannot_be_asked_only_what_excludes_a_service_vm_will_do(
    variant: str, kernel_log: str, hsm: bool, reason: str | None, folder: Path, tmp_path: Path
) -> None:
    pretence = Pretence(ports=file_of_ports(folder), root=True, kernel_log=kernel_log, hsm=hsm)
    with guest(variant, pretence, folder, tmp_path) as agent:
        if reason is None:
            agent.boot(Deadline(30))
            assert agent.facts["hypervisor"] == QEMU_KVM
        else:
            with pytest.raises(AgentRefused) as caught:
                agent.boot(Deadline(30))
            assert caught.value.reason == reason


@pytest.mark.parametrize("variant", WITH_PORTS)
def test_an_item_is_carried_out_with_its_stamps_and_pauses(variant: str, folder: Path, tmp_path: Path) -> None:
    ports = file_of_ports(folder)
    with guest(variant, Pretence(ports=ports, root=True), folder, tmp_path) as agent:
        agent.boot(Deadline(30))
        assert agent.facts["variant"] == {"python": "python"}.get(variant, "shell")
        assert agent.facts["hypervisor"] == ACRN
        steps: list[Step] = [Write(0x0B, 0x82), Pause(0.02), Write(9, 0xFF), Pause(0.0), Write(0x37, 0), Read(9)]
        sent, before, _ = agent.now(Deadline(30))
        report = agent.run("item", steps, Deadline(30))
        _, after, received = agent.now(Deadline(30))
    assert [(index, value) for index, value, _ in report.writes] == [(0x0B, 0x82), (9, 0xFF), (0x37, 0)]
    assert [(index, value) for index, value, _ in report.reads] == [
        (9, 0)
    ]  # the file's second byte is what was written
    stamps = [stamp for _, _, stamp in (*report.writes, *report.reads)]
    assert before <= stamps[0] and stamps == sorted(stamps) and stamps[-1] <= after
    assert stamps[1] - stamps[0] >= 20_000_000 - report.grain_ns
    assert 0 < report.grain_ns < 10**9
    assert after - before <= received - sent + report.grain_ns
    assert Path(ports).read_bytes()[0x70:0x72] == bytes((9, 0))


@pytest.mark.parametrize("variant", ALL)
def test_no_byte_beyond_the_rtcs_and_no_wide_access_can_be_asked_for(
    variant: str, folder: Path, tmp_path: Path
) -> None:
    pretence = Pretence(ports=file_of_ports(folder), root=True)
    with guest(variant, pretence, folder, tmp_path) as agent:
        if variant == "c":
            with pytest.raises(AgentRefused):
                agent.boot(Deadline(30))
            return
        agent.boot(Deadline(30))
        for step, reason in (
            ("w3800", "index"),
            ("w7f00", "index"),
            ("r38", "index"),
            ("rff", "index"),
            ("w0a2600", "step"),
            ("W0a26", "step"),
            ("w0a", "step"),
            ("wxxyy", "step"),
            ("x0a26", "step"),
            ("p1x", "step"),
            ("p9999999999", "step"),
        ):
            with pytest.raises(AgentRefused) as caught:
                agent.command("run", Deadline(30), "1", step)
            assert caught.value.reason == reason, step
        with pytest.raises(AgentRefused) as caught:
            agent.command("run", Deadline(30), "2", "r0a")
        assert caught.value.reason == "count"
    assert Path(pretence.ports).read_bytes() == bytes(0x80)


def ask(end: socket.socket, line: bytes) -> list[str]:
    """The payloads that come back for a line, but for ready lines, until one is whole."""
    end.settimeout(30)
    end.sendall(line)
    heard = b""
    while True:
        heard += end.recv(4096)
        *lines, _ = heard.split(b"\n")
        parts = [
            part for each in lines for part in decode_parts(each + b"\n")[0] if not part.payload.startswith("ready")
        ]
        if parts and parts[-1].part == parts[-1].parts:
            return ["".join(part.payload for part in parts)]


@pytest.mark.parametrize("variant", WITH_PORTS)
def test_a_command_that_is_repeated_is_answered_from_memory_and_a_damaged_one_not_at_all(
    variant: str, folder: Path
) -> None:
    hello = f"hello {NONCE} {ACRN.encode().hex()}"
    pretence = Pretence(ports=file_of_ports(folder), root=True)
    with running(variant, pretence, NONCE, folder) as end:
        assert ask(end, encode_command(5, hello))[0].startswith("ok agent=1")
        first = ask(end, encode_command(7, f"run {NONCE} 1 w0026"))
        Path(pretence.ports).write_bytes(bytes(0x80))
        assert ask(end, encode_command(7, f"run {NONCE} 1 w0026")) == first
        assert first[0].startswith("ok g")
        assert ask(end, b"noise" + encode_command(7, "anything")) == first
        assert ask(end, encode_command(6, f"run {NONCE} 1 w0026")) == ["no sequence the last was 7"]
        damaged = encode_command(8, f"run {NONCE} 1 w0026").replace(b"0026", b"0025")
        for line in (
            damaged,
            b"@>8 run\n",
            b"\xff\x80garbage\n",
            b"@>8 x*zzzzzzzz\n",
            b"x" * 5000 + b"\n",
            b"@>0 x*\n",
        ):
            assert ask(end, line) == ["no damaged"]
        assert ask(end, encode_command(0, f"run {NONCE} 1 w0026")) == ["no sequence the last was 7"]
        assert Path(pretence.ports).read_bytes() == bytes(0x80)
        assert ask(end, encode_command(1, hello))[0].startswith("ok agent=1")
        long = " ".join(["w0a26"] * 150)
        assert ask(end, encode_command(2, f"load {NONCE} {long}")) == ["ok"]
        many = ask(end, encode_command(3, f"run {NONCE} 151 r00"))[0]
        assert len(many.split()) == 2 + 151


@pytest.mark.parametrize("variant", ALL)
def test_it_ends_when_its_console_does(variant: str, folder: Path) -> None:
    with running(variant, Pretence(), NONCE, folder) as end:
        end.settimeout(30)
        assert b"ready" in end.recv(4096)
        end.shutdown(socket.SHUT_WR)
        while end.recv(4096):
            pass


def test_the_checksum_of_every_character_is_that_of_zlib(folder: Path) -> None:
    # the shell makes its own
    every = "".join(chr(code) for code in range(32, 127) if chr(code) not in "*@")
    with running(HERE[0], Pretence(), NONCE, folder) as end:
        for number, text in enumerate((every, every[::-1], every * 4), 1):
            assert "unknown" in ask(end, encode_command(number, text))[0]


@pytest.mark.skipif(
    not os.access("/dev/cpu/0/cpuid", os.R_OK) or "hypervisor" not in Path("/proc/cpuinfo").read_text(),
    reason="this machine is no guest, or has no device that says so",
)
def test_the_script_and_python_ask_the_processor_alike() -> None:
    ask = "from harness.guests.agent_python.machine import *; text, service = whereabouts(); print(text.encode().hex())"
    by_python = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    functions = variants.shell_agent().decode().partition("# ---- the clock and the ports")[0]
    by_shell = subprocess.run(
        ["sh", "-c", functions + '\nwhereabouts; echo "$signature"'], capture_output=True, text=True, check=True
    ).stdout.split()
    assert by_shell == by_python != []


def has_user_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-Ur", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_user_namespaces(), reason="no user namespaces for this user")
def test_a_root_without_the_right_to_ports_is_refused_as_such(folder: Path, tmp_path: Path) -> None:
    agent, *_ = agent_command("c", Pretence(USER_VM), folder)
    ours, theirs = socket.socketpair()
    command = ["unshare", "-Ur", agent, f"rtc.nonce={NONCE}"]
    with theirs, subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno()) as process:
        refusing = LinuxGuest(Console(ours, tmp_path / "console.log"), nonce=NONCE, hypervisor=[ACRN])
        try:
            with pytest.raises(AgentRefused) as caught:
                refusing.boot(Deadline(30))
            assert caught.value.reason == "ports"
        finally:
            refusing.close()
            process.kill()
