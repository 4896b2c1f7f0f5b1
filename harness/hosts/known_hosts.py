"""The keys by which hosts are known: OpenSSH's known_hosts files, read as OpenSSH reads them."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class KnownKey:
    """A key that a file (or the bench) has for a host."""

    kind: str
    data: bytes
    where: str
    revoked: bool = False

    @property
    def fingerprint(self) -> str:
        """As OpenSSH shows it."""
        return fingerprint(self.data)


def fingerprint(data: bytes) -> str:
    """A public key's fingerprint as OpenSSH shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def parse_key(text: str, where: str) -> KnownKey:
    """A key as it stands in a line: `ssh-ed25519 AAAA...`. Raises ValueError when it is none."""
    fields = text.split()
    if len(fields) < 2:
        raise ValueError("it has no key in it")
    try:
        data = base64.b64decode(fields[1], validate=True)
    except binascii.Error:
        raise ValueError("the key is not base64") from None
    kind = fields[0].encode()
    if data[:4] != len(kind).to_bytes(4, "big") or data[4 : 4 + len(kind)] != kind:
        raise ValueError(f"the key is none of kind {fields[0]}")
    return KnownKey(fields[0], data, where)


def known_name(name: str, port: int) -> str:
    """How known_hosts calls a host: its name, with the port where that is not 22."""
    return name if port == 22 else f"[{name}]:{port}"


def keys_of(files: Iterable[Path], names: Sequence[str]) -> list[KnownKey]:
    """The keys that the files have for a host of these names; lines that are none are passed over, as ssh does.

    A certificate authority's line is no host's key: hosts that only show a certificate are not known by it here.
    Raises OSError when a file is there and cannot be read.
    """
    found = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            fields = line.split()
            marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
            if len(fields) < 3 or fields[0].startswith("#") or marker not in {"", "@revoked"}:
                continue
            if not any(_matches(fields[0], name) for name in names):
                continue
            try:
                key = parse_key(" ".join(fields[1:3]), f"{file}:{number}")
            except ValueError:
                continue
            found.append(KnownKey(key.kind, key.data, key.where, revoked=marker == "@revoked"))
    return found


def _matches(patterns: str, name: str) -> bool:
    matched = False
    for pattern in patterns.lower().split(",") if not patterns.startswith("|1|") else [patterns]:
        if pattern.startswith("|1|"):
            matched = matched or _is_hash_of(pattern, name)
        elif pattern.startswith("!"):
            if _fits(pattern[1:], name):
                return False
        else:
            matched = matched or _fits(pattern, name)
    return matched


def _fits(pattern: str, name: str) -> bool:
    # Brackets are part of "[host]:port" there, not a choice of characters.
    return fnmatch.fnmatchcase(name.lower(), pattern.replace("[", "[[]"))


def _is_hash_of(pattern: str, name: str) -> bool:
    _, _, salt, digest = (*pattern.split("|"), "", "")[:4]
    try:
        expected = base64.b64decode(digest, validate=True)
        made = hmac.new(base64.b64decode(salt, validate=True), name.lower().encode(), hashlib.sha1).digest()
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(made, expected)
