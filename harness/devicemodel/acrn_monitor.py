"""A monitor socket that behaves as `acrn-dm`'s does, with its peculiarities, for clients to be rehearsed against.

As ACRN's source says (`--cmd_monitor`): one connection is served at a time and others wait in the backlog, unanswered;
commands are read into a buffer of 4,096 bytes, newlines become NULs, the first object in the buffer is the command, and
a full buffer is dropped; what is no command gets no answer; a command without an argument is executed with the one it
had last; answers and events are JSON over several lines with tabs, nothing between two of them, and each has a
descriptor attached, this side's own end of the connection; events go to the one client that has registered, or to
nobody. Not imitated: that a connection is accepted up to half a second late, and that an answer and an event share a
buffer without a lock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.vm_event import SettledRtcChange
from harness.vm_event.sockets import ListeningSocket

#: A command's buffer, and how much of an argument is kept (the closing NUL included), in bytes.
BUFFER_SIZE = 4096
ARGUMENT_SIZE = 320
REGISTER = "register_vm_event_client"
COMMANDS = ("destroy", "blkrescan", REGISTER)
#: How long a client may take to read the answer that it is sent at the end, in seconds.
LAST_ANSWER_PATIENCE = 1.0
#: What its events say where a time is not known.
UNKNOWN = -1

Command = Callable[[str], bool]

log = logging.getLogger(__name__)


class AcrnMonitor:
    """Serves the socket on a thread of its own, from the making to `close`; `publish` is for any thread."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        """`commands`: what carries out `destroy` and `blkrescan`; it is given the argument, and one missing fails.

        Raises MonitorError when the socket cannot be made.
        """
        self._commands = commands
        self._arguments: dict[str, str] = {}
        self._listener = ListeningSocket(path, backlog=1)
        self._client: socket.socket | None = None
        self._registered = False
        #: Guards who the client is: events are sent by another thread than answers.
        self._lock = threading.Lock()
        #: Held while something is sent, which may take as long as the client likes; not to be closed meanwhile.
        self._sending = threading.Lock()
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="acrn-monitor", daemon=True)
        self._thread.start()

    def publish(self, settled: SettledRtcChange) -> None:
        """Send a settled event, as ACRN's service words it, to the client that has registered.

        Waits for a client that does not read, as `acrn-dm` does; `close` ends the wait.
        """
        last_time, delta_time = settled.last_time, settled.delta_time
        if last_time is None or delta_time is None:
            assert settled.new_time is not None, "only a service that is not ours knows no new_time"
            last_time, delta_time = UNKNOWN, settled.new_time - UNKNOWN
        self.send_event(last_time, delta_time)

    def send_event(self, last_time: int, delta_time: int) -> None:
        """Send an event of these times. Waits as `publish` does."""
        with self._lock:
            client = self._client if self._registered else None
        if client is not None:
            self._send(client, {"vm_event": 0, "delta_time": delta_time, "last_time": last_time})

    def close(self) -> None:
        """Hang up, and remove the socket."""
        os.write(self._stop_write, b"\0")
        _shut_down(self._listener.socket)  # nobody is to get in while the one who is there is being thrown out
        self._thread.join(LAST_ANSWER_PATIENCE)
        with self._lock:
            if self._client is not None:
                _shut_down(self._client)  # it has not read the answer that is being sent to it
        self._thread.join()
        self._listener.close()
        for descriptor in (self._stop_read, self._stop_write):
            os.close(descriptor)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._stop_read, selectors.EVENT_READ)
            while True:
                watched = self._client or self._listener.socket
                selector.register(watched, selectors.EVENT_READ)
                ready = {key.fd for key, _ in selector.select()}
                selector.unregister(watched)
                if self._stop_read in ready:
                    break
                if self._client is None:
                    self._accept()
                else:
                    self._read(self._client)
        self._hang_up()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.socket.accept()
        except OSError as error:  # it has left again
            log.debug("nobody to accept: %s", error)
            return
        connection.setblocking(True)
        with self._lock:
            self._client = connection

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(BUFFER_SIZE)
        except OSError:
            data = b""
        if not data:
            self._hang_up()
        elif len(data) == BUFFER_SIZE:
            log.warning("a command that fills the buffer is dropped")
        else:
            self._execute(client, data)

    def _execute(self, client: socket.socket, data: bytes) -> None:
        name, argument = _parse(data)
        if name not in COMMANDS:
            log.warning("not a command, and not answered: %r", data[:100])
            return
        if argument is not None:
            kept = argument.encode("utf-8", "replace")[: ARGUMENT_SIZE - 1]
            self._arguments[name] = kept.decode("utf-8", "replace")
        if name == REGISTER:
            success = self._register()
        else:
            command = self._commands.get(name)
            success = command is not None and command(self._arguments.get(name, ""))
        self._send(client, {"ack": 0 if success else -1})

    def _register(self) -> bool:
        """There is one event client; the one there is would be refused, too."""
        with self._lock:
            was, self._registered = self._registered, True
        return not was

    def _send(self, client: socket.socket, message: dict[str, int]) -> None:
        data = json.dumps(message, indent="\t", separators=(",", ":\t")).encode("ascii")
        with self._sending:
            if client.fileno() < 0:
                return
            try:
                socket.send_fds(client, [data], [client.fileno()])
            except OSError as error:  # it has left: its end is what is read next
                log.debug("a client cannot be told %r: %s", data, error)

    def _hang_up(self) -> None:
        with self._lock:
            client, self._client = self._client, None
            self._registered = False
        if client is not None:
            _shut_down(client)
            with self._sending:
                client.close()


def _shut_down(connection: socket.socket) -> None:
    """End what goes over it: whoever waits for the other side waits no longer."""
    with contextlib.suppress(OSError):  # the other side may have left
        connection.shutdown(socket.SHUT_RDWR)


def _parse(data: bytes) -> tuple[str | None, str | None]:
    """Name and argument of the first object in a buffer, up to the first newline or NUL; no name for anything else."""
    text = data.replace(b"\n", b"\0").split(b"\0")[0].decode("utf-8", "replace")
    try:
        found, _ = json.JSONDecoder(strict=False).raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(found, dict):
        return None, None
    name, argument = (_string(found.get(key)) for key in ("command", "arguments"))
    return name, argument


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None
