"""The compiled agent outside a guest of ours, as on a user's laptop or a Service VM: it refuses everything."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.guests import ACRN, QEMU_KVM, QEMU_TCG, AgentRefused, Console, LinuxGuest, Write, steps
from harness.guests.cache import Cache, default_cache_dir
from harness.guests.frames import decode_parts
from harness.guests.parts import compiled_agent
from harness.guests.steps import INDEX_LIMIT, Read

EVERYWHERE = (ACRN, QEMU_KVM, QEMU_TCG, "Microsoft Hv", "VMwareVMware", "XenVMMXenVMM")

SOURCES = Path(steps.__file__).parent
NOBODY = 65534


@pytest.fixture(scope="module")
def binary() -> Iterator[Path]:
    """The agent as it goes into guests, where every user may run it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent"
        path.write_bytes(compiled_agent(Cache(default_cache_dir()), Deadline(60))[0])
        path.chmod(0o755)
        path.parent.chmod(0o755)
        yield path


@pytest.fixture
def end(binary: Path) -> Iterator[socket.socket]:
    """Our end of the standard input and output of an agent that runs on this very machine.

    Never as root: an agent with a fault must not harm the machine that finds it.
    """
    assert "rtc.nonce=" not in Path("/proc/cmdline").read_text()
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [str(binary)],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                user=NOBODY if os.geteuid() == 0 else os.geteuid(),
            )
        try:
            yield ours
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def guest(end: socket.socket, tmp_path: Path) -> Iterator[LinuxGuest]:
    """The agent, greeted in vain: the kernel command line of this machine has no nonce."""
    guest = LinuxGuest(Console(end, tmp_path / "console.log"), nonce="c0ffee", hypervisor=EVERYWHERE)
    try:
        with pytest.raises(AgentRefused) as caught:
            guest.boot(Deadline(30))
        assert caught.value.reason == "nonce"
        yield guest
    finally:
        guest.close()


def test_it_writes_nothing_there(guest: LinuxGuest) -> None:
    report = guest.run("item", [Write(0, 0)], Deadline(30))
    assert not report.ok
    assert report.error is not None
    assert "nonce" in report.error
    assert report.writes == ()


@pytest.mark.parametrize("name", ["load", "hwclock", "clock", "noise", "panic", "reboot", "poweroff", "info"])
def test_no_command_is_carried_out_there(guest: LinuxGuest, name: str) -> None:
    with pytest.raises(AgentRefused) as caught:
        guest.command(name, Deadline(30), "1")
    assert caught.value.reason == "nonce"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"@>1 run c0ffee 1 w0000*00000000\n", "no damaged"),
        (b"@>1 run c0ffee 1 w0000\n", "no damaged"),
        (b"\x00\xff\x03garbage\n", "no damaged"),
        (b"x" * 5000 + b"\n", "no damaged"),
        (b"@>0 info x*b1b8c2e5\n", "no damaged"),
    ],
)
def test_a_damaged_line_is_answered_and_nothing_else(end: socket.socket, line: bytes, answer: str) -> None:
    end.settimeout(30)
    with end.makefile("rb") as lines:
        assert decode_parts(lines.readline())[0][0].payload.startswith("ready")
        end.sendall(line)
        answers = [part.payload for part in decode_parts(lines.readline())[0]]
        while answers[0].startswith("ready"):
            answers = [part.payload for part in decode_parts(lines.readline())[0]]
        assert answers == [answer]


def test_an_echo_of_its_own_words_is_not_answered(end: socket.socket) -> None:
    end.settimeout(30)
    with end.makefile("rb") as lines:
        ready = lines.readline()
        end.sendall(ready + b"\r\n\r\nx\n")
        answer = lines.readline()
        while answer == ready:
            answer = lines.readline()
        assert [part.payload for part in decode_parts(answer)[0]] == ["no damaged"]


def test_no_source_of_it_writes_more_than_a_byte_to_a_port_or_beyond_the_rtcs_bytes() -> None:
    # in ACRN a 16-bit write to port 0x70 reaches the register that was indexed before
    sources = sorted(SOURCES.glob("agent*.[ch]"))
    assert "agent_rtc.c" in [path.name for path in sources]
    wide = re.compile(r"\b(out[wl](_p)?|outs[bwl]?)\b")
    for source in sources:
        assert not wide.search(source.read_text(encoding="utf-8")), source
    # and the limit is the one that the host keeps to as well
    assert f"#define INDEX_LIMIT {INDEX_LIMIT:#04x}\n" in (SOURCES / "agent_rtc.c").read_text(encoding="utf-8")


@pytest.mark.parametrize("step", [Read, lambda index: Write(index, 0)])
@pytest.mark.parametrize("index", [0x38, 0x7F, 0x80, 0xB8, -1])
def test_the_host_does_not_even_spell_what_lies_beyond_the_rtcs_bytes(
    step: Callable[[int], object], index: int
) -> None:
    with pytest.raises(ValueError, match="index"):
        step(index)
