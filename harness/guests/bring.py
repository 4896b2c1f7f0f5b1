"""Brings a program into a guest through a shell on its console, whole or not at all, with whatever the guest has."""

from __future__ import annotations

import base64
import gzip
import hashlib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests.login import Shell

log = logging.getLogger(__name__)

_LINE = 76
_CHUNK = 100 * (_LINE + 1)
"""Bytes at once. What a terminal holds for a reader that is not there yet is 4 KiB, and a driver's buffer before it."""

_TYPED = 700
"""Bytes in one command, where the guest's shell has to make them itself: a terminal's line has 4095 characters."""

_TRIES = 5
_PLACES = "/run /dev/shm /tmp /var/tmp /root /dev"
_FIND_A_PLACE = (
    f"w=; for d in {_PLACES}; do rm -f $d/.rtc-agent-* 2>/dev/null; f=$d/.rtc-agent-$$; "
    "{ printf '#!/bin/sh\\nexit 0\\n' >$f; } 2>/dev/null || continue; chmod 700 $f; "
    "if $f 2>/dev/null; then echo $f x; exit; fi; "
    'if [ -z "$w" ]; then w=$f; else rm -f $f; fi; done; echo $w -'
)
_DECODERS = (
    ("base64", "base64 -d"),
    ("openssl", "openssl base64 -d"),
    ("python3", "python3 -c 'import base64,sys; sys.stdout.buffer.write(base64.b64decode(sys.stdin.read()))'"),
)
_NEEDS = "the guest needs a sha256sum, md5sum or cksum (coreutils or busybox), and to print what it is told to"


@dataclass(frozen=True)
class Place:
    """A path in the guest that a program can be written to; executable: and be started from."""

    path: str
    executable: bool


def find_place(shell: Shell, deadline: Deadline) -> Place:
    """The best there is. Raises InfrastructureError where nothing can be written anywhere, and as Shell.ask."""
    path, _, how = shell.ask(_FIND_A_PLACE, deadline).rpartition(" ")
    if not path.startswith("/"):
        raise InfrastructureError(
            f"nothing can be written to any of {_PLACES} in the guest",
            hint="mount a tmpfs on one of them",
        )
    return Place(path, how == "x")


def push(shell: Shell, program: bytes, deadline: Deadline, place: Place | None = None) -> str:
    """Brings a program into the guest, whole, and returns its path there.

    place: where to; None: to one that it can be started from. Raises InfrastructureError where there is no such place,
    or the guest damages what it is sent again and again; and as Shell.ask.
    """
    started = time.monotonic()
    if place is None and not (place := find_place(shell, deadline)).executable:
        raise InfrastructureError(
            f"the guest lets no program be started from any of {_PLACES}",
            hint="mount one of them without noexec",
        )
    path = place.path
    compare = _comparison(shell)
    packed = gzip.compress(program, 9, mtime=0) if "gzip" in shell.tools else program
    ways: list[Callable[[], list[str]]] = []
    decoder = next((command for tool, command in _DECODERS if tool in shell.tools), None)
    taker = "head -c" if "head" in shell.tools else "dd bs=1 count=" if "dd" in shell.tools else None
    if decoder is not None and taker is not None:
        ways.append(lambda: _send_encoded(shell, path, packed, (decoder, taker), compare, deadline))
    ways.append(lambda: _type(shell, path, packed, compare, deadline))
    for number, way in enumerate(ways, 1):
        try:
            names = way()
            break
        except Damaged:
            if number == len(ways):
                raise
            log.info("the guest does not take what is sent to its %s; it is typed instead", decoder)
    parts = " ".join(names)
    unpack = "gzip -dc" if "gzip" in shell.tools else "cat"
    compare(f"cat {parts} | {unpack} >{path}; rm -f {parts}; chmod 700 {path}", path, program, deadline)
    log.info("the agent is in the guest: %d bytes in %.1f s", len(packed), time.monotonic() - started)
    return path


class Damaged(InfrastructureError):
    """The guest has not what it was sent."""

    hint = _NEEDS


class _Comparison:
    """Has a command carried out in the guest that makes a file, and compares that with what it should be.

    Called with the command, the path of the file, its bytes, and what the command is to read. Raises Damaged.
    """

    def __init__(self, shell: Shell, program: str, digest: Callable[[bytes], str]) -> None:
        self._shell, self._program, self._digest = shell, program, digest

    def __call__(self, command: str, path: str, wanted: bytes, deadline: Deadline, data: bytes = b"") -> None:
        answer = self._shell.ask(f"{command}; {self._program} <{path}", deadline, data=data)
        if answer.partition(" ")[0] != self._digest(wanted):
            raise Damaged(f"what was sent through the console is not what the guest has; it says {answer!r}")

    def until_whole(self, command: str, path: str, wanted: bytes, deadline: Deadline, data: bytes = b"") -> None:
        """The same, again where the console damages it: Damaged is raised when all tries are."""
        for attempt in range(1, _TRIES + 1):
            try:
                self(command, path, wanted, deadline, data)
                break
            except Damaged:
                if attempt == _TRIES:
                    raise


def _comparison(shell: Shell) -> _Comparison:
    digests: dict[str, Callable[[bytes], str]] = {
        "sha256sum": lambda data: hashlib.sha256(data).hexdigest(),
        "md5sum": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "cksum": lambda data: str(posix_cksum(data)),
    }
    for program, digest in digests.items():
        if program in shell.tools:
            return _Comparison(shell, program, digest)
    raise InfrastructureError("the guest has nothing to compare by what it was sent", hint=_NEEDS)


def _send_encoded(
    shell: Shell, path: str, data: bytes, tools: tuple[str, str], compare: _Comparison, deadline: Deadline
) -> list[str]:
    """In base64, for a program of the guest to read. Returns the files it is in now, in order."""
    decoder, taker = tools
    text = base64.b64encode(data)
    lines = b"".join(text[at : at + _LINE] + b"\n" for at in range(0, len(text), _LINE))
    names = []
    for number, at in enumerate(range(0, len(lines), _CHUNK)):
        chunk, name = lines[at : at + _CHUNK], f"{path}.{number}"
        command = f"{taker} {len(chunk)}" if taker.startswith("head") else f"{taker}{len(chunk)} 2>/dev/null"
        compare.until_whole(f"{command} | {decoder} >{name}", name, base64.b64decode(chunk), deadline, chunk)
        names.append(name)
    return names


def _type(shell: Shell, path: str, data: bytes, compare: _Comparison, deadline: Deadline) -> list[str]:
    """In commands that print it: takes a shell and nothing else. Returns the files it is in now, in order."""
    names = []
    for number, at in enumerate(range(0, len(data), _TYPED)):
        chunk, name = data[at : at + _TYPED], f"{path}.{number}"
        compare.until_whole(f"printf '{typed(chunk)}' >{name}", name, chunk, deadline)
        names.append(name)
    return names


def typed(data: bytes) -> str:
    """Bytes as a format for a shell's printf."""
    return re.sub(rb"[^0-9A-Za-z ._,:/+-]", lambda found: b"\\%03o" % found[0][0], data).decode("ascii")


def posix_cksum(data: bytes) -> int:
    """What POSIX's cksum says of these bytes: CRC-32 of them and of their number, not reflected."""
    length, tail = len(data), bytearray()
    while length:
        tail.append(length & 0xFF)
        length >>= 8
    crc = 0
    for byte in (*data, *tail):
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return ~crc & 0xFFFFFFFF
