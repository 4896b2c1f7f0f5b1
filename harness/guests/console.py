"""A guest's console that can be trusted: all is recorded, and a dying guest ends every wait, by name."""

from __future__ import annotations

import os
import re
import select
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pexpect import EOF, TIMEOUT
from pexpect.spawnbase import SpawnBase

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests.channel import Channel, channel_of
from harness.guests.console_log import ConsoleLog

DEATH_PATTERNS: tuple[re.Pattern[bytes], ...] = tuple(
    re.compile(pattern)
    for pattern in (
        rb"Kernel panic - not syncing[^\r\n]*[\r\n]",
        rb"Oops: [^\r\n]*[\r\n]",
        # A lockup message is what a starved host looks like from inside; the guest goes on afterwards.
        rb"BUG: (?!soft lockup|workqueue lockup)[^\r\n]*[\r\n]",
        rb"[^\r\n]*Unable to mount root fs[^\r\n]*[\r\n]",
    )
)
"""What a Linux console says when the guest is dead or as good as dead; each takes its whole line."""

_Error = TypeVar("_Error", bound=InfrastructureError)
_FLOOD = 4 << 20
_POLL_IN = select.POLLIN | select.POLLHUP | select.POLLERR


class GuestDied(InfrastructureError):
    """The guest's kernel died or its console ended."""

    hint = "see the console log; a guest that dies is the guest's or QEMU's fault, not the event service's"


class ConsoleEnded(GuestDied):
    """The console ended without a last word: the guest, what runs it, or only the way to it is lost."""


class ConsoleTimeout(InfrastructureError):
    """What was awaited on the console did not come in time; the guest may be alive."""


class ConsoleClosed(InfrastructureError):
    """The console was closed by its owner while it was in use, or before."""


if TYPE_CHECKING:
    _Spawn = SpawnBase[bytes]
else:
    _Spawn = SpawnBase  # generic in its type stubs only


class _Stream(_Spawn):
    """pexpect over a channel: records what it reads, and can be woken by another thread."""

    def __init__(self, channel: Channel, log: ConsoleLog, waker: int) -> None:
        super().__init__(timeout=None, maxread=65536, searchwindowsize=65536)
        self.delayafterread = None  # pexpect would sleep 0.1 ms after each read
        self.child_fd = channel.fileno()
        self.channel = channel
        self.log = log
        self.waker = waker
        self.deadline = Deadline(0)
        self.unmatched = 0

    def poll(self, events: int) -> bool:
        """Waits for the channel; False at the deadline. Raises ConsoleClosed when woken."""
        poll = select.poll()
        poll.register(self.channel.fileno(), events)
        poll.register(self.waker, select.POLLIN)
        ready = dict(poll.poll(self.deadline.remaining * 1000))
        if self.waker in ready:
            raise ConsoleClosed("the console was closed while it was in use")
        return bool(ready)

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> bytes:
        """One read, as pexpect wants it: TIMEOUT and EOF are exceptions.

        `timeout` is ignored: pexpect computes it from the wall clock, which this bench steps on purpose.
        """
        if not self.poll(_POLL_IN):
            raise TIMEOUT("nothing to read")
        try:
            data = self.channel.recv(size)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise EOF(str(error)) from error
        if not data:
            raise EOF("the other side closed it")
        self.log.add(data)
        self.unmatched += len(data)
        if self.unmatched > _FLOOD:
            raise InfrastructureError("the console is flooded: nothing awaited in its last 4 MiB")
        return data


class Console:
    """One guest's console over a socket or descriptor, which it owns.

    One thread uses it at a time; `close` may come from any thread and ends a wait at once. After a death the
    console stays open for its log to be read, and every further use raises the same error.
    """

    def __init__(
        self,
        endpoint: socket.socket | int | Channel,
        log: Path,
        *,
        name: str = "guest",
        death: Sequence[re.Pattern[bytes]] = DEATH_PATTERNS,
    ) -> None:
        self.name = name
        self._death = list(death)
        self._dead: GuestDied | None = None
        self._in_use = threading.RLock()
        self._closing = False
        self._closing_once = threading.Lock()
        self._channel = channel_of(endpoint)
        self._wakes, self._waker = os.pipe()
        try:
            self._log = ConsoleLog(log)
        except OSError as error:
            self._release()
            raise InfrastructureError(f"cannot write the console log: {error}", log=log) from error
        self._stream = _Stream(self._channel, self._log, self._wakes)

    def fileno(self) -> int:
        """For select: readable when `check` has something to read."""
        return self._channel.fileno()

    @property
    def log_path(self) -> Path:
        """Where the lines are."""
        return self._log.path

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines received."""
        return self._log.last_lines

    def mask(self, secret: bytes) -> None:
        """Keeps `secret` out of the log and of every error's last lines, should the guest echo it."""
        with self._in_use:
            self._log.mask(secret)

    def wait_for(self, pattern: re.Pattern[bytes], awaited: str, deadline: Deadline) -> re.Match[bytes]:
        """Waits for `pattern` in what came since the last match, up to 64 KiB back.

        Raises GuestDied when a death pattern comes first or the console ends, ConsoleTimeout at the deadline,
        ConsoleClosed when another thread closes it, InfrastructureError when the log cannot be written or the
        console floods. All say what was awaited, how long, and the last lines.
        """
        started = Deadline(0)
        with self._in_use:
            self._require_usable()
            patterns: list[re.Pattern[bytes] | type[EOF] | type[TIMEOUT]]
            patterns = [pattern, *self._death, EOF, TIMEOUT]
            self._stream.deadline = deadline
            try:
                found = self._stream.expect_list(patterns, timeout=None)
            except InfrastructureError as error:
                error.awaited, error.waited = awaited, started.elapsed
                error.last_lines, error.log = self.last_lines, self.log_path
                raise
            except OSError as error:
                raise self._error(InfrastructureError, f"console log: {error}", awaited, started) from error
            if patterns[found] is TIMEOUT:
                raise self._error(ConsoleTimeout, f"{self.name}: {awaited} did not come", awaited, started)
            self._stream.unmatched = 0
            match = self._stream.match
            if found == 0 and isinstance(match, re.Match):
                return match
            words = match[0].strip().decode("utf-8", "replace") if isinstance(match, re.Match) else None
            raise self._death_of(words, awaited, started)

    def send(self, data: bytes, awaited: str, deadline: Deadline) -> None:
        """Sends all of `data`. Raises as `wait_for`; ConsoleTimeout when the other side does not take it."""
        started = Deadline(0)
        with self._in_use:
            self._require_usable()
            self._stream.deadline = deadline
            while data:
                if not self._stream.poll(select.POLLOUT):
                    raise self._error(ConsoleTimeout, f"{self.name}: it takes no input", awaited, started)
                try:
                    data = data[self._channel.send(data) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise self._death_of(None, awaited, started) from error

    def check(self) -> None:
        """Reads what is there, without waiting. Raises GuestDied, ConsoleClosed or InfrastructureError."""
        try:
            self.wait_for(re.compile(rb"(?!)"), "nothing in particular", Deadline(0))
        except ConsoleTimeout:
            pass

    def _death_of(self, last_words: str | None, awaited: str, started: Deadline) -> GuestDied:
        """Takes what a dying guest still says (last_words None: its console ended); remembers how it died."""
        self._stream.deadline = Deadline(0)
        try:
            while last_words is not None:
                self._stream.read_nonblocking(65536)
        except (TIMEOUT, EOF):
            pass
        how = last_words or "its console ended"
        family = ConsoleEnded if last_words is None else GuestDied
        self._dead = self._error(family, f"{self.name} died: {how}", awaited, started)
        return self._dead

    def _require_usable(self) -> None:
        if self._closing:
            raise ConsoleClosed(f"the console of {self.name} is closed", log=self.log_path)
        if self._dead is not None:
            raise self._dead

    def _error(self, family: type[_Error], problem: str, awaited: str, started: Deadline) -> _Error:
        return family(problem, awaited=awaited, waited=started.elapsed, last_lines=self.last_lines, log=self.log_path)

    def close(self) -> None:
        """Ends any wait, then closes channel and log. From any thread; idempotent.

        Raises InfrastructureError when the log's last line cannot be written; all is closed even so.
        """
        with self._closing_once:
            if self._closing:
                return
            self._closing = True
            os.write(self._waker, b"x")
            with self._in_use:
                self._release()
                try:
                    self._log.close()
                except OSError as error:
                    raise InfrastructureError(f"console log: {error}", log=self.log_path) from error

    def _release(self) -> None:
        self._channel.close()
        os.close(self._wakes)
        os.close(self._waker)
