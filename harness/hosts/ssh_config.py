"""Where a host's SSH is and who it takes us for: the bench's words first, then ssh_config's, then SSH's own."""

from __future__ import annotations

import getpass
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko

from harness.bench import SshLogin
from harness.errors import ConfigurationError
from harness.hosts.known_hosts import KnownKey, known_name, parse_key
from harness.secrets import read_secret

_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_MOST_INCLUDES = 16
_MOST_JUMPS = 8


@dataclass(frozen=True)
class Target:
    """One host to log in at, all questions answered."""

    name: str
    """As the bench, or whoever jumps there, calls it."""

    address: str
    port: int
    user: str
    identities: tuple[Path, ...]
    """Private keys that were named; each must be there."""

    other_identities: tuple[Path, ...]
    """Private keys that may be there."""

    use_agent: bool
    known_names: tuple[str, ...]
    known_hosts: tuple[Path, ...]
    """The first one is where a new key is to be written to."""

    host_key: KnownKey | None
    jumps: tuple[Target, ...]
    proxy_command: str | None
    connect_timeout: float
    password: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """How messages call it."""
        where = self.name if self.name == self.address else f"{self.name} ({self.address})"
        return f"{self.user}@{where}" if self.port == 22 else f"{self.user}@{where} port {self.port}"


def resolve(spec: SshLogin, *, override: tuple[str, int] | None = None) -> Target:
    """The host of a bench file. override: where it is to be reached, whatever its name says.

    Raises ConfigurationError for an ssh_config that cannot be read and for secrets that are not there.
    """
    details: dict[str, Any] = {name: getattr(spec, name) for name in ("address", "port")}
    config = _read_config(getattr(spec, "ssh_config", None))
    alias = details["address"]
    words = config.lookup(alias)
    address, port = words.get("hostname", alias), details["port"] or int(words.get("port", 22))
    names = _known_names(words, alias, address, port)
    if override is not None:
        address, port = override
    jump = None if override is not None else getattr(spec, "proxy_jump", None) or words.get("proxyjump")
    host_key = None
    if spec.host_key is not None:
        try:
            host_key = parse_key(spec.host_key, "the bench file's host_key")
        except ValueError as error:
            raise ConfigurationError(f"host_key of {alias}: {error}") from error
    identities = (spec.identity,) if spec.identity is not None else ()
    return Target(
        name=alias,
        address=address,
        port=port,
        user=spec.user or words.get("user") or _own_name(),
        identities=identities,
        other_identities=() if identities else _identities(words),
        use_agent=not (identities or _says(words, "identitiesonly")),
        known_names=names,
        known_hosts=_known_hosts(spec.known_hosts, words),
        host_key=host_key,
        jumps=_jumps(jump, spec, config, alias),
        proxy_command=None if jump or override is not None else _proxy_command(words),
        connect_timeout=spec.connect_timeout,
        password=read_secret(spec.password_env, spec.password_file),
        passphrase=read_secret(spec.key_passphrase_env, None),
    )


def _jumps(text: str | None, spec: SshLogin, config: paramiko.SSHConfig, alias: str) -> tuple[Target, ...]:
    """The hosts to go through, in order; each is known, and logged in at, by its own words in ssh_config."""
    if not text or text.lower() == "none":
        return ()
    found: list[Target] = []
    for part in text.split(","):
        user, name, port = _jump_parts(part.strip(), alias)
        words = config.lookup(name)
        address, number = words.get("hostname", name), port or int(words.get("port", 22))
        further = words.get("proxyjump") if not found else None
        before = _jumps(further, spec, config, name) if further and name != alias else ()
        found += before
        identities = _identities(words)
        found.append(
            Target(
                name=name,
                address=address,
                port=number,
                user=user or words.get("user") or spec.user or _own_name(),
                identities=(),
                other_identities=(*((spec.identity,) if spec.identity else ()), *identities),
                use_agent=not _says(words, "identitiesonly"),
                known_names=_known_names(words, name, address, number),
                known_hosts=_known_hosts(spec.known_hosts, words),
                host_key=None,
                jumps=(),
                proxy_command=None,
                connect_timeout=spec.connect_timeout,
                passphrase=read_secret(spec.key_passphrase_env, None),
            )
        )
        if len(found) > _MOST_JUMPS:
            raise ConfigurationError(f"the way to {alias} has more than {_MOST_JUMPS} jumps: does it go in a circle?")
    return tuple(found)


def _jump_parts(text: str, alias: str) -> tuple[str | None, str, int | None]:
    text = text.removeprefix("ssh://")
    user, _, place = text.rpartition("@")
    match = re.fullmatch(r"\[([^\]]+)\](?::(\d{1,5}))?|([^:\[\]]+)(?::(\d{1,5}))?|([0-9a-fA-F:]+)", place)
    if match is None:
        raise ConfigurationError(f"the jump {text!r} on the way to {alias} is not [USER@]HOST[:PORT]")
    port = match[2] or match[4]
    return user or None, match[1] or match[3] or match[5], int(port) if port else None


def _known_names(words: paramiko.SSHConfigDict, name: str, address: str, port: int) -> tuple[str, ...]:
    """The names by which its key may be known, the one to write first."""
    alias = words.get("hostkeyalias")
    if alias:
        return (str(alias),)
    return tuple(dict.fromkeys([known_name(address, port), address, known_name(name, port)]))


def _proxy_command(words: paramiko.SSHConfigDict) -> str | None:
    command = words.get("proxycommand")
    return None if command is None or command.lower() == "none" else str(command)


def _says(words: paramiko.SSHConfigDict, key: str) -> bool:
    return str(words.get(key, "no")).lower() == "yes"


def _own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise ConfigurationError("this user has no name here, and the bench file names none: add `user`") from error


def _identities(words: paramiko.SSHConfigDict) -> tuple[Path, ...]:
    named = words.get("identityfile")
    if named:
        return tuple(Path(name).expanduser() for name in named if name.lower() != "none")
    return tuple(Path.home() / ".ssh" / name for name in _DEFAULT_KEYS)


def _known_hosts(named: Path | None, words: paramiko.SSHConfigDict) -> tuple[Path, ...]:
    if named is not None:
        return (named,)
    named_there = words.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
    # Of a quoted name paramiko has taken the quotes away.
    own = [named_there] if Path(named_there).expanduser().exists() else shlex.split(named_there)
    return tuple(Path(name).expanduser() for name in (*own, *_GLOBAL_KNOWN_HOSTS))


# -- the file ------------------------------------------------------------------------------------------------------


def _read_config(named: Path | None) -> paramiko.SSHConfig:
    """The file that is named, or ~/.ssh/config where there is one, with what it includes."""
    path = named or Path.home() / ".ssh" / "config"
    if named is None and not path.exists():
        return paramiko.SSHConfig()
    try:
        text = "\n".join(_lines(path, path.parent if named is not None else Path.home() / ".ssh", 0))
        return paramiko.SSHConfig.from_text(text)
    except (OSError, paramiko.ConfigParseError) as error:
        raise ConfigurationError(f"{path} cannot be read as an ssh_config: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text") from error


def _lines(path: Path, folder: Path, depth: int) -> Iterator[str]:
    """The file's lines, with those of included files in their place: paramiko knows no Include."""
    block = "Host *"
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() in {"host", "match"}:
            block = line
        if word.lower() != "include":
            yield line
            continue
        if depth >= _MOST_INCLUDES:
            raise ConfigurationError(f"{path}: files include one another without end")
        for included in _included(shlex.split(rest), folder):
            yield from _lines(included, folder, depth + 1)
        yield block


def _included(patterns: Sequence[str], folder: Path) -> Iterator[Path]:
    for pattern in patterns:
        whole = folder / Path(pattern).expanduser()
        yield from sorted(Path("/").glob(str(whole.absolute()).lstrip("/")))
