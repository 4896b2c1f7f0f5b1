"""QMP beside the guest: commands from any thread, and the full history of QEMU's events.

Of the protocol (a JSON object a line: greeting, answers with the command's `id`, events) so much is needed that it
is done here. The library for it brings asyncio and ssl along, 5 MB and 30 ms in the process of each guest.
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.deadline import Deadline
from harness.errors import InfrastructureError

log = logging.getLogger(__name__)

_CAPABILITIES = 0
"""The number of the first command; QEMU carries out no other before it."""

_READ = 65536


class QmpMonitor:
    """A QMP session on a connected socket, in a thread of its own; owns the socket.

    `on_event` is called in that thread with every event as QEMU sent it. The session ends with QEMU or
    by `close`; QEMU's death is told by its pidfd, not here.
    """

    def __init__(self, connection: socket.socket, on_event: Callable[[Mapping[str, Any]], object]) -> None:
        self._connection = connection
        self._on_event = on_event
        self._numbers = itertools.count(_CAPABILITIES + 1)
        self._lock = threading.Lock()
        self._awaited: dict[int, queue.SimpleQueue[Mapping[str, Any] | None]] = {}
        self._ready = threading.Event()
        self._over = self._closing = False
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="qmp", daemon=True)

    @property
    def failure(self) -> str | None:
        """Why the session ended before QEMU or `close` ended it; None where it did not: all events were seen."""
        return self._failure

    def start(self) -> None:
        """Begin the session; does not wait for QEMU's greeting."""
        self._thread.start()

    def execute(self, command: str, deadline: Deadline, **arguments: object) -> object:
        """QEMU's answer to a command.

        Raises InfrastructureError when QEMU refuses it, is gone, or does not answer in time.
        """
        self._ready.wait(deadline.remaining)
        answers: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        number = next(self._numbers)
        with self._lock:
            if self._over or not self._ready.is_set():
                raise self._error(f"no QMP session for {command}", deadline)
            self._awaited[number] = answers
        try:
            self._send(command, number, arguments)
            answer = answers.get(timeout=deadline.remaining)
        except queue.Empty:
            raise self._error(f"QEMU did not answer {command}", deadline) from None
        except OSError:
            answer = None
        finally:
            with self._lock:
                self._awaited.pop(number, None)
        if answer is None:
            raise self._error(f"the QMP session ended before {command} was answered", deadline)
        if "error" in answer:
            raise self._error(f"QEMU refused {command}: {answer['error'].get('desc')}", deadline)
        return answer.get("return")

    def close(self, timeout: float) -> bool:
        """End the session, once what QEMU said has been taken; False when its thread still runs after `timeout` s."""
        if not self._thread.ident:
            self._connection.close()
            return True
        self._closing = True
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # QEMU has gone
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _error(self, problem: str, deadline: Deadline) -> InfrastructureError:
        return InfrastructureError(
            problem,
            awaited="QEMU's answer on its QMP channel",
            waited=deadline.elapsed,
            last_lines=[self._failure] if self._failure else [],
        )

    def _send(self, command: str, number: int, arguments: Mapping[str, object]) -> None:
        said: dict[str, object] = {"execute": command, "id": number}
        if arguments:
            said["arguments"] = arguments
        self._connection.sendall(json.dumps(said).encode() + b"\n")

    def _run(self) -> None:
        try:
            for message in self._messages():
                self._take(message)
            if not self._ready.is_set() and not self._closing:
                self._failure = "QEMU ended before there was a session"
        except Exception as error:  # however a session ends, who asks next is told; the guest is not its business
            if not (self._closing and isinstance(error, OSError)):
                self._failure = f"{type(error).__name__}: {error}"
                log.debug("QMP session ended: %s", self._failure)
        finally:
            with self._lock:
                self._over = True
                for answers in self._awaited.values():
                    answers.put(None)
            self._ready.set()
            self._connection.close()

    def _messages(self) -> Iterator[dict[str, Any]]:
        """What QEMU says, until it says no more."""
        rest = b""
        while data := self._receive():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError(f"not a QMP message: {line[:80]!r}")
                yield message

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(_READ)
        except ConnectionResetError:  # QEMU ended with something of ours unread
            return b""

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._on_event(message)
        elif "QMP" in message:
            self._send("qmp_capabilities", _CAPABILITIES, {})
        elif message.get("id") != _CAPABILITIES:
            with self._lock:
                answers = self._awaited.get(message.get("id", -1))
            if answers is not None:  # else whoever asked has given up
                answers.put(message)
        elif "error" in message:
            raise ValueError(f"QEMU refuses a session: {message['error']}")
        else:
            self._ready.set()
