"""Logging in on a console and bringing a program in, against a terminal with a shell of this machine behind it."""

from __future__ import annotations

import hashlib
import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.guests.agent_guest import ACRN
from harness.guests.agent_link import AgentRefused
from harness.guests.bring import posix_cksum, push, typed
from harness.guests.console import Console
from harness.guests.login import Login, Shell
from harness.guests.steps import Write
from harness.guests.system import NoAgent, SystemGuest
from harness.guests.variants import Agents, Variant
from tests.agent_variants import LAPTOP, SERVICE_VM, Pretence, Processor, agent_command
from tests.guests_support import console_pair

PATIENCE = 60.0
SECRET = "s3cret-of-mine"


@contextmanager
def terminal(folder: Path, script: str) -> Iterator[Console]:
    """A console whose other end is a terminal in which a script of a shell runs."""
    ours, theirs = pty.openpty()
    (folder / "script").write_text(script)
    with subprocess.Popen(
        ["setsid", "--ctty", "sh", str(folder / "script")], stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder
    ) as process:
        os.close(theirs)
        console = Console(ours, folder / "console.log", name="terminal")
        try:
            yield console
        finally:
            console.close()
            process.kill()


def getty(user: str = "root", *, shell: str = "exec sh", echo: str = "stty -echo") -> str:
    """A login that lets one user in, with a fake `id`: who runs the tests may be nobody."""
    return f"""
    mkdir -p bin; printf '#!/bin/sh\\necho 0\\n' >bin/id; chmod +x bin/id; PATH=$PWD/bin:$PATH; export PATH
    while :; do
        printf 'box login: '; read name
        {echo}; printf 'Password: '; read word; stty echo; echo
        [ "$name" = {user} ] && [ "$word" = {SECRET} ] && break
        echo 'Login incorrect'
    done
    PS1='# '; export PS1
    {shell}
    """


def logged(console: Console) -> str:
    log = console.log_path
    return (log.read_bytes() + log.with_suffix(".raw").read_bytes()).decode("utf-8", "replace")


def test_a_program_arrives_whole_and_can_be_started(tmp_path: Path) -> None:
    program = b"#!/bin/sh\necho it runs\n#" + bytes(range(256)) * 200 + os.urandom(30_000)
    with terminal(tmp_path, getty()) as console:
        deadline = Deadline(PATIENCE)
        shell = Shell(console, Login(password=SECRET), deadline)

        path = Path(push(shell, program, deadline))

        try:
            assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(program).digest()
            assert shell.ask(f"sh -c 'head -n 2 {path} | sh'", deadline) == "it runs"
            assert [each.name for each in path.parent.glob(path.name + ".*")] == []
        finally:
            path.unlink(missing_ok=True)
        assert SECRET not in logged(console)


def test_a_secret_that_the_guest_echoes_is_not_logged(tmp_path: Path) -> None:
    with terminal(tmp_path, getty(echo="stty echo")) as console:
        Shell(console, Login(password=SECRET), Deadline(PATIENCE))
        console.close()
        assert "********" in logged(console)
        assert SECRET not in logged(console)


@pytest.mark.parametrize("size", [1, 2, 5, len(SECRET), 1000])
def test_a_secret_is_masked_however_it_arrives(tmp_path: Path, size: int) -> None:
    sent = f"before {SECRET}\r\nhalf of it: {SECRET[:5]}\r\n{SECRET}{SECRET} end {SECRET[:3]}".encode()
    with console_pair(tmp_path) as (console, theirs):
        console.mask(SECRET.encode())
        for at in range(0, len(sent), size):
            theirs.sendall(sent[at : at + size])
            console.check()
        console.close()
        raw = console.log_path.with_suffix(".raw").read_bytes()
        lines = console.last_lines
    assert raw == sent.replace(SECRET.encode(), b"********")
    assert SECRET not in "".join(lines)


def test_a_refused_login_is_told_with_the_guests_own_words(tmp_path: Path) -> None:
    with (
        terminal(tmp_path, getty()) as console,
        pytest.raises(ConfigurationError, match=r"refused the login of root: Login incorrect"),
    ):
        Shell(console, Login(password="wrong"), Deadline(PATIENCE))


def test_an_answer_that_arrives_torn_is_asked_for_again(tmp_path: Path) -> None:
    with terminal(tmp_path, getty()) as console:
        shell = Shell(console, Login(password=SECRET), Deadline(PATIENCE))
        torn_once = "if [ -e asked ]; then echo whole; else : >asked; printf 'to\\rrn'; fi"
        assert shell.ask(torn_once, Deadline(PATIENCE), patience=1.0) == "whole"


@pytest.mark.skipif(shutil.which("sudo") is not None, reason="this machine's sudo would be asked")
def test_a_user_whom_nothing_makes_root_is_told(tmp_path: Path) -> None:
    nobody = getty("joe").replace("echo 0", "echo 1000")
    with (
        terminal(tmp_path, nobody) as console,
        pytest.raises(ConfigurationError, match="joe is not root"),
    ):
        Shell(console, Login("joe", SECRET), Deadline(PATIENCE))


def test_a_guest_that_damages_all_it_is_sent_is_given_up(tmp_path: Path) -> None:
    lie = "printf '#!/bin/sh\\necho 00 -\\n' >bin/sha256sum; chmod +x bin/*; "
    liar = getty().replace("PATH=$PWD/bin", lie + "PATH=$PWD/bin")
    with terminal(tmp_path, liar) as console:
        shell = Shell(console, Login(password=SECRET), Deadline(PATIENCE))
        with pytest.raises(InfrastructureError, match="not what the guest has"):
            push(shell, b"#!/bin/sh\n", Deadline(PATIENCE))


def guest_with(*tools: str) -> str:
    """A login to a system that has these programs and no other."""
    found = " ".join(path for path in map(shutil.which, ("sh", "rm", "chmod", *tools)) if path)
    return getty().replace("PATH=$PWD/bin:$PATH", f"ln -s {found} bin/; PATH=$PWD/bin")


@pytest.mark.parametrize(
    "tools",
    [
        ("cat", "cksum"),
        ("cat", "md5sum", "openssl", "dd"),
        ("cat", "sha256sum", "base64"),
        ("cat", "cksum", "gzip", "base64", "head"),
    ],
    ids=" ".join,
)
def test_a_guest_with_few_programs_gets_it_all_the_same(tmp_path: Path, tools: tuple[str, ...]) -> None:
    program = b"#!/bin/sh\n# 100% @rtc* 'quoted' \\ \x00\xff\n" + os.urandom(3000)
    with terminal(tmp_path, guest_with(*tools)) as console:
        deadline = Deadline(PATIENCE)
        path = Path(push(Shell(console, Login(password=SECRET), deadline), program, deadline))
        try:
            assert path.read_bytes() == program
        finally:
            path.unlink()


def test_a_guest_whose_head_is_none_is_typed_to(tmp_path: Path) -> None:
    broken = "printf '#!/bin/sh\\nexit 1\\n' >bin/head; chmod +x bin/*; "
    with terminal(tmp_path, getty().replace("PATH=$PWD/bin", broken + "PATH=$PWD/bin")) as console:
        deadline = Deadline(PATIENCE)
        path = Path(push(Shell(console, Login(password=SECRET), deadline), b"#!/bin/sh\n", deadline))
        assert path.read_bytes() == b"#!/bin/sh\n"
        path.unlink()


def test_a_guest_that_cannot_say_what_it_has_is_told_so(tmp_path: Path) -> None:
    with terminal(tmp_path, guest_with("cat")) as console:
        shell = Shell(console, Login(password=SECRET), Deadline(PATIENCE))
        with pytest.raises(InfrastructureError, match="nothing to compare by"):
            push(shell, b"#!/bin/sh\n", Deadline(PATIENCE))


@pytest.mark.skipif(shutil.which("cksum") is None, reason="there is no cksum to compare with")
@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 3])
def test_a_guests_cksum_is_known(data: bytes) -> None:
    said = subprocess.run(["cksum"], input=data, capture_output=True, check=True).stdout
    assert int(said.split()[0]) == posix_cksum(data)
    assert subprocess.run(["sh", "-c", f"printf '{typed(data)}'"], capture_output=True, check=True).stdout == data


def system(console: Console, folder: Path, programs: dict[Variant, bytes], wanted: Literal["auto", "c"]) -> SystemGuest:
    return SystemGuest(
        console,
        nonce="0123456789abcdef",
        hypervisor=[ACRN],
        agent=Agents(programs),
        login=Login(password=SECRET),
        variant=wanted,
    )


NO_PROGRAM = b"#!/bin/sh\nexit 126\n"


def test_where_one_agent_cannot_be_started_another_is(tmp_path: Path) -> None:
    ports = tmp_path / "ports"
    ports.write_bytes(bytes(0x80))
    _, script = agent_command("dash", Pretence(ports=str(ports), root=True), tmp_path)
    with terminal(tmp_path, getty()) as console:
        guest = system(console, tmp_path, {"c": NO_PROGRAM, "shell": Path(script).read_bytes()}, "auto")
        guest.boot(Deadline(PATIENCE))
        assert guest.facts["variant"] == "shell"
        assert guest.run("item", [Write(0, 1)], Deadline(PATIENCE)).ok
        guest.leave(Deadline(PATIENCE))


def test_an_agent_that_ends_at_once_is_told_with_its_status(tmp_path: Path) -> None:
    with terminal(tmp_path, getty()) as console, pytest.raises(NoAgent, match="status 126"):
        system(console, tmp_path, {"c": NO_PROGRAM}, "c").boot(Deadline(PATIENCE))


@pytest.mark.parametrize("processor", [LAPTOP, SERVICE_VM], ids=["laptop", "Service VM"])
def test_a_login_on_the_wrong_machine_ends_with_a_refusal_and_nothing_left_there(
    tmp_path: Path, processor: Processor
) -> None:
    ports = tmp_path / "ports"
    ports.write_bytes(bytes(0x80))
    _, script = agent_command("dash", Pretence(processor, ports=str(ports), root=True), tmp_path)
    with terminal(tmp_path, getty() + "echo over >left\n") as console:
        guest = system(console, tmp_path, {"shell": Path(script).read_bytes()}, "auto")
        with pytest.raises(AgentRefused) as caught:
            guest.boot(Deadline(PATIENCE))
        assert caught.value.reason == ("service-vm" if processor is SERVICE_VM else "hypervisor")
    assert ports.read_bytes() == bytes(0x80)
    assert [*Path("/run").glob(".rtc-agent-*")] == []
