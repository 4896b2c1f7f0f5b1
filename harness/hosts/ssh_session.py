"""The harness's session on an SSH host: brings the tools, keeps the lease, notices at once when nobody answers."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paramiko

import harness.onhost
from harness.deadline import Deadline
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.hosts.ssh_command import RemoteCommand
from harness.hosts.ssh_link import NotReached

BEAT = 1.0
"""Seconds between two beats."""

LOOK = 0.5
SILENT_LOOKS = 8
"""So many looks without an answer in between, and the link stands still: told within 5 s. They are counted, not timed:
a harness that stood still itself has not looked."""

LOADER = "import sys;f=open(0,'rb',0);exec(f.readline())"
_CLOSE = 12.0
_KEPT = 20


def first_words(archive: bytes, base: str | None, mark: str) -> bytes:
    """What the loader on the host is to read: the bootstrap in one line, then the tools."""
    source = (Path(harness.onhost.__file__).parent / "bootstrap.py").read_text(encoding="utf-8")
    code = f"{source}\nbecome_session(f, {len(archive)}, {base!r}, {mark!r})\n"
    return b'exec(__import__("base64").b64decode("' + base64.b64encode(code.encode()) + b'"))\n' + archive


class Unfit(ConfigurationError):
    """The host lets us in and cannot be used; `what` is it for: python, folder, sudo."""

    def __init__(self, what: str, problem: str, *, last_lines: Sequence[str] = (), hint: str) -> None:
        super().__init__(problem, last_lines=last_lines, hint=hint)
        self.what = what


class Session:
    """A session that is up.

    name: how messages call the host. lost: called once, from a thread, with the reason when it does not answer or
    ends, unless it is closed.
    """

    def __init__(self, name: str, lost: Callable[[str], object]) -> None:
        self.folder = ""
        self.facts: dict[str, Any] = {}
        """What it says of the host: python, user, host, pid."""

        self._name = name
        self._lost = lost
        self._remote: RemoteCommand | None = None
        self._output = bytearray()
        self._errors: list[str] = []
        self._silent = 0
        self._closing = threading.Event()

    def output(self, data: bytes) -> None:
        """What it says once it is up: answers to beats, and its last words."""
        self._silent = 0
        self._output += data
        if not self._closing.is_set():
            del self._output[: self._output.rfind(b"\n") + 1]

    def line(self, line: bytes) -> None:
        """A line of its standard error."""
        self._errors.append(line.decode("utf-8", "replace").rstrip())
        del self._errors[:-_KEPT]

    def begin(self, remote: RemoteCommand, words: bytes, deadline: Deadline, *, python: str) -> None:
        """Bring it up. Raises ConfigurationError with what the user has to mend, NotReached when the link ends."""
        self._remote = remote
        sender = threading.Thread(target=self._send, args=(words,), name="ssh-tools", daemon=True)
        sender.start()
        facts = remote.await_mark(deadline)
        if facts is None:
            raise self._no_session(remote, deadline, python)
        if "failed" in facts:
            raise _refusal(self._name, facts, python)
        self.facts = facts
        self.folder = facts["folder"]
        for target in (self._beat, self._watch):
            threading.Thread(target=target, name=f"ssh-{target.__name__.strip('_')}", daemon=True).start()

    def _send(self, data: bytes) -> None:
        assert self._remote is not None
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._remote.send(data)

    def _no_session(self, remote: RemoteCommand, deadline: Deadline, python: str) -> BenchError:
        text = bytes(remote.before).decode("utf-8", "replace")
        lines = [*text.splitlines(), *self._errors][-_KEPT:]
        said = " ".join(self._errors)
        if not remote.done.is_set():
            return InfrastructureError(
                f"{self._name}: the login shell or Python there does not get as far as the tools",
                awaited="the session on the host",
                waited=deadline.elapsed,
                last_lines=lines,
                hint="does the user's login shell wait for something? Try `ssh HOST python3 --version`",
            )
        if remote.status is None:
            return NotReached(f"{self._name}: the connection ended before the session was up", last_lines=lines)
        if "sudo:" in said:
            return Unfit(
                "sudo",
                f"{self._name}: sudo does not start commands without asking",
                last_lines=lines,
                hint="allow it there (USER ALL=(root) NOPASSWD: ALL, in /etc/sudoers.d), or log in as root",
            )
        if remote.status == 127 or "not found" in said or "No such file" in said:
            return Unfit(
                "python",
                f"{self._name}: there is no {python} on it",
                last_lines=lines,
                hint="install Python 3.10 or newer there, or name it as `python` in the bench file (a path will do)",
            )
        return Unfit(
            "python",
            f"{self._name}: Python does not run there (status {remote.status})",
            last_lines=lines,
            hint=f"may this user run commands there? Try `ssh HOST {python} --version`, which should say 3.10 or more",
        )

    def _beat(self) -> None:
        number = 0
        while not self._closing.wait(BEAT):
            number += 1
            self._send(b"%d\n" % number)

    def _watch(self) -> None:
        assert self._remote is not None
        while not self._closing.is_set():
            if self._remote.done.wait(LOOK):
                if not self._closing.is_set():
                    status = self._remote.status
                    how = "the connection was closed" if status is None else f"its session ended with status {status}"
                    self._lost("; ".join([how, *self._errors[-3:]]))
                return
            self._silent += 1
            if self._silent > SILENT_LOOKS and not self._closing.is_set():
                self._lost(f"the host has not answered for {SILENT_LOOKS * LOOK:.0f} s")
                return

    def stop_watching(self) -> None:
        """The link is lost."""
        self._closing.set()

    def close(self, deadline: Deadline) -> list[str]:
        """End it and have all that it left removed; returns what is still there, by name."""
        assert self._remote is not None
        self._closing.set()
        self._remote.end_input()
        if not self._remote.done.wait(deadline.within(_CLOSE).remaining):
            return ["the session itself, which does not end"]
        for line in bytes(self._output).splitlines():
            if line.startswith(b'{"session"'):
                survivors: list[str] = json.loads(line)["survivors"]
                return survivors
        return ["what the session does not tell of: it ended without its last words"]


def _refusal(name: str, facts: dict[str, Any], python: str) -> BenchError:
    if facts["failed"] == "python":
        return Unfit(
            "python",
            f"{name}: {python} there is too old: {facts['why']}; the tools need 3.10",
            hint="install a newer one there and name it as `python` in the bench file (a path will do)",
        )
    if facts["failed"] == "folder":
        return Unfit(
            "folder",
            f"{name}: no folder can be made there: {facts['why']}",
            hint="name one as `folder` in the bench file that this user may write to, on a disk with room",
        )
    return InfrastructureError(f"{name}: {facts['failed']}")
