"""One SSH connection: through all its jumps, the host's key checked, logged in; or an error that says why not."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.known_hosts import KnownKey, fingerprint, keys_of
from harness.hosts.ssh_config import Target

_FEW_TRIES = 3
"""A host that closes the connection after fewer keys than these had another reason to."""

KEEP_ALIVE = 15
"""Seconds: for firewalls between; that the link stands still is noticed by the session's beats, much sooner."""

_SAME_KEY = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
"""What a host with a key of this kind may sign with."""

# Paramiko logs with a traceback what is raised as well, and prints it where no logging is configured.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


class NotReached(InfrastructureError):
    """Nobody answers as an SSH server there, or no more; one that boots may do so later."""

    hint = "is the host on, does its sshd run, is the address right? `./lab bench check --connect` tries each step"


class Link:
    """An authenticated connection, and what it goes through."""

    def __init__(self, transport: paramiko.Transport, through: contextlib.ExitStack) -> None:
        self.transport = transport
        self._through = through
        self.full = False
        """Whether the server admits no further session on it (sshd's MaxSessions)."""

    def close(self) -> None:
        """Close it and all that it goes through. From any thread; idempotent."""
        self.transport.close()
        self._through.close()


def open_link(
    target: Target, deadline: Deadline, *, through: Callable[[str, int, Deadline], Any] | None = None
) -> Link:
    """Connect and log in.

    through: makes the stream to address and port, in place of a TCP connection from here.
    Raises NotReached where trying again may help, ConfigurationError where the user has to mend something.
    """
    deadline = deadline.within(target.connect_timeout)
    with contextlib.ExitStack() as stack:
        make = through
        for jump in target.jumps:
            transport = _logged_in(jump, deadline, make, stack)
            make = forwarder(transport)
        transport = _logged_in(target, deadline, make, stack)
        return Link(transport, stack.pop_all())


def forwarder(transport: paramiko.Transport) -> Callable[[str, int, Deadline], Any]:
    """Makes streams to addresses as that host sees them."""

    def make(address: str, port: int, deadline: Deadline) -> paramiko.Channel:
        try:
            return transport.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=max(0.1, deadline.remaining)
            )
        except paramiko.SSHException as error:
            raise OSError(f"the jump host does not get there: {error}") from error

    return make


def _logged_in(
    target: Target,
    deadline: Deadline,
    make: Callable[[str, int, Deadline], Any] | None,
    stack: contextlib.ExitStack,
) -> paramiko.Transport:
    try:
        stream = reach(target, deadline, make, stack)
    except OSError as error:
        raise NotReached(
            f"{target.shown} is not reached: {error.strerror or error}",
            awaited=f"a connection to {target.address} port {target.port}",
            waited=deadline.elapsed,
        ) from error
    transport = negotiated(target, stream, deadline)
    stack.callback(transport.close)
    check_host_key(target, transport)
    authenticate(target, transport, deadline)
    transport.set_keepalive(KEEP_ALIVE)
    return transport


def reach(
    target: Target,
    deadline: Deadline,
    make: Callable[[str, int, Deadline], Any] | None,
    stack: contextlib.ExitStack,
) -> Any:
    """A stream to the target's port. Raises OSError."""
    if make is not None:
        return make(target.address, target.port, deadline)
    if target.proxy_command is not None:
        return _proxied(target.proxy_command, stack)
    stream = socket.create_connection((target.address, target.port), timeout=max(0.1, deadline.remaining))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def _proxied(command: str, stack: contextlib.ExitStack) -> socket.socket:
    """ssh_config's ProxyCommand, which is a line for a shell by its definition."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    stack.callback(_ended, process)
    return ours


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def negotiated(target: Target, stream: Any, deadline: Deadline) -> paramiko.Transport:
    """The encrypted connection over a stream, nobody logged in yet. Raises NotReached."""
    known = [] if target.host_key is None else [target.host_key]
    if not known:
        known = _known_keys(target)
    try:
        transport = paramiko.Transport(stream)
    except (paramiko.SSHException, OSError) as error:
        stream.close()
        raise _no_server(target, error, deadline) from error
    transport.daemon = True
    patience = max(0.1, deadline.remaining)
    transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = patience
    _prefer(transport, [key.kind for key in known if not key.revoked])
    try:
        transport.start_client(timeout=patience)
    except (paramiko.SSHException, OSError, EOFError) as error:
        transport.close()
        raise _no_server(target, error, deadline) from error
    if not transport.initial_kex_done:
        transport.close()
        raise _no_server(target, None, deadline)
    return transport


def _no_server(target: Target, error: Exception | None, deadline: Deadline) -> NotReached:
    if error is None or "banner" in str(error):
        why = "something accepts the connection and then says nothing that an SSH server would"
    else:
        why = f"the SSH negotiation fails: {error or 'the connection was closed'}"
    return NotReached(
        f"{target.shown}: {why}", awaited=f"the SSH server at {target.shown}", waited=deadline.elapsed
    )


def _prefer(transport: paramiko.Transport, kinds: list[str]) -> None:
    """Ask for a key of a kind that is known first: a host has one of each, and shows the one that is asked for."""
    options = transport.get_security_options()
    wanted = [algorithm for kind in kinds for algorithm in _SAME_KEY.get(kind, (kind,))]
    usual = list(options.key_types)
    first = [algorithm for algorithm in dict.fromkeys(wanted) if algorithm in usual]
    options.key_types = [*first, *(algorithm for algorithm in usual if algorithm not in first)]


# -- the host's key ------------------------------------------------------------------------------------------------


def _known_keys(target: Target) -> list[KnownKey]:
    try:
        return keys_of(target.known_hosts, target.known_names)
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be read: {error.strerror}") from error


def check_host_key(target: Target, transport: paramiko.Transport) -> str:
    """The fingerprint of the host's key, which is one that is known. Raises ConfigurationError saying what to do."""
    shown = transport.get_remote_server_key()
    kind, data = shown.get_name(), shown.asbytes()
    known = [target.host_key] if target.host_key is not None else _known_keys(target)
    line = f"{kind} {shown.get_base64()}"
    if any(key.revoked and key.data == data for key in known):
        raise ConfigurationError(
            f"{target.shown} shows a host key that is revoked in {_places(known)}: {kind} {fingerprint(data)}",
            hint="somebody else may have this key; find out who answers there before anything else",
        )
    known = [key for key in known if not key.revoked]
    if any(key.data == data for key in known):
        return fingerprint(data)
    file = target.known_hosts[0] if target.known_hosts else Path("~/.ssh/known_hosts")
    told = f"compare it with what the host itself says (on its own console: {_ASK.format(kind=_short(kind))})"
    if not known:
        raise ConfigurationError(
            f"the host key of {target.shown} is not known: it shows {kind} {fingerprint(data)}, and {_nowhere(target)}",
            hint=f"{told}, then add this line to {file}:\n{target.known_names[0]} {line}\n"
            f"or write in the bench file\nhost_key: {line}",
        )
    if target.host_key is not None:
        mend = f"write in the bench file\nhost_key: {line}"
    else:
        removed = "; ".join(f"ssh-keygen -f {file} -R '{name}'" for name in target.known_names[:1])
        mend = f"{removed}\nand add this line to {file}:\n{target.known_names[0]} {line}"
    raise ConfigurationError(
        f"the host key of {target.shown} is another one than is known: it shows {kind} {fingerprint(data)};"
        f" known is {', '.join(f'{key.kind} {key.fingerprint} ({key.where})' for key in known)}",
        hint=f"somebody else may answer there. If the host was installed anew, {told}, then {mend}",
    )


_ASK = "ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub"


def _short(kind: str) -> str:
    return "ecdsa" if kind.startswith("ecdsa") else kind.removeprefix("ssh-")


def _nowhere(target: Target) -> str:
    names = " or ".join(target.known_names)
    return f"{', '.join(str(file) for file in target.known_hosts)} has none for {names}"


def _places(keys: list[KnownKey]) -> str:
    return ", ".join(key.where for key in keys if key.revoked)


# -- who we are ----------------------------------------------------------------------------------------------------


def authenticate(target: Target, transport: paramiko.Transport, deadline: Deadline) -> str:
    """Log in; returns by what. Raises ConfigurationError when nothing is accepted, NotReached when the link ends."""
    tried: list[str] = []
    for what, attempt in _ways_in(target, transport):
        tried.append(what)
        try:
            further = attempt()
        except (paramiko.SSHException, OSError, EOFError):
            if transport.is_active():
                continue
            break
        if transport.is_authenticated():
            return what
        tried[-1] += f" (accepted, but the host wants {' or '.join(further) or 'more'} as well)"
    said = transport.get_banner()
    words = said.decode("utf-8", "replace").strip().splitlines() if said else []
    refused = len(tried) >= _FEW_TRIES or transport.is_active()
    if not refused or deadline.expired or any("boot" in line.lower() or "nologin" in line.lower() for line in words):
        raise NotReached(
            f"{target.shown} ended the connection at the login, or lets nobody in yet",
            awaited="the login",
            waited=deadline.elapsed,
            last_lines=words,
        )
    cut = "" if transport.is_active() else "; the host closed the connection after that"
    raise ConfigurationError(
        f"{target.shown} accepts none of what there is to log in with: {', '.join(tried) or 'nothing'}{cut}",
        last_lines=words,
        hint=f"put the public key into ~{target.user}/.ssh/authorized_keys there, name it as `identity` (alone it is"
        " tried before the host has enough), or give password_env or password_file; is the user right?",
    )


def _ways_in(target: Target, transport: paramiko.Transport) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    user = target.user
    for path in target.identities:
        key = _key(path, target.passphrase)
        yield f"the key {path}", functools.partial(transport.auth_publickey, user, key)
    if target.use_agent and os.environ.get("SSH_AUTH_SOCK"):
        agent = paramiko.Agent()
        try:
            for held in agent.get_keys():
                name = getattr(held, "comment", "") or held.get_name()
                yield f"the agent's key {name}", functools.partial(transport.auth_publickey, user, held)
        finally:
            agent.close()
    for path in target.other_identities:
        if not path.exists():
            continue
        try:
            key = _key(path, target.passphrase)
        except ConfigurationError:
            continue  # nobody named it: it is one of those that may be there
        yield f"the key {path}", functools.partial(transport.auth_publickey, user, key)
    password = target.password
    if password is not None:
        yield "the password", functools.partial(transport.auth_password, user, password)


def _key(path: Path, passphrase: str | None) -> paramiko.PKey:
    """A private key. Raises ConfigurationError with what is wrong with it."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"{path} is a private key and others may read it", hint=f"chmod 600 {path}")
        return load_key(path, passphrase)
    except OSError as error:
        raise ConfigurationError(f"the key {path} cannot be read: {error.strerror or error}") from error
    except (paramiko.SSHException, ValueError, TypeError) as error:
        encrypted = isinstance(error, paramiko.PasswordRequiredException | TypeError) or "assw" in str(error)
        if encrypted and passphrase is None:
            raise ConfigurationError(
                f"the key {path} has a passphrase",
                hint="name the environment variable that has it as key_passphrase_env, or have ssh-agent hold the key",
            ) from error
        hint = "is the passphrase right?" if passphrase is not None else "is it a private key (RSA, ECDSA, Ed25519)?"
        raise ConfigurationError(f"the key {path} cannot be used: {error}", hint=hint) from error


def load_key(path: Path, passphrase: str | None) -> paramiko.PKey:
    """A private key of any kind, with its certificate where one lies beside it."""
    secret = None if passphrase is None else passphrase.encode()
    load: Any = paramiko.PKey.from_path  # whose second argument changed its name and its type
    try:
        return load(path, secret)  # type: ignore[no-any-return]
    except (TypeError, AttributeError):
        if passphrase is None:
            raise
        return load(path, passphrase)  # type: ignore[no-any-return]
