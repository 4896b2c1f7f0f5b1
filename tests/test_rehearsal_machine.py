"""The rehearsal machine's power: a daemon that is switched on and off, proven, by any number of processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests import prepare_bare_image
from harness.rehearsal import elf, machine
from harness.rehearsal.keys import make_keys
from harness.rehearsal.machine import Machine
from harness.rehearsal.machine_image import MachineImage
from tests.vm_event_support import PATIENCE, eventually

pytestmark = pytest.mark.qemu


@pytest.fixture
def switched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine that boots next to nothing: a bare guest's image in the place of the real one."""
    kernel = prepare_bare_image(None, Deadline(PATIENCE)).kernel
    empty = tmp_path / "empty.cpio"
    empty.write_bytes(b"\0" * 512)
    image = MachineImage(kernel, (empty, empty), "rtc.nonce=0123456789abcdef", {})
    monkeypatch.setattr(machine, "machine_image", lambda cache, deadline: image)
    made = Machine(tmp_path / "machine")
    yield made
    made.off(Deadline(PATIENCE))


def switch_on(made: Machine) -> int:
    return made.on(Deadline(PATIENCE), memory=64, processors=1)


def lives(pid: int) -> bool:
    """Whether there is such a process; one that only waits to be reaped by somebody else does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_on_and_off_and_what_ssh_needs(switched: Machine) -> None:
    # given a machine that is off
    assert switched.pid() is None
    assert not switched.off(Deadline(PATIENCE))
    # when it is switched on, twice
    port = switch_on(switched)
    pid = switched.pid()
    assert pid is not None and switch_on(switched) == port and switched.pid() == pid
    # then QEMU listens there, on the loopback
    with socket.create_connection(("127.0.0.1", port), PATIENCE):
        pass
    # and ssh knows where, as whom, by which key, and whom to expect
    ask = ["ssh", "-G", "-F", str(switched.folder / "ssh_config"), "rehearsal"]
    told = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.splitlines()
    for line in (
        "hostname 127.0.0.1", f"port {port}", "user root", "hostkeyalias rehearsal", "stricthostkeychecking true",
        f"userknownhostsfile {switched.folder}/known_hosts", f"identityfile {switched.folder}/id_ed25519",
    ):
        assert line in told
    # and off it is gone, with what is large or would lead nowhere
    assert switched.off(Deadline(PATIENCE))
    assert switched.pid() is None and not lives(pid)
    assert sorted(path.name for path in switched.folder.iterdir()) == [
        "console.log", "host_key", "host_key.pub", "id_ed25519", "id_ed25519.pub", "known_hosts", "port", "ssh_config",
        "switch.lock",
    ]


def test_it_comes_back_at_its_port_if_nobody_else_has_it(switched: Machine) -> None:
    port = switch_on(switched)
    switched.off(Deadline(PATIENCE))
    assert switch_on(switched) == port
    switched.off(Deadline(PATIENCE))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        # then there is another, and the file says which
        moved = switch_on(switched)
        assert moved != port
        assert f"Port {moved}\n" in (switched.folder / "ssh_config").read_text()
        switched.off(Deadline(PATIENCE))
        # but a port that was asked for is that or none
        with pytest.raises(InfrastructureError, match="did not start"):
            switched.on(Deadline(PATIENCE), port=port, memory=64, processors=1)
    assert switched.pid() is None


def test_a_machine_that_died_is_off(switched: Machine) -> None:
    switch_on(switched)
    pid = switched.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: switched.pid() is None, "the lock's end")
    assert switched.pid_file.exists(), "nobody has tidied up"
    assert not switched.off(Deadline(PATIENCE))
    # and another process with that number is left alone
    switched.pid_file.write_text(f"{os.getpid()}\n")
    assert switched.pid() is None and not switched.off(Deadline(PATIENCE))


def test_only_one_process_switches_at_a_time(switched: Machine) -> None:
    switch_on(switched)
    with switched._switching(Deadline(PATIENCE)):
        code = "import sys; from pathlib import Path; from harness.deadline import Deadline;"
        code += "from harness.rehearsal.machine import Machine; Machine(Path(sys.argv[1])).off(Deadline(0.2))"
        done = subprocess.run(
            [sys.executable, "-c", code, str(switched.folder)], capture_output=True, text=True, check=False
        )
    assert "another process has been switching" in done.stderr
    assert switched.pid() is not None


def test_the_command_says_how_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert machine.main(["status", str(tmp_path / "never")]) == machine.OFF
    assert machine.main(["off", str(tmp_path / "never")]) == 0
    assert capsys.readouterr().out.split("\n") == ["off", "off already", ""]
    # and what goes wrong is an exit status of its own, not "off"
    (tmp_path / "file").write_text("")
    assert machine.main(["status", str(tmp_path / "file")]) not in (0, machine.OFF)


def test_keys_are_made_once_and_mended(tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys")
    first = keys.identity.read_bytes(), keys.host_key.read_bytes()
    assert keys.folder.stat().st_mode & 0o777 == 0o700 and keys.identity.stat().st_mode & 0o777 == 0o600
    make_keys(tmp_path / "keys")
    assert (keys.identity.read_bytes(), keys.host_key.read_bytes()) == first
    # a pair of which one was lost is made anew
    keys.authorized.unlink()
    make_keys(tmp_path / "keys")
    assert keys.authorized.exists() and keys.identity.read_bytes() != first[0]


def test_what_a_program_needs_is_found(tmp_path: Path) -> None:
    # given this Python, its linker and libraries as the system's own ldd tells them
    program = Path(sys.executable).resolve().read_bytes()
    linker, _ = elf.needed(program)
    told = subprocess.run(["ldd", sys.executable], capture_output=True, text=True, check=True).stdout
    assert linker is not None and linker in told
    pairs = [line.split("=>") for line in told.splitlines() if "=>" in line]
    libraries = {name.strip(): place.split()[0] for name, place in pairs}
    for place in [*libraries.values(), linker]:
        shutil.copy(place, tmp_path)
    # then they are found among files
    found = elf.with_libraries([program], tmp_path)
    assert set(found) - {Path(linker).name} == set(libraries)
    # and one that is not there is named
    (tmp_path / "libc.so.6").unlink()
    with pytest.raises(elf.MissingLibrary, match=r"libc\.so\.6"):
        elf.with_libraries([program], tmp_path)
    assert elf.needed(b"#!/bin/sh\n") == (None, [])
