"""The listening process: monitor sockets in, journals out, every arrival stamped before anything else is done.

It is a process of its own so that nothing the harness computes can put off a stamp. It takes JSON lines on its
standard input and answers on its standard output; when its input ends, it does.

    {"id": N, "do": "listen", "socket": PATH, "journal": FILE}
    {"id": N, "do": "stop"}
    <- {"id": N, "is": "waiting", "why": ...} | "refused" | "listening" | "heard" | "closed" | "failed" | "stopped"
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path

from harness.listener.pulse import PERIOD, Pulses
from harness.listener.reader import ObjectReader
from harness.listener.waits import ProcessorWaits, waits_of_peer

REGISTER = b'{"command":"register_vm_event_client"}'
ALIVE_NS = 500_000_000
"""So often a journal is told that somebody listens: only until then is silence known to be silence."""

_MOST_UNSENT = 1 << 16

STARVED_NS = 20_000_000
"""So long a wait of the service's for a processor is worth a note."""

STALL_NS = 60_000_000
"""A turn of the loop that is later than this is a stall: a stamp taken after it may be as late."""

_LONGEST_ADDRESS = 107


class Recorder:
    """The loop over all sockets of a run."""

    def __init__(self, stdin: int, stdout: int) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._input = b""
        self._output = bytearray()
        os.set_blocking(stdout, False)  # a harness that stands still must not make its listener do so
        self._streams: dict[int, Stream] = {}
        self._selector = selectors.DefaultSelector()
        self._pulses = Pulses()

    def run(self) -> None:
        """Serve until the input ends."""
        self._selector.register(self._stdin, selectors.EVENT_READ)
        self._pulses.start()
        last = time.monotonic_ns()
        with self._selector:
            while True:
                ready = self._selector.select(PERIOD if self._streams else None)
                now = time.monotonic_ns()
                for key, _ in ready:
                    if key.fileobj != self._stdin and not isinstance(key.fileobj, int):
                        key.data.readable(now)
                if self._streams and now - last > PERIOD * 1e9 + STALL_NS:
                    self._note("stall", from_ns=last, to_ns=now)
                for stall in self._pulses.noticed():
                    self._note("cpu-stall", cpu=stall.cpu, from_ns=stall.from_ns, to_ns=stall.to_ns)
                for stream in list(self._streams.values()):
                    stream.try_to_connect()
                    stream.attest(now)
                self._flush()
                if any(key.fileobj == self._stdin for key, _ in ready) and not self._commands():
                    break
                last = now
        self._pulses.close()

    def _note(self, kind: str, **details: int) -> None:
        for stream in self._streams.values():
            stream.write(kind, **details)

    def _commands(self) -> bool:
        data = os.read(self._stdin, 65536)
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            number = command["id"]
            if command["do"] == "listen":
                try:
                    self._streams[number] = Stream(number, command, self._selector, self._answer)
                except OSError as error:
                    self._answer(id=number, **{"is": "failed", "why": f"the journal cannot be opened: {error}"})
            elif number in self._streams:
                self._streams.pop(number).stop()
        if not data:
            for stream in self._streams.values():
                stream.stop()
        return bool(data)

    def _answer(self, **answer: object) -> None:
        if answer["is"] != "heard" or len(self._output) < _MOST_UNSENT:
            self._output += json.dumps(answer).encode() + b"\n"
        self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._output:
                del self._output[: os.write(self._stdout, self._output)]


class Stream:
    """One guest's event stream and its journal."""

    def __init__(
        self,
        number: int,
        command: dict[str, str],
        selector: selectors.BaseSelector,
        answer: Callable[..., object],
    ) -> None:
        self._number = number
        self._path = Path(command["socket"])
        self._selector = selector
        self._answer = answer
        self._socket: socket.socket | None = None
        self._reader = ObjectReader()
        self._registered = self._over = self._broken = False
        self._attested_ns = 0
        self._waits: ProcessorWaits | None = None
        self._why = ""
        self._journal = os.open(command["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def say(self, what: str, **details: object) -> None:
        """Tell the harness."""
        self._answer(id=self._number, **{"is": what}, **details)

    def write(self, kind: str, t_ns: int | None = None, **details: object) -> None:
        """Add a record to the journal."""
        record = {"t_ns": time.monotonic_ns() if t_ns is None else t_ns, "kind": kind, **details}
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._journal, line) :]
        except OSError as error:
            self._over = self._broken = True
            self.say("failed", why=f"the journal cannot be written: {error}")

    def try_to_connect(self) -> None:
        """Connect if there is something to connect to by now, and register."""
        if self._socket is not None or self._over:
            return
        try:
            self._socket = _connect(self._path)
        except OSError as error:
            if str(error) != self._why:
                self._why = str(error)
                self.say("waiting", why=self._why)
            return
        self.write("connected")
        self._waits = waits_of_peer(self._socket)
        self._selector.register(self._socket, selectors.EVENT_READ, self)
        try:
            self._socket.sendall(REGISTER)
        except OSError as error:
            self._end(time.monotonic_ns(), str(error))

    def attest(self, now_ns: int) -> None:
        """Note in the journal, twice a second, that this stream is being listened to."""
        if self._registered and not self._over and now_ns - self._attested_ns >= ALIVE_NS:
            self._attested_ns = now_ns
            self._note_waits(now_ns)
            self.write("alive", now_ns)

    def _note_waits(self, now_ns: int) -> None:
        """What comes late may be late for that: noted before it."""
        waited_ns = 0 if self._waits is None else self._waits.grown()
        if waited_ns >= STARVED_NS:
            self.write("starved", now_ns, waited_ns=waited_ns)

    def readable(self, now_ns: int) -> None:
        """Something has come, at `now_ns`."""
        assert self._socket is not None
        try:
            data, reason = _receive(self._socket), "closed by the service"
        except BlockingIOError:
            return
        except OSError as error:
            data, reason = b"", str(error)
        self._note_waits(now_ns)
        for item in self._reader.feed(data):
            if isinstance(item, bytes):
                self.write("garbage", now_ns, hex=item.hex())
            elif not self._registered and "ack" in item:
                self._registered = True
                self.write("ack", now_ns, object=item)
                self.say("listening" if item == {"ack": 0} else "refused", answer=item)
            else:
                self.write("object", now_ns, event=item)
        if data:
            self.say("heard")
        else:
            self._end(now_ns, reason)

    def stop(self) -> None:
        """Listen no more; the journal is complete then."""
        self._disconnect()
        if not self._broken:
            self.write("end")
        os.close(self._journal)
        self.say("stopped")

    def _end(self, now_ns: int, reason: str) -> None:
        if rest := self._reader.rest():
            self.write("garbage", now_ns, hex=rest.hex())
        self.write("closed", now_ns, reason=reason)
        self._disconnect()
        self._over = True
        self.say("closed", why=reason)

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None


def _connect(path: Path) -> socket.socket:
    """A connection to a unix socket, whose path may be longer than an address can hold."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.ExitStack() as stack:
            address = str(path)
            if len(os.fsencode(address)) > _LONGEST_ADDRESS:
                folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
                stack.callback(os.close, folder)
                address = f"/proc/self/fd/{folder}/{path.name}"
            connection.setblocking(False)  # a full backlog is tried again like a socket that is not there yet
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _receive(connection: socket.socket) -> bytes:
    """Bytes from the stream; descriptors that come along (acrn-dm attaches one to all it sends) are dropped."""
    data, descriptors, _, _ = socket.recv_fds(connection, 65536, 4)
    for descriptor in descriptors:
        os.close(descriptor)
    return data
