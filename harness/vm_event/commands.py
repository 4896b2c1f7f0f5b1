"""The monitor's commands for whoever runs the VM (`destroy`, `blkrescan`): taken here, or relayed to `acrn-dm`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

from .callbacks import Worker

Callback = Callable[[str | None], bool]
Done = Callable[[bool], None]
#: Has a command carried out by somebody else, without waiting; calls `Done` once.
Relay = Callable[[str, str | None, Done], None]

#: What `acrn-dm` understands, besides the registration of an event client.
RELAYED = ("destroy", "blkrescan")
#: Commands that may wait for the callback before them.
WAITING_LIMIT = 100

_log = logging.getLogger(__name__)


class Commands:
    """Callbacks by name, called one at a time on a thread of their own."""

    def __init__(self, vm: str) -> None:
        self._callbacks: dict[str, Callback] = {}
        self._worker = Worker(f"vm_event-{vm}-commands", limit=WAITING_LIMIT)

    def on(self, name: str, callback: Callback) -> None:
        """Answer a command with what `callback(argument)` returns."""
        self._callbacks[name] = callback

    def execute(self, name: str, argument: str | None, relays: Iterable[Relay], done: Done) -> None:
        """Carry a command out, without waiting: by its callback, else by all `relays` that there are.

        `done` is called once, on any thread, with True if all succeeded; False for what nobody takes.
        """
        callback = self._callbacks.get(name)
        if callback is not None:
            self._call(partial(_execute, name, callback, argument, done), done)
            return
        takers = list(relays) if name in RELAYED else []
        if not takers:
            done(False)
            return
        answers = _Answers(len(takers), done)
        for taker in takers:
            taker(name, argument, answers)

    def end(self) -> None:
        """Take no more in this life; those that were taken are carried out."""
        self._worker.end()

    def join(self, until: float) -> None:
        """Wait for the thread to end, but not beyond `until` (monotonic seconds)."""
        if not self._worker.join(until):
            _log.warning("a command's callback is busy even after the stop; its thread is left to it")

    def _call(self, call: Callable[[], object], done: Done) -> None:
        try:
            taken = self._worker.submit(call)
        except RuntimeError as error:
            _log.error("no thread for a command: %s", error)
            taken = False
        if not taken:
            done(False)


class _Answers:
    """Makes one answer of several, when the last has come. Called on the service's thread only."""

    def __init__(self, missing: int, done: Done) -> None:
        self._missing = missing
        self._success = True
        self._done = done

    def __call__(self, success: bool) -> None:
        self._missing -= 1
        self._success = self._success and success
        if self._missing == 0:
            self._done(self._success)


def _execute(name: str, callback: Callback, argument: str | None, done: Done) -> None:
    success = False
    try:
        success = bool(callback(argument))
    except Exception:  # the client gets its -1, whatever the callback did
        _log.exception("the command %r failed", name)
    done(success)
