"""What `serve --on-rtc-change` does: runs commands for every settled RTC change, one at a time, in order."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence

from .errors import ActionError
from .events import SettledRtcChange
from .process import Outcome, problem_with, run
from .typed import Any
from .wire import encode

TIMEOUT = 10.0

_log = logging.getLogger(__name__)


class RunCommands:
    """An action that runs commands: without a shell, the event as a line of JSON on stdin.

    Each event's commands run one after another, in the order given, and all of them before those of the next event.
    One that fails or takes longer than `timeout` seconds is counted and logged with its last words on stderr; the
    next one runs all the same. A command's process group ends with it. Its stdout is this process's.
    """

    def __init__(self, commands: Sequence[Sequence[str]], *, timeout: float = TIMEOUT) -> None:
        """Raises ActionError for a command that is not there or not executable, ValueError for a bad `timeout`."""
        if not timeout > 0:
            raise ValueError(f"a time-out must be longer than 0 s, not {timeout}")
        for command in commands:
            if not command:
                raise ActionError("a command needs a name")
            if problem := problem_with(command[0]):
                raise ActionError(problem)
        self._commands = [tuple(command) for command in commands]
        self._timeout = timeout
        self._lock = threading.Lock()
        self._interrupted = False
        self._wake: int | None = None
        self._counts = self._zero()

    def begin(self) -> None:
        """Counts begin at 0."""
        self._interrupted = False
        self._counts = self._zero()

    def act(self, event: SettledRtcChange) -> None:
        """Run every command once. Raises OSError when descriptors run out."""
        wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with self._lock:
            self._wake = wake
        try:
            line = encode(event.as_json())
            for command in self._commands:
                if self._interrupted:
                    return
                self._counts["run"] += 1
                self._note(event, command, run(command, line, timeout=self._timeout, interrupt=wake))
        finally:
            with self._lock:
                self._wake = None
                os.close(wake)

    def interrupt(self) -> None:
        """End the command that is running, and run no other until `begin`."""
        with self._lock:
            self._interrupted = True
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)

    def status(self) -> dict[str, Any]:
        """run: commands that were run; of these failed, timed_out, and interrupted by a stop of the service."""
        return dict(self._counts)

    def _note(self, event: SettledRtcChange, command: Sequence[str], outcome: Outcome) -> None:
        what, how = f"{event.vm}/{event.source}: {' '.join(command)}", outcome.end
        match outcome:
            case Outcome("exited", 0):
                if outcome.words:
                    _log.info("%s: says:\n%s", what, outcome.words)
                return
            case Outcome("exited", int(status)):
                how = f"failed with exit status {status}" if status > 0 else f"was ended by signal {-status}"
                self._counts["failed"] += 1
            case Outcome("timed out"):
                how = f"took longer than {self._timeout:g} s and was ended"
                self._counts["timed_out"] += 1
            case Outcome("interrupted"):
                how = "was interrupted by the service's stop"
                self._counts["interrupted"] += 1
            case Outcome("stuck"):
                how = f"cannot be ended, {outcome.seconds:.0f} s after it began: it is left alone"
                self._counts["failed"] += 1
            case _:
                how = "could not be started"
                self._counts["failed"] += 1
        words = f", its last words:\n{outcome.words}" if outcome.words else ""
        _log.warning("%s: %s after %.2f s%s", what, how, outcome.seconds, words)

    @staticmethod
    def _zero() -> dict[str, int]:
        return dict.fromkeys(("run", "failed", "timed_out", "interrupted"), 0)


def words_of(text: str) -> tuple[str, ...]:
    """A command line as its words: quotes and backslashes as in a shell, and nothing else of a shell.

    Raises ValueError for an unfinished quote and where there is no word.
    """
    import shlex

    words = tuple(shlex.split(text))
    if not words:
        raise ValueError("no command")
    return words
