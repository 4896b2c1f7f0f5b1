"""The keys of a rehearsal's host: the host's own, known beforehand, and the user's, made anew for each folder."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigurationError, InfrastructureError

ALIAS = "rehearsal"
"""What the folder's ssh_config calls the host; its key is known by this name, whatever port it has."""

_TIMEOUT = 30.0


@dataclass(frozen=True)
class Keys:
    """Files in a rehearsal's folder."""

    folder: Path

    @property
    def identity(self) -> Path:
        """The user's private key."""
        return self.folder / "id_ed25519"

    @property
    def authorized(self) -> Path:
        """The user's public key."""
        return self.folder / "id_ed25519.pub"

    @property
    def host_key(self) -> Path:
        """The host's private key."""
        return self.folder / "host_key"

    @property
    def known_hosts(self) -> Path:
        """The file by which the host is known."""
        return self.folder / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        """How ssh, and the harness, reach the host: `ssh -F FILE rehearsal`."""
        return self.folder / "ssh_config"


def make_keys(folder: Path) -> Keys:
    """The keys in this folder, made where they are not there; the folder is the owner's alone.

    Raises ConfigurationError without ssh-keygen, InfrastructureError when it fails, OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    keys = Keys(folder)
    for path in (keys.identity, keys.host_key):
        if not (path.exists() and path.with_name(f"{path.name}.pub").exists()):
            path.unlink(missing_ok=True)
            _make_key(path)
    public = keys.host_key.with_name("host_key.pub").read_text(encoding="ascii").split()
    keys.known_hosts.write_text(f"{ALIAS} {public[0]} {public[1]}\n", encoding="ascii")
    return keys


def write_ssh_config(keys: Keys, port: int, user: str) -> None:
    """Says where the host is: on this machine's loopback, at this port. Raises OSError."""
    unfinished = keys.ssh_config.with_name("ssh_config.new")
    unfinished.write_text(
        f"Host {ALIAS}\n"
        f"  HostName 127.0.0.1\n  Port {port}\n  User {user}\n  HostKeyAlias {ALIAS}\n"
        f"  IdentityFile {_quoted(keys.identity)}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {_quoted(keys.known_hosts)}\n  StrictHostKeyChecking yes\n",
        encoding="utf-8",
    )
    unfinished.replace(keys.ssh_config)


def _quoted(path: Path) -> str:
    text = str(path.absolute())
    return f'"{text}"' if " " in text else text


def _make_key(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rehearsal", "-f", str(path)]
    try:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT, check=True
        )
    except FileNotFoundError as error:
        hint = "install the package openssh-client (./lab does)"
        raise ConfigurationError("ssh-keygen is missing; a rehearsal's keys are made by it", hint=hint) from error
    except subprocess.CalledProcessError as error:
        raise InfrastructureError(f"ssh-keygen failed for {path}", last_lines=error.stderr.splitlines()[-5:]) from error
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(f"ssh-keygen did not end for {path}", waited=error.timeout) from error
