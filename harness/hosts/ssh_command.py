"""A command under way over an SSH channel: what comes is sorted into the tool's own output, lines and reports."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Callable
from typing import Any

import paramiko

from harness.deadline import Deadline

_MOST_BEFORE = 1 << 20
"""Bytes that a login shell may print before the tool's first word."""

_MOST = 1 << 16
_REPORT = b'{"keeper": '


def new_mark() -> str:
    """A word that nobody else prints."""
    return f"rtc-bench-{secrets.token_hex(8)}"


class RemoteCommand:
    """One command on one channel, whose output begins with its mark (harness/onhost/words.py).

    output: called with what comes after the mark's line. lines: called with each line of the standard error that is
    not a keeper's report. Both from threads of this object's.
    """

    def __init__(
        self,
        channel: paramiko.Channel,
        mark: str,
        *,
        output: Callable[[bytes], object],
        lines: Callable[[bytes], object] = lambda line: None,
        name: str = "command",
    ) -> None:
        self.channel = channel
        self.before = bytearray()
        """What came before the mark: a login shell's own words."""

        self.facts: dict[str, Any] | None = None
        """What the tool said with the mark."""

        self.started: dict[str, Any] | None = None
        self.ended: dict[str, Any] | None = None
        """The keeper's reports."""

        self.status: int | None = None
        """The exit status that SSH tells; None where it does not: the link was cut, or a signal did it."""

        self.done = threading.Event()
        self._mark = mark.encode()
        self._output = output
        self._lines = lines
        self._changed = threading.Condition()
        self._callbacks: list[Callable[[], object]] = []
        self._threads = [
            threading.Thread(target=target, name=f"ssh-{what}-{name}", daemon=True)
            for target, what in ((self._read_output, "out"), (self._read_errors, "err"))
        ]

    def begin(self) -> None:
        """Read from now on."""
        for thread in reversed(self._threads):  # the one that reads output waits for the other one's end
            thread.start()

    def await_mark(self, deadline: Deadline) -> dict[str, Any] | None:
        """What the tool said with the mark; None when the command ended without it, or the deadline came."""
        with self._changed:
            self._changed.wait_for(lambda: self.facts is not None or self.done.is_set(), deadline.remaining)
        return self.facts

    def await_start(self, deadline: Deadline) -> dict[str, Any] | None:
        """The keeper's word on the start of its program; None when it ended without one, or the deadline came."""
        with self._changed:
            self._changed.wait_for(lambda: self.started is not None or self.done.is_set(), deadline.remaining)
        return self.started

    def on_done(self, callback: Callable[[], object]) -> None:
        """Have `callback` called from a thread when all has come; at once if it has."""
        with self._changed:
            if not self.done.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def send(self, data: bytes) -> None:
        """All of `data`. Raises OSError when the channel is closed."""
        self.channel.sendall(data)

    def end_input(self) -> None:
        """The end of its input, which ends it."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.shutdown_write()

    def _read_output(self) -> None:
        unsorted = b""
        while data := self._received(self.channel.recv):
            if self.facts is not None:
                self._output(data)
                continue
            unsorted += data
            before, found, after = unsorted.partition(self._mark)
            line, ended, rest = after.partition(b"\n")
            if not (found and ended):
                if len(unsorted) > _MOST_BEFORE:
                    self.before += unsorted[-_MOST:]
                    self._close_channel()
                    break
                continue
            self.before += before
            with self._changed:
                self.facts = json.loads(line)
                self._changed.notify_all()
            unsorted = b""
            if rest:
                self._output(rest)
        self.before += unsorted
        self._output(b"")
        self._threads[1].join()
        status = self.channel.recv_exit_status()  # where the link was cut none comes, and this does not wait for one
        self._close_channel()
        with self._changed:
            self.status = status if status >= 0 else None
            self.done.set()
            self._changed.notify_all()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def _close_channel(self) -> None:
        """Whoever closes tells the other side, which may be gone: the channel is closed even so."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.close()

    def _read_errors(self) -> None:
        unfinished = b""
        held = b""
        while data := self._received(self.channel.recv_stderr):
            *lines, unfinished = (unfinished + data).split(b"\n")
            for line in lines:
                if line.startswith(_REPORT) and self._take_report(line):
                    held = b""
                    continue
                if held:
                    self._lines(held)
                    held = b""
                # A keeper's report begins with an empty line, in case what came before was not ended.
                if line:
                    self._lines(line + b"\n")
                else:
                    held = b"\n"
        if held:
            self._lines(held)
        if unfinished:
            self._lines(unfinished)

    def _take_report(self, line: bytes) -> bool:
        try:
            report = json.loads(line)
        except ValueError:
            return False
        with self._changed:
            if report["keeper"] == "ended":
                self.ended = report
            else:
                self.started = report
            self._changed.notify_all()
        return True

    @staticmethod
    def _received(receive: Callable[[int], bytes]) -> bytes:
        try:
            return receive(_MOST)
        except (OSError, EOFError):
            return b""
