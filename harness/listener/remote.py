"""Listening on another host: the observer there, its records brought to our time, its death and its silence told.

One thread reads what comes, stamps it, maps and journals it, and asks for the observer's clock. Why nothing can be
heard any more is told to all listeners at once:

- the observer's output has ended: the observer has, or the link to its host was lost;
- nothing at all has come for 4 s: the host hangs or the link stands still; where the host itself still answers, it is
  the observer that stands still;
- what came cannot be the observer's, or cannot be kept.
"""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import selectors
import threading
import time
from pathlib import Path
from typing import Any

from harness.clock_map import DRIFT_PPM, ClockLog, ClockMap
from harness.deadline import Deadline
from harness.errors import BenchError, InfrastructureError
from harness.hosts.base import Host, HostProcess
from harness.hosts.channel import channel_of
from harness.listener.client import Listening
from harness.listener.heartbeat import DOUBT_NS, NS, SILENCE_NS, Heartbeat
from harness.listener.journals import FileJournal
from harness.listener.mapping import Message, StampMapper, stall_of

log = logging.getLogger(__name__)

CLOSE_TIMEOUT = 10.0
_TICK_NS = NS // 4
_CAUSE_GRACE = 1.0
"""Seconds for the cause to become known once the observer's output has ended."""

_LOOK = 0.05
_LINK_LOST = 255
"""The exit status of a process whose link was lost: why it was is known soon."""

_PROBE_SECONDS = 1.3
_LONGEST_LINE = 8 << 20
_AT_ONCE = 1 << 18


class RemoteListening(Listening):
    """The observer on a host, for all guests there; a context manager. It cannot outlive the harness: its input ends.

    folder: where `clock.jsonl` (every sample of the host's clock) and `observer.log` (its standard error) are kept.
    Raises InfrastructureError when the observer does not answer until the deadline.
    """

    def __init__(self, host: Host, folder: Path, deadline: Deadline) -> None:
        super().__init__()
        self.place = f" on {host.name}"
        self._host = host
        self._log = folder / "observer.log"
        self._clock_log = folder / "clock.jsonl"
        self._journals: dict[int, FileJournal] = {}
        self._noise: collections.deque[str] = collections.deque(maxlen=10)
        self._input = bytearray()
        self._outgoing = bytearray()
        self._heard: set[int] = set()
        self._heartbeat = Heartbeat()
        self._probe: _Probe | None = None
        self._closing = self._closed = False
        self._over: InfrastructureError | None = None
        self._lost: InfrastructureError | None = None
        self._lost_known = threading.Event()
        self._ready = threading.Event()
        try:
            keep = ClockLog(self._clock_log, host=host.name, drift_ppm=DRIFT_PPM)
        except OSError as error:
            raise InfrastructureError(f"what is heard{self.place} cannot be kept: {error}") from error
        self.clock = ClockMap(keep=keep)
        """Maps the host's monotonic clock to ours."""

        self._mapper = StampMapper(self.clock, self._take)
        command = [host.python, "-I", host.tools(deadline), "observe"]
        self._process: HostProcess = host.start(command, log=self._log)
        self._channel = channel_of(self._process.console)
        self._wakes, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        host.on_lost(self._on_lost)
        self._thread = threading.Thread(target=self._run, name=f"observer-{host.name}", daemon=True)
        self._thread.start()
        self._ready.wait(deadline.remaining)
        if self.failure is not None or not self.clock.ready:
            late = InfrastructureError(
                f"the observer on {host.name} did not answer",
                awaited="its first answer",
                waited=deadline.elapsed,
                last_lines=self.last_lines,
                log=self._log,
            )
            with contextlib.suppress(BenchError):
                self.close()
            raise self.failure or late

    def tell(self, number: int, do: str, **details: str) -> None:
        """Send a command. Raises InfrastructureError when nothing can be told any more, or the journal not be made."""
        with self._lock:
            if self._over is not None:
                raise self._over
            if do == "listen":
                path = details.pop("journal")
                try:
                    self._journals[number] = FileJournal(path)
                except OSError as error:
                    raise InfrastructureError(f"the journal cannot be opened: {error}") from error
            self._outgoing += json.dumps({"id": number, "do": do, **details}).encode() + b"\n"
        self._wake()

    @property
    def last_lines(self) -> list[str]:
        """The last lines of its standard error, and what stood on its output before it began."""
        return [*self._noise, *self._process.last_lines]

    @property
    def pid(self) -> int | None:
        """Its process id on the host, where that is known."""
        pid: int | None = getattr(self._process, "pid", None)
        return pid

    def close(self) -> None:
        """End it, and prove that it has ended. Idempotent. Raises InfrastructureError naming what is left."""
        if self._closed:
            return
        self._closed = self._closing = True
        self._wake()
        self._thread.join()
        with self._lock:  # whoever comes too late to wake the thread must not write to somebody else's descriptor
            os.close(self._wakes)
            os.close(self._waker)
            self._waker = -1
        self._process.close(Deadline(CLOSE_TIMEOUT))

    # -- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: InfrastructureError | None = None
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._channel, selectors.EVENT_READ)
                selector.register(self._wakes, selectors.EVENT_READ)
                while not self._closing:
                    self._turn(selector)
        except InfrastructureError as problem:
            error = problem
        except OSError as problem:
            error = InfrastructureError(f"what is heard{self.place} cannot be kept: {problem}", log=self._clock_log)
        except Exception as problem:  # our own bug: who waits for events must hear of it
            log.exception("the observer%s", self.place)
            error = InfrastructureError(f"listening{self.place} failed: {type(problem).__name__}: {problem}")
        self._end(error)

    def _turn(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic_ns()
        due_ns = self._heartbeat.due_ns(self._mapper.waits_since_ns)
        if now >= due_ns:
            self._ping(now)
            due_ns = now + _TICK_NS
        self._send()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
        selector.modify(self._channel, wanted)
        ready = selector.select(max(0, min(due_ns - now, _TICK_NS)) / NS)
        heard = False
        for key, what in ready:
            if key.fileobj == self._wakes:
                os.read(self._wakes, 4096)
            elif what & selectors.EVENT_READ:
                heard = self._receive()
        self._heartbeat.look(time.monotonic_ns(), heard=heard)
        if self._lost is not None:
            raise self._ended()
        if self._heartbeat.quiet_ns < DOUBT_NS:
            self._probe = None
        elif self._probe is None:
            self._probe = _Probe(self._host)
        if self._heartbeat.quiet_ns >= SILENCE_NS:
            raise self._silent()

    def _ping(self, now_ns: int) -> None:
        number = self._heartbeat.ask(now_ns)
        with self._lock:
            self._outgoing += json.dumps({"id": number, "do": "ping"}).encode() + b"\n"

    def _send(self) -> None:
        with self._lock:
            try:
                while self._outgoing:
                    del self._outgoing[: self._channel.send(bytes(self._outgoing))]
            except (BlockingIOError, TimeoutError):
                pass
            except OSError:
                self._outgoing.clear()  # the end of its output says more

    def _receive(self) -> bool:
        """Whether anything has come. Raises InfrastructureError at the end of the stream."""
        try:
            data = self._channel.recv(_AT_ONCE)
        except (BlockingIOError, TimeoutError):
            return False
        except OSError:
            data = b""
        arrival_ns = time.monotonic_ns()  # taken after the bytes: no later byte may pass for an earlier one
        if not data:
            raise self._ended()
        *lines, rest = (bytes(self._input) + data).split(b"\n") if b"\n" in data else [bytes(self._input) + data]
        self._input = bytearray(rest)
        if len(rest) > _LONGEST_LINE:
            raise self._disturbed(bytes(rest[:200]))
        for line in lines:
            self._take_line(line, arrival_ns)
        self._tell_heard()
        return True

    def _take_line(self, line: bytes, arrival_ns: int) -> None:
        try:
            message: Any = json.loads(line)
            pong = message.get("is") == "pong"
            number = int(message["id"])
            if pong:
                self._take_pong(number, int(message["t_ns"]), arrival_ns)
            elif not self.clock.ready:
                raise ValueError("no answer to a ping")
            elif "record" in message:
                int(message["record"]["t_ns"]), str(message["record"]["kind"])
                self._mapper.take(message, arrival_ns)
            else:
                str(message["is"])
                self._mapper.take(message, arrival_ns)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if self.clock.ready:
                raise self._disturbed(line) from error
            self._noise.append(line.decode("utf-8", "replace").rstrip())  # of a login, before the observer began

    def _take_pong(self, number: int, theirs_ns: int, arrival_ns: int) -> None:
        sent_ns = self._heartbeat.answer(number, arrival_ns)
        if sent_ns is None:
            return
        found = self.clock.add(sent_ns, theirs_ns, arrival_ns)
        stall = None if found is None else stall_of(found)
        if stall is not None:
            for listener in list(self._journals):
                self._journal(listener, stall)
        self._mapper.sampled(sent_ns, arrival_ns)
        self._ready.set()

    # -- what is told -----------------------------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        number = int(message["id"])
        if "record" in message:
            self._journal(number, message["record"])
            self._heard.add(number)
            return
        if message["is"] in {"stopped", "failed"}:
            self._close_journal(number)
        self._tell(number, dict(message))

    def _journal(self, number: int, record: Message) -> None:
        journal = self._journals.get(number)
        if journal is None:
            return
        try:
            journal.add(record)
        except OSError as error:
            self._close_journal(number)
            self._tell(number, {"is": "failed", "why": f"the journal cannot be written: {error}"})
            with self._lock:
                self._outgoing += json.dumps({"id": number, "do": "stop"}).encode() + b"\n"

    def _close_journal(self, number: int) -> None:
        journal = self._journals.pop(number, None)
        if journal is not None:
            journal.close()

    def _tell_heard(self) -> None:
        heard, self._heard = self._heard, set()
        for number in heard:
            self._tell(number, {"is": "heard"})

    def _tell(self, number: int, answer: dict[str, Any]) -> None:
        listener = self._listeners.get(number)
        if listener is not None:
            listener.told(answer)

    # -- its end ----------------------------------------------------------------------------------------------

    def _end(self, error: InfrastructureError | None) -> None:
        """Nothing more will be heard: all that was is kept, then all are told why."""
        with contextlib.suppress(OSError, ValueError):
            self._mapper.give_up()
        self._tell_heard()
        with self._lock:
            self.failure = error
            self._over = error or InfrastructureError(f"the listening{self.place} has ended")
            listeners = list(self._listeners)
        why = _in_a_sentence(self._over)
        for number in listeners:
            self._tell(number, {"is": "failed", "why": why})
        for number in list(self._journals):
            self._close_journal(number)
        self._ready.set()

    def _ended(self) -> InfrastructureError:
        """Why the output has ended: the link, if its loss is known by now, else the observer."""
        deadline = Deadline(_CAUSE_GRACE)
        while self._cause() is None and self._process.exit_status() in {None, _LINK_LOST} and not deadline.expired:
            self._lost_known.wait(min(_LOOK, deadline.remaining))
        lost = self._cause()
        if lost is not None:
            return self._error(f"nothing is heard from {self._host.name} any more: {lost.problem}")
        status = self._process.exit_status()
        how = "its output has ended" if status is None else f"exit status {status}"
        return self._error(f"the observer{self.place} has ended ({how})")

    def _cause(self) -> InfrastructureError | None:
        return self._lost or self._host.failure

    def _silent(self) -> InfrastructureError:
        if self._probe is not None and self._probe.answered:
            return self._error(
                f"the observer{self.place} stands still, though the host answers", "was it stopped, or starved?"
            )
        return self._error(f"{self._host.name} hangs, or the link to it stands still", None)

    def _disturbed(self, line: bytes) -> InfrastructureError:
        shown = line[:200].decode("utf-8", "replace")
        return self._error(f"what came from the observer{self.place} is none of its lines: {shown!r}")

    def _error(self, problem: str, hint: str | None = None) -> InfrastructureError:
        return InfrastructureError(
            problem,
            awaited=f"a sign of life from the observer{self.place}",
            waited=self._heartbeat.quiet_ns / NS,
            last_lines=self.last_lines,
            log=self._log,
            hint=hint,
        )

    def _on_lost(self, failure: InfrastructureError) -> None:
        self._lost = failure
        self._lost_known.set()
        self._wake()

    def _wake(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # full: it will wake
            if self._waker >= 0:
                os.write(self._waker, b"\0")


class _Probe:
    """Has the host run something, beside: it may be the observer alone that stands still."""

    def __init__(self, host: Host) -> None:
        self.answered = False
        self._host = host
        threading.Thread(target=self._ask, name=f"probe-{host.name}", daemon=True).start()

    def _ask(self) -> None:
        try:
            self._host.run(["true"], Deadline(_PROBE_SECONDS))
            self.answered = True
        except Exception as error:  # whatever it is, the host did not answer, and that is all that was asked
            log.info("asked whether %s answers: %s", self._host.name, error)


def _in_a_sentence(error: InfrastructureError) -> str:
    waited = "" if error.waited is None else f", for {error.waited:.1f} s"
    awaited = "" if error.awaited is None else f" (awaited: {error.awaited}{waited})"
    return f"{error.problem}{awaited}"
