"""A guest that boots from a disk image of the user's: the agent is brought into it through its console."""

from __future__ import annotations

import base64
import gzip
import hashlib
import logging
import time
from collections.abc import Sequence

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests.console import Console
from harness.guests.linux import LinuxGuest
from harness.guests.login import Login, Shell

log = logging.getLogger(__name__)

_LINE = 76
_CHUNK = 100 * (_LINE + 1)
"""Bytes at once. What a terminal holds for a reader that is not there yet is 4 KiB, and a driver's buffer before it."""

_TRIES = 5
_PLACES = "/run /dev/shm /tmp /var/tmp /root"
_FIND_A_PLACE = (
    f"for d in {_PLACES}; do f=$d/.rtc-agent-$$; "
    "printf '#!/bin/sh\\nexit 0\\n' 2>/dev/null >$f && chmod 700 $f && $f 2>/dev/null && echo $f && break; done"
)


class DiskGuest(LinuxGuest):
    """Logs in as the bench says, brings the agent in and starts it as root; then it is a Linux guest like others.

    agent: the program. The nonce goes in as the agent's argument: over this console only this guest can have it.
    """

    def __init__(
        self, console: Console, *, nonce: str, hypervisor: Sequence[str], agent: bytes, login: Login
    ) -> None:
        super().__init__(console, nonce=nonce, hypervisor=hypervisor)
        self._agent = agent
        self._login = login

    def boot(self, deadline: Deadline) -> None:
        """Waits for the login prompt, logs in, brings the agent in, and has it prove where it is.

        Raises ConfigurationError where the guest refuses the login, and as LinuxGuest.boot.
        """
        with self._one_command:
            shell = Shell(self._console, self._login, deadline)
            path = push(shell, self._agent, deadline)
            shell.start(f"{path} rtc.nonce={self._nonce}; rm -f {path}", deadline)
        super().boot(deadline)

    def leave(self, deadline: Deadline) -> None:
        """Gives the guest back as it was found: RTC, time daemons, console; the agent is gone. Raises as `command`."""
        self.command("bye", deadline)


def push(shell: Shell, program: bytes, deadline: Deadline) -> str:
    """Brings a program into the guest, whole, and returns its path there.

    Raises InfrastructureError where the guest has no place that programs can be started from, or damages what it
    is sent again and again; and as Shell.ask.
    """
    started = time.monotonic()
    path = shell.ask(_FIND_A_PLACE, deadline)
    if not path.startswith("/"):
        raise InfrastructureError(
            f"the guest lets no program be started from any of {_PLACES}: {path}",
            hint="mount one of them without noexec",
        )
    packed = gzip.compress(program, 9, mtime=0)
    text = base64.b64encode(packed)
    lines = b"".join(text[at : at + _LINE] + b"\n" for at in range(0, len(text), _LINE))
    names = []
    for number, at in enumerate(range(0, len(lines), _CHUNK)):
        names.append(f"{path}.{number}")
        _push_chunk(shell, names[-1], lines[at : at + _CHUNK], deadline)
    parts = " ".join(names)
    _compare(shell.ask(f"cat {parts} | gzip -dc >{path}; rm -f {parts}; sha256sum <{path}", deadline), program)
    log.info("the agent is in the guest: %d bytes in %.1f s", len(lines), time.monotonic() - started)
    return path


def _push_chunk(shell: Shell, name: str, chunk: bytes, deadline: Deadline) -> None:
    for attempt in range(1, _TRIES + 1):
        answer = shell.ask(f"head -c {len(chunk)} | base64 -d >{name}; sha256sum <{name}", deadline, data=chunk)
        try:
            _compare(answer, base64.b64decode(chunk))
        except InfrastructureError:
            if attempt == _TRIES:
                raise
        else:
            return


def _compare(answer: str, sent: bytes) -> None:
    if answer.partition(" ")[0] != hashlib.sha256(sent).hexdigest():
        raise InfrastructureError(
            f"what was sent through the console is not what the guest has; it says {answer!r}",
            hint="the guest needs base64, gzip, head and sha256sum (coreutils or busybox)",
        )
