"""The way into a host: names, jumps, its key, our keys; every way in which it fails says whose fault it is."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL

from harness.bench import SshHostSpec
from harness.deadline import Deadline
from harness.errors import BenchError, ConfigurationError
from harness.hosts.ssh import SshHost
from harness.hosts.ssh_config import resolve
from harness.hosts.ssh_link import NotReached, open_link
from harness.rehearsal.loopback import LoopbackSshd
from tests.ssh_support import PATIENCE, Proxy, needs_sshd, proxy, spec_of, ssh_host, sshd

__all__ = ["proxy", "sshd"]
pytestmark = needs_sshd


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def public(path: Path) -> str:
    return " ".join(path.with_name(f"{path.name}.pub").read_text(encoding="ascii").split()[:2])


def plain_spec(sshd: LoopbackSshd, **keys: object) -> SshHostSpec:
    """A bench file that says all by itself, without an ssh_config."""
    known = {} if "host_key" in keys else {"known_hosts": sshd.keys.known_hosts}
    return SshHostSpec.model_validate(
        {
            "kind": "ssh",
            "address": "127.0.0.1",
            "port": sshd.port,
            "identity": sshd.keys.identity,
            "connect_timeout": 20,
            **known,
            **keys,
        }
    )


def failure(spec: SshHostSpec, override: tuple[str, int] | None = None) -> BenchError:
    with pytest.raises(BenchError) as caught:
        open_link(resolve(spec, override=override), Deadline(PATIENCE)).close()
    return caught.value


def opens(spec: SshHostSpec) -> bool:
    link = open_link(resolve(spec), Deadline(PATIENCE))
    link.close()
    return True


@pytest.fixture(autouse=True)
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's keys, agent and ssh_config."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


# -- its key -------------------------------------------------------------------------------------------------------


def test_a_host_whose_key_is_not_known_is_not_spoken_to_and_the_line_to_add_is_told(
    sshd: LoopbackSshd, tmp_path: Path
) -> None:
    known = tmp_path / "known"
    known.touch()
    spec = plain_spec(sshd, known_hosts=known)
    error = failure(spec)
    assert isinstance(error, ConfigurationError)
    name, key = f"[127.0.0.1]:{sshd.port}", public(sshd.keys.host_key)
    assert "is not known" in str(error) and "SHA256:" in str(error) and f"{name} {key}" in error.hint
    # what it says mends it
    known.write_text(f"{name} {key}\n", encoding="ascii")
    assert opens(spec)
    assert opens(plain_spec(sshd, host_key=key))


def test_a_host_with_another_key_than_is_known_is_not_spoken_to(sshd: LoopbackSshd, tmp_path: Path) -> None:
    other = public(make_key(tmp_path / "other"))
    known = tmp_path / "known"
    known.write_text(f"# mine\n[127.0.0.1]:{sshd.port} {other}\n", encoding="ascii")
    error = failure(plain_spec(sshd, known_hosts=known))
    assert isinstance(error, ConfigurationError)
    assert "is another one than is known" in str(error) and f"{known}:2" in str(error)
    assert f"ssh-keygen -f {known} -R '[127.0.0.1]:{sshd.port}'" in error.hint
    error = failure(plain_spec(sshd, host_key=other))
    assert "is another one than is known" in str(error) and "the bench file's host_key" in str(error)


def test_a_key_that_was_revoked_is_not_accepted(sshd: LoopbackSshd, tmp_path: Path) -> None:
    key = public(sshd.keys.host_key)
    known = tmp_path / "known"
    known.write_text(f"127.0.0.1 {key}\n@revoked * {key}\n", encoding="ascii")
    assert "is revoked" in str(failure(plain_spec(sshd, known_hosts=known)))


@pytest.mark.parametrize("hashed", [False, True])
def test_known_hosts_is_read_as_openssh_writes_it(sshd: LoopbackSshd, tmp_path: Path, hashed: bool) -> None:
    known = tmp_path / "known"
    known.write_text(f"other,[127.0.0.*]:{sshd.port} {public(sshd.keys.host_key)} words\n", encoding="ascii")
    if hashed:
        known.write_text(f"[127.0.0.1]:{sshd.port} {public(sshd.keys.host_key)}\n", encoding="ascii")
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
        assert "127.0.0.1" not in known.read_text(encoding="ascii")
    assert opens(plain_spec(sshd, known_hosts=known))
    known.write_text(f"*,!127.0.0.1,![127.0.0.1]:* {public(sshd.keys.host_key)}\n", encoding="ascii")
    assert "is not known" in str(failure(plain_spec(sshd, known_hosts=known)))


def test_a_host_with_several_keys_is_asked_for_the_one_that_is_known(tmp_path: Path) -> None:
    rsa = make_key(tmp_path / "rsa", kind="rsa")
    with LoopbackSshd(tmp_path / "sshd", options=[f"HostKey {rsa}"]) as own:
        assert opens(plain_spec(own, host_key=public(rsa)))
        assert opens(plain_spec(own, host_key=public(own.keys.host_key)))


# -- our keys ------------------------------------------------------------------------------------------------------


def test_a_key_that_the_host_does_not_accept_is_told_of(sshd: LoopbackSshd, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    error = failure(plain_spec(sshd, identity=other, host_key=public(sshd.keys.host_key)))
    assert isinstance(error, ConfigurationError)
    assert f"accepts none of what there is to log in with: the key {other}" in str(error)
    assert "authorized_keys" in error.hint


def test_nothing_to_log_in_with_is_told_of(sshd: LoopbackSshd) -> None:
    error = failure(plain_spec(sshd, identity=None, host_key=public(sshd.keys.host_key)))
    assert "nothing" in str(error) and isinstance(error, ConfigurationError)


def test_a_wrong_password_is_told_of_and_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_PASSWORD", "wr0ng-pa55word")
    with LoopbackSshd(tmp_path / "sshd", options=["PasswordAuthentication yes"]) as own:
        keys = {"identity": None, "host_key": public(own.keys.host_key), "password_env": "BENCH_PASSWORD"}
        spec = plain_spec(own, **keys)
        error = failure(spec)
    assert isinstance(error, ConfigurationError) and "the password" in str(error)
    assert "wr0ng" not in str(error) and "wr0ng" not in repr(resolve(spec))


class _Server(paramiko.ServerInterface):
    def check_auth_password(self, username: str, password: str) -> int:
        return AUTH_SUCCESSFUL if password == "right" else AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "password"


def test_a_password_lets_in(sshd: LoopbackSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_PASSWORD", "right")
    key = make_key(tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            transport = paramiko.Transport(server.accept()[0])
            transport.add_server_key(paramiko.Ed25519Key(filename=str(key)))
            transport.start_server(server=_Server())
            transport.join()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        keys = {"identity": None, "host_key": public(key), "password_env": "BENCH_PASSWORD"}
        assert opens(plain_spec(sshd, **{**keys, "port": server.getsockname()[1]}))
        thread.join(PATIENCE)


def test_a_key_with_a_passphrase_wants_it(sshd: LoopbackSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked"
    shutil.copy(sshd.keys.identity, locked)
    locked.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", locked], check=True, stdout=-3)
    spec = plain_spec(sshd, identity=locked, host_key=public(sshd.keys.host_key))
    error = failure(spec)
    assert isinstance(error, ConfigurationError) and "has a passphrase" in str(error)
    monkeypatch.setenv("PASSPHRASE", "wrong")
    spec = spec.model_copy(update={"key_passphrase_env": "PASSPHRASE"})
    assert "cannot be used" in str(failure(spec))
    monkeypatch.setenv("PASSPHRASE", "open sesame")
    assert opens(spec)


def test_a_key_that_others_may_read_or_that_is_none_is_told_of(sshd: LoopbackSshd, tmp_path: Path) -> None:
    spec = plain_spec(sshd, host_key=public(sshd.keys.host_key))
    key = tmp_path / "key"
    key.write_text("no key", encoding="ascii")
    key.chmod(0o600)
    assert "cannot be used" in str(failure(spec.model_copy(update={"identity": key})))
    key.chmod(0o644)
    error = failure(spec.model_copy(update={"identity": key}))
    assert "others may read it" in str(error) and error.hint == f"chmod 600 {key}"


def test_the_agents_keys_are_tried(sshd: LoopbackSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sock = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(sock)], stdout=subprocess.DEVNULL) as agent:
        try:
            deadline = Deadline(PATIENCE)
            while not sock.exists():
                assert not deadline.expired
            monkeypatch.setenv("SSH_AUTH_SOCK", str(sock))
            subprocess.run(["ssh-add", "-q", str(sshd.keys.identity)], check=True)
            assert opens(plain_spec(sshd, identity=None, host_key=public(sshd.keys.host_key)))
        finally:
            agent.kill()


# -- the way -------------------------------------------------------------------------------------------------------


def test_ssh_config_says_what_the_bench_does_not(sshd: LoopbackSshd, no_home: Path) -> None:
    folder = no_home / ".ssh"
    (folder / "config").write_text("Include more/*\nHost *\n  Port 1\n", encoding="ascii")
    (folder / "more").mkdir()
    (folder / "more" / "one").write_text(
        f"Host bench\n HostName 127.0.0.1\n Port {sshd.port}\n IdentityFile {sshd.keys.identity}\n"
        f" UserKnownHostsFile {sshd.keys.known_hosts}\n HostKeyAlias rehearsal\n User {getpass.getuser()}\n",
        encoding="ascii",
    )
    assert opens(SshHostSpec(kind="ssh", address="bench"))
    assert resolve(SshHostSpec(kind="ssh", address="bench", port=7)).port == 7
    assert resolve(SshHostSpec(kind="ssh", address="other")).port == 1


def test_a_host_behind_jumps_is_reached_through_them(sshd: LoopbackSshd, tmp_path: Path) -> None:
    with LoopbackSshd(tmp_path / "jump") as jump:
        config = tmp_path / "config"
        config.write_text(
            sshd.keys.ssh_config.read_text(encoding="ascii")
            + jump.keys.ssh_config.read_text(encoding="ascii").replace("Host rehearsal", "Host jump"),
            encoding="ascii",
        )
        config.write_text(config.read_text() + "Host far\n ProxyJump jump\n HostName 127.0.0.1\n", encoding="ascii")
        before = jump.log.read_text(encoding="utf-8")
        spec = spec_of(sshd, ssh_config=config, proxy_jump="jump")
        with SshHost(spec) as host:
            assert host.run(["echo", "far"], Deadline(PATIENCE)).output == b"far\n"
        assert "Accepted publickey" in jump.log.read_text(encoding="utf-8")[len(before) :]
        # a jump host is checked like any other
        jump.keys.known_hosts.write_text("", encoding="ascii")
        assert "the host key of" in str(failure(spec)) and "jump" in str(failure(spec))
    assert isinstance(failure(spec), NotReached)


def test_a_proxy_command_makes_the_stream(sshd: LoopbackSshd, tmp_path: Path) -> None:
    script = "import socket,sys,threading,os;s=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n"
    script += "def up():\n  while d:=os.read(0,65536): s.sendall(d)\n"
    script += "threading.Thread(target=up,daemon=True).start()\nwhile d:=s.recv(65536): os.write(1,d)\n"
    (tmp_path / "relay.py").write_text(script, encoding="ascii")
    config = tmp_path / "config"
    text = sshd.keys.ssh_config.read_text(encoding="ascii").replace("127.0.0.1", "nowhere.invalid")
    config.write_text(f"{text}  ProxyCommand python3 {tmp_path / 'relay.py'} %p\n", encoding="ascii")
    with ssh_host(sshd, ssh_config=config) as host:
        assert host.run(["echo", "there"], Deadline(PATIENCE)).output == b"there\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [("Match exec\n", "cannot be read as an ssh_config"), ("Host x\n nonsense", "cannot be read as an ssh_config")],
)
def test_an_ssh_config_that_is_none_is_told_of(text: str, why: str, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(text, encoding="ascii")
    with pytest.raises(ConfigurationError, match=why):
        resolve(SshHostSpec(kind="ssh", address="x", ssh_config=config))


# -- nobody there --------------------------------------------------------------------------------------------------


@pytest.fixture
def dumb() -> Iterator[socket.socket]:
    """Accepts, and says nothing: QEMU's forwarded port while the machine boots."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_port_that_refuses_and_a_name_without_address_may_be_a_host_that_boots(sshd: LoopbackSshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert isinstance(failure(plain_spec(sshd, port=port)), NotReached)
    assert isinstance(failure(plain_spec(sshd, address="no-such-host.invalid")), NotReached)


def test_who_accepts_and_says_nothing_is_given_up_in_time(sshd: LoopbackSshd, dumb: socket.socket) -> None:
    error = failure(plain_spec(sshd, connect_timeout=1), ("127.0.0.1", dumb.getsockname()[1]))
    assert isinstance(error, NotReached) and "says nothing that an SSH server would" in str(error)


def test_who_shows_a_banner_and_stalls_is_given_up_in_time(sshd: LoopbackSshd, dumb: socket.socket) -> None:
    held = []

    def serve() -> None:
        stream = dumb.accept()[0]
        stream.sendall(b"SSH-2.0-OpenSSH_9.0\r\n")
        held.append(stream)

    threading.Thread(target=serve, daemon=True).start()
    error = failure(plain_spec(sshd, connect_timeout=1), ("127.0.0.1", dumb.getsockname()[1]))
    assert isinstance(error, NotReached)
    held[0].close()


def test_what_is_no_ssh_server_is_told_of(sshd: LoopbackSshd, dumb: socket.socket) -> None:
    def serve() -> None:
        with dumb.accept()[0] as stream:
            stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    threading.Thread(target=serve, daemon=True).start()
    assert isinstance(failure(plain_spec(sshd), ("127.0.0.1", dumb.getsockname()[1])), NotReached)


def test_a_host_that_boots_is_awaited_and_one_that_does_not_is_given_up(tmp_path: Path, dumb: socket.socket) -> None:
    with LoopbackSshd(tmp_path / "sshd") as own:
        port, spec = own.port, spec_of(own)
    late = LoopbackSshd(tmp_path / "sshd", port=port)
    host = SshHost(spec)
    with pytest.raises(NotReached, match="rehearsal"):
        host.open(Deadline(0.5), booting=True)
    timer = threading.Timer(0.7, late.start)
    timer.start()
    try:
        host.open(Deadline(PATIENCE), booting=True)
        host.close(Deadline(PATIENCE))
    finally:
        timer.join()
        late.stop()


def test_a_link_that_stalls_before_the_session_is_up_is_given_up(
    sshd: LoopbackSshd, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.hosts.ssh.START_TIMEOUT", 0.5)

    def stalled(*_: object) -> bytes:
        proxy.stall()
        return b""

    monkeypatch.setattr("harness.hosts.ssh.first_words", stalled)
    with pytest.raises(BenchError), ssh_host(sshd, proxy):
        pass
