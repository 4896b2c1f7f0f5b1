"""The harness's side of the listening process: listeners for guests, told when something was heard."""

from __future__ import annotations

import abc
import collections
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import harness
from harness.deadline import Deadline
from harness.errors import InfrastructureError

_ROOT = Path(harness.__file__).parents[1]
_TICK = 0.1
_STOP_TIMEOUT = 10.0
_ENDED = "the listening process has ended"


_Self = TypeVar("_Self", bound="Listening")


class Listening(abc.ABC):
    """Who listens for the guests of a run, a process of this machine or the observer on their host; a context manager.

    Also whom a listener tells what to do.
    """

    place = ""
    """What messages say of where it is: "" or " on HOST"."""

    failure: InfrastructureError | None = None
    """Why nothing can be heard any more; None while all is well, and after an end that was asked for."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._listeners: dict[int, EventListener] = {}
        self._lock = threading.Lock()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def listener(self, path: Path, journal: Path, notify: Callable[[], object] = lambda: None) -> EventListener:
        """A listener for one guest. path: its monitor socket, where this listens; journal: a file here."""
        with self._lock:
            number = next(self._numbers)
            listener = self._listeners[number] = EventListener(self, number, path, journal, notify)
        return listener

    @property
    @abc.abstractmethod
    def last_lines(self) -> list[str]:
        """The last lines of its standard error."""

    @abc.abstractmethod
    def tell(self, number: int, do: str, **details: str) -> None:
        """Send a command. Raises InfrastructureError when it cannot be told anything any more."""

    @abc.abstractmethod
    def close(self) -> None:
        """Listen no more, and prove that it has ended."""


class ListenerProcess(Listening):
    """The process that listens for a whole run; a context manager. It cannot outlive the harness: its input ends."""

    def __init__(self) -> None:
        super().__init__()
        self._last_lines: collections.deque[str] = collections.deque(maxlen=20)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.listener"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the harness, which then ends this in its turn
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._read_answers, "listener"), (self._read_errors, "listener-stderr"))
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, number: int, do: str, **details: str) -> None:
        """Send a command. Raises InfrastructureError when the process has ended."""
        assert self._process.stdin is not None
        line = json.dumps({"id": number, "do": do, **details}).encode() + b"\n"
        try:
            with self._lock:
                os.write(self._process.stdin.fileno(), line)
        except (OSError, ValueError) as error:
            raise InfrastructureError(_ENDED, last_lines=list(self._last_lines)) from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def last_lines(self) -> list[str]:
        """The last lines of its standard error."""
        return list(self._last_lines)

    def close(self) -> None:
        """End it, and prove that it has ended."""
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        try:
            with self._process.stdout as stream:
                for line in stream:
                    answer = json.loads(line)
                    listener = self._listeners.get(answer["id"])
                    if listener is not None:
                        listener.told(answer)
        finally:
            if not self._process.stdin or not self._process.stdin.closed:
                self.failure = InfrastructureError(_ENDED, last_lines=list(self._last_lines))
            for listener in list(self._listeners.values()):
                listener.told({"is": "failed", "why": _ENDED})

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self._last_lines.append(line.decode("utf-8", "replace").rstrip())


class EventListener:
    """The one event client of a guest's event service; made by who is Listening.

    path: the monitor socket where that listens, connected to until the deadline of `connect`. journal: `events.jsonl`.
    notify: called, in another thread, after anything was journalled.

    Nothing is matched, filtered or judged here: whoever judges has the whole record.
    """

    def __init__(
        self, process: Listening, number: int, path: Path, journal: Path, notify: Callable[[], object]
    ) -> None:
        self._process = process
        self._number = number
        self._path = path
        self._journal = journal
        self._notify = notify
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._begun = self._closed = False
        self.ended: str | None = None
        """Why the stream has ended; None while it is open."""

        self.failure: str | None = None
        """Why nothing can be heard any more though nobody closed anything; None while all is well."""

    def connect(self, deadline: Deadline, given_up: Callable[[], bool] = lambda: False) -> None:
        """Connect, retrying until the deadline, and register as the event client.

        given_up: asked between tries; true ends them early (the device model has died).
        Raises InfrastructureError when there is no connection, no answer, or a refusal.
        """
        self._begun = True
        self._process.tell(self._number, "listen", socket=str(self._path), journal=str(self._journal))
        why = "no such socket"
        while True:
            try:
                answer = self._answers.get(timeout=min(_TICK, deadline.remaining))
            except queue.Empty:
                answer = {"is": "waiting", "why": why}
            if answer["is"] == "listening":
                return
            why = str(answer.get("why", why))
            if answer["is"] == "refused":
                raise self._error(f"refused to register us: {answer['answer']}", deadline, refused=True)
            if answer["is"] in {"closed", "failed"} or deadline.expired or given_up():
                raise self._error(f"did not register us: {why}", deadline)

    def told(self, answer: dict[str, Any]) -> None:
        """Take what the listening process says; from its reader's thread."""
        what = answer["is"]
        if what == "closed":
            self.ended = str(answer["why"])
        elif what == "failed":
            self.failure = str(answer["why"])
        if what in {"stopped", "failed"}:
            self._stopped.set()
        if what != "heard":
            self._answers.put(answer)
        self._notify()

    def close(self) -> None:
        """Stop listening; the journal is complete then. Idempotent."""
        if self._closed or not self._begun:
            return
        self._closed = True
        try:
            self._process.tell(self._number, "stop")
        except InfrastructureError:
            return
        self._stopped.wait(_STOP_TIMEOUT)

    def __enter__(self) -> EventListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _error(self, problem: str, deadline: Deadline, *, refused: bool = False) -> InfrastructureError:
        hint = "one event client is admitted per guest: is another one connected?" if refused else None
        return InfrastructureError(
            f"no event service on {self._path}{self._process.place}: it {problem}",
            awaited=f"the event service's answer on {self._path}{self._process.place}",
            waited=deadline.elapsed,
            last_lines=self._process.last_lines,
            hint=hint,
        )
