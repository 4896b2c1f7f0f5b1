"""An SSH host: programs, commands, files and streams, on a real sshd."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.ssh import SshHost
from harness.rehearsal.loopback import LoopbackSshd
from tests.ssh_support import GARBAGE, PATIENCE, await_truth, host, lives, needs_sshd, read_until, ssh_host, sshd

__all__ = ["host", "sshd"]
pytestmark = needs_sshd

AWKWARD = ["", " ", "a b", "'", '"', "$HOME", "`id`", "a\nb", "*", "~", "\\", "!x", "ä", "--", "-n"]


def test_a_command_gets_its_arguments_as_they_are(host: SshHost) -> None:
    script = "import json,sys; print(json.dumps(sys.argv[1:]))"
    result = host.run(["python3", "-c", script, *AWKWARD], Deadline(PATIENCE))
    assert json.loads(result.output) == AWKWARD


def test_a_commands_input_output_errors_and_status_are_told(host: SshHost) -> None:
    data = os.urandom(3_000_000)
    result = host.run(["sh", "-c", "cat; echo words >&2; exit 7"], Deadline(PATIENCE), data=data, check=False)
    assert (result.status, result.output, result.errors) == (7, data, "words\n")


def test_a_command_that_takes_no_input_is_not_waited_for_to_take_it(host: SshHost) -> None:
    assert host.run(["true"], Deadline(PATIENCE), data=b"x" * 5_000_000).status == 0


def test_a_command_that_fails_is_named_with_its_last_words(host: SshHost) -> None:
    with pytest.raises(InfrastructureError, match=r"false'? ended with status 3") as caught:
        host.run(["sh", "-c", "echo why >&2; exit 3 # false"], Deadline(PATIENCE))
    assert caught.value.last_lines == ("why",)


def test_a_command_that_takes_too_long_is_ended(host: SshHost, tmp_path: Path) -> None:
    place = tmp_path / "pid"
    with pytest.raises(InfrastructureError, match="sleep 600' did not end in time"):
        host.run(["sh", "-c", f"echo $$ >{place}; exec sleep 600"], Deadline(1))
    assert not lives(int(place.read_text(encoding="ascii")))


def test_a_command_that_does_not_exist_is_the_users_to_mend(host: SshHost) -> None:
    with pytest.raises(ConfigurationError, match="no-such-program cannot be started"):
        host.run(["no-such-program"], Deadline(PATIENCE))
    with pytest.raises(ConfigurationError, match="/etc/passwd cannot be started: Permission denied"):
        host.start(["/etc/passwd"], log=Path(os.devnull))


def test_a_programs_console_is_its_standard_input_and_output(host: SshHost, tmp_path: Path) -> None:
    process = host.start(["sh", "-c", "echo words >&2; exec cat"], log=tmp_path / "log")
    process.console.sendall(b"hello\n")
    read_until(process.console, b"hello\n")
    assert process.exit_status() is None
    process.close(Deadline(PATIENCE))
    assert process.exit_status() == 0
    assert process.last_lines == ["words"]
    assert (tmp_path / "log").read_bytes() == b"words\n"


def test_a_program_on_a_terminal_has_one_of_its_own_that_passes_all_bytes(host: SshHost, tmp_path: Path) -> None:
    process = host.start(["sh", "-c", "tty; exec cat"], log=tmp_path / "log", terminal=True)
    assert b"/dev/pts/" in read_until(process.console, b"\n")
    process.console.sendall(b"\x03\x04\x1a\r\n.")
    assert read_until(process.console, b".") == b"\x03\x04\x1a\r\n."
    process.close(Deadline(PATIENCE))
    assert process.exit_status() == -signal.SIGTERM


def test_who_asked_is_told_of_a_programs_end_when_its_last_words_are_in(host: SshHost, tmp_path: Path) -> None:
    told: list[object] = []
    ended = threading.Event()
    process = host.start(["sh", "-c", "cat >/dev/null; echo last >&2; exit 4"], log=tmp_path / "log")
    process.on_exit(lambda: told.append((process.exit_status(), process.last_lines)))
    process.on_exit(ended.set)
    process.console.shutdown(socket.SHUT_WR)
    assert ended.wait(PATIENCE)
    assert told == [(4, ["last"])]
    process.on_exit(lambda: told.append("at once"))
    assert told[-1] == "at once"
    process.close(Deadline(PATIENCE))


def test_a_file_is_brought_once_for_its_owner_alone(host: SshHost, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2_000_000))
    path = host.put(source, "target", Deadline(PATIENCE))
    assert Path(path).read_bytes() == source.read_bytes()
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(host.folder).stat().st_mode) == 0o700
    first = Path(path).stat().st_ino
    assert host.put(source, "target", Deadline(PATIENCE)) == path and Path(path).stat().st_ino == first
    host.put(b"#!/bin/sh\necho ran\n", "target", Deadline(PATIENCE), executable=True)
    assert Path(path).stat().st_ino != first


def test_what_cannot_be_brought_is_told_of(host: SshHost, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        host.put(tmp_path / "missing", "name", Deadline(PATIENCE))
    with pytest.raises(ValueError, match="no bare file name"):
        host.put(b"", "../name", Deadline(PATIENCE))
    (Path(host.folder) / "taken").mkdir()
    with pytest.raises(InfrastructureError, match="cannot be written"):
        host.put(b"", "taken", Deadline(PATIENCE))


def test_a_stream_reaches_a_socket_that_comes_later_and_a_port(host: SshHost, tmp_path: Path) -> None:
    def serve(server: socket.socket) -> None:
        stream, _ = server.accept()
        with stream, server:
            stream.sendall(b"you said " + stream.recv(100))

    path = f"{host.folder}/s"
    unix = socket.socket(socket.AF_UNIX)

    def come_late() -> None:
        unix.bind(path)
        unix.listen()
        serve(unix)

    timer = threading.Timer(0.3, come_late)
    timer.start()
    tcp = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{tcp.getsockname()[1]}"
    threading.Thread(target=serve, args=(tcp,), daemon=True).start()
    for place in (path, address):
        stream = host.connect(place, Deadline(PATIENCE))
        stream.setblocking(True)
        stream.sendall(b"hello")
        assert read_until(stream, b"hello") == b"you said hello"
        stream.settimeout(PATIENCE)
        assert stream.recv(1) == b"", "the end goes through as well"
        stream.close()
    timer.join()


def test_a_stream_to_nobody_is_given_up_at_the_deadline(host: SshHost) -> None:
    with pytest.raises(InfrastructureError, match="nobody accepts a connection to /nowhere/s: No such file"):
        host.connect("/nowhere/s", Deadline(0.2))


def test_the_session_leaves_nothing_behind(sshd: LoopbackSshd, tmp_path: Path) -> None:
    before = sshd.sessions()
    with ssh_host(sshd) as host:
        folder = host.folder
        process = host.start(["sh", "-c", "setsid sleep 600 & exec sleep 600"], log=tmp_path / "log")
        assert Path(folder).is_dir() and lives(process.pid)
    assert not lives(process.pid)
    assert not Path(folder).exists()
    await_truth(lambda: sshd.sessions().keys() <= before.keys())


def test_a_host_can_be_opened_again(sshd: LoopbackSshd) -> None:
    with ssh_host(sshd) as host:
        first = host.folder
    with host:
        assert host.folder != first
        host.run(["true"], Deadline(PATIENCE))
    with pytest.raises(InfrastructureError, match="not in use"):
        host.run(["true"], Deadline(1))


def test_the_tools_are_there_for_others(host: SshHost) -> None:
    result = host.run([host.python, "-I", host.tools(Deadline(1))], Deadline(PATIENCE), check=False)
    assert result.status == 2 and "usage: tools.pyz" in result.errors


# -- hosts that are awkward ------------------------------------------------------------------------------------------


@pytest.fixture
def own_sshd(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LoopbackSshd]:
    with LoopbackSshd(tmp_path / "sshd", options=[request.param]) as running:
        yield running


@pytest.mark.parametrize("own_sshd", [GARBAGE], indirect=True)
def test_what_a_login_shell_prints_is_no_ones_output(own_sshd: LoopbackSshd, tmp_path: Path) -> None:
    with ssh_host(own_sshd) as host:
        assert host.run(["echo", "mine"], Deadline(PATIENCE)).output == b"mine\n"
        assert Path(host.put(b"data", "name", Deadline(PATIENCE))).read_bytes() == b"data"
        process = host.start(["cat"], log=tmp_path / "log", terminal=True)
        process.console.sendall(b"hello")
        assert read_until(process.console, b"hello") == b"hello"
        process.close(Deadline(PATIENCE))


@pytest.mark.parametrize("own_sshd", ["MaxSessions 2"], indirect=True)
def test_more_programs_than_a_connection_admits_go_over_several(own_sshd: LoopbackSshd, tmp_path: Path) -> None:
    with ssh_host(own_sshd) as host:
        processes = [host.start(["cat"], log=tmp_path / "log") for _ in range(4)]
        for process in processes:
            process.console.sendall(b"hello")
            read_until(process.console, b"hello")
        for process in processes:
            process.close(Deadline(PATIENCE))


@pytest.mark.parametrize("own_sshd", ["MaxSessions 0"], indirect=True)
def test_a_host_that_admits_no_session_is_told_of(own_sshd: LoopbackSshd) -> None:
    with pytest.raises(ConfigurationError, match="admits no session"), ssh_host(own_sshd):
        pass


@pytest.mark.parametrize("own_sshd", ["ForceCommand echo 'This account is not available.'; exit 1"], indirect=True)
def test_an_account_that_may_run_nothing_is_told_of(own_sshd: LoopbackSshd) -> None:
    with pytest.raises(ConfigurationError, match="Python does not run there") as caught, ssh_host(own_sshd):
        pass
    assert caught.value.last_lines == ("This account is not available.",)


def test_a_host_without_python_is_told_of(sshd: LoopbackSshd) -> None:
    with pytest.raises(ConfigurationError, match="there is no python9 on it"), ssh_host(sshd, python="python9"):
        pass


def test_a_host_with_an_old_python_is_told_of(sshd: LoopbackSshd, tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\nexec python3 -I -c "import sys; sys.version_info = (3, 8, 2); exec(sys.argv[1])" "$3"\n')
    old.chmod(0o755)
    with pytest.raises(ConfigurationError, match=r"too old: it is Python 3\.8\.2"), ssh_host(sshd, python=str(old)):
        pass


def test_a_folder_that_cannot_be_made_is_told_of(sshd: LoopbackSshd) -> None:
    with pytest.raises(ConfigurationError, match="no folder can be made there: /proc/x: No such"):  # noqa: SIM117
        with ssh_host(sshd, folder="/proc/x"):
            pass


def test_a_folder_is_made_where_the_bench_says(sshd: LoopbackSshd, tmp_path: Path) -> None:
    with ssh_host(sshd, folder=str(tmp_path)) as host:
        assert Path(host.folder).parent == tmp_path
    assert not any(tmp_path.iterdir())


def test_sudo_that_asks_is_told_of(sshd: LoopbackSshd, tmp_path: Path) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    sudo.chmod(0o755)
    path = f'SetEnv "PATH={tmp_path}:{os.environ["PATH"]}"'
    with (
        LoopbackSshd(tmp_path / "sshd", options=[path]) as own,
        pytest.raises(ConfigurationError, match="sudo does not start commands without asking"),
        ssh_host(own, sudo=True),
    ):
        pass


def test_commands_are_started_by_sudo(sshd: LoopbackSshd, tmp_path: Path) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\ntest "$1" = -n && shift && BY_SUDO=yes exec "$@"\n')
    sudo.chmod(0o755)
    path = f'SetEnv "PATH={tmp_path}:{os.environ["PATH"]}"'
    with LoopbackSshd(tmp_path / "sshd", options=[path]) as own, ssh_host(own, sudo=True) as host:
        assert host.run(["sh", "-c", "echo $BY_SUDO"], Deadline(PATIENCE)).output == b"yes\n"


