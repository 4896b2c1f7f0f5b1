"""The listening process: monitor sockets in, journals out, every arrival stamped before anything else is done.

It is a process of its own so that nothing the harness computes can put off a stamp. It takes JSON lines on its
standard input and answers on its standard output; when its input ends, it does.

    {"id": N, "do": "listen", "socket": PATH, "journal": FILE}
    {"id": N, "do": "stop"}
    {"id": N, "do": "ping"}
    <- {"id": N, "is": "waiting", "why": ...} | "refused" | "listening" | "heard" | "closed" | "failed" | "stopped"
    <- {"id": N, "is": "pong", "t_ns": ...}

On a host under test it is the observer (harness/onhost/observer.py), whose journals are lines of its output.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import time
from pathlib import Path

from harness.listener.journals import FileJournal, Journal, encoded
from harness.listener.output import Output
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
        self._input = b""
        self._streams: dict[int, Stream] = {}
        self._selector = selectors.DefaultSelector()
        self.output = Output(stdout, self._selector)  # a harness that stands still must not make its listener do so
        self._pulses: Pulses | None = None

    def open_journal(self, number: int, command: dict[str, str]) -> Journal:
        """Where the records of a stream go. Raises OSError."""
        return FileJournal(command["journal"])

    def heard(self, number: int) -> None:
        """Tell the harness that there is something new in a journal; once is enough while it does not read."""
        if self.output.waiting < _MOST_UNSENT:
            self._answer(id=number, **{"is": "heard"})

    def run(self) -> None:
        """Serve until the input ends."""
        self._selector.register(self._stdin, selectors.EVENT_READ)
        last = time.monotonic_ns()
        with self._selector:
            while True:
                ready = self._selector.select(PERIOD if self._streams else None)
                now = time.monotonic_ns()
                for key, _ in ready:
                    if not isinstance(key.fileobj, int):
                        key.data.readable(now)
                if self._streams and now - last > PERIOD * 1e9 + STALL_NS:
                    self._note("stall", from_ns=last, to_ns=now)
                for stall in self._pulses.noticed() if self._pulses is not None else ():
                    self._note("cpu-stall", cpu=stall.cpu, from_ns=stall.from_ns, to_ns=stall.to_ns)
                for stream in list(self._streams.values()):
                    stream.try_to_connect()
                    stream.attest(now)
                going_on = all(key.fileobj != self._stdin for key, _ in ready) or self._commands()
                self.output.flush()
                if not going_on:
                    break
                last = now if self._streams else time.monotonic_ns()
        self._pulse()

    def _note(self, kind: str, **details: int) -> None:
        for stream in self._streams.values():
            stream.write(kind, **details)

    def _commands(self) -> bool:
        try:
            data = os.read(self._stdin, 65536)
        except BlockingIOError:  # what makes the output not wait does so with an input that is the same socket
            return True
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))
        if not data:
            for stream in self._streams.values():
                stream.stop()
            self._streams.clear()
        self._pulse()
        return bool(data)

    def _obey(self, command: dict[str, str]) -> None:
        number = int(command["id"])
        if command["do"] == "ping":
            self.output.add(encoded({"id": number, "is": "pong", "t_ns": time.monotonic_ns()}), urgent=True)
        elif command["do"] == "listen":
            try:
                journal = self.open_journal(number, command)
            except OSError as error:
                self._answer(id=number, **{"is": "failed", "why": f"the journal cannot be opened: {error}"})
                return
            self._streams[number] = Stream(self, number, Path(command["socket"]), journal)
        elif number in self._streams:
            self._streams.pop(number).stop()

    def _pulse(self) -> None:
        """Beat as long as there is something to listen to."""
        if self._streams and self._pulses is None:
            self._pulses = Pulses()
            self._pulses.start()
        elif not self._streams and self._pulses is not None:
            self._pulses.close()
            self._pulses = None

    def _answer(self, **answer: object) -> None:
        self.output.add(encoded(answer))

    @property
    def selector(self) -> selectors.BaseSelector:
        """What the loop waits on."""
        return self._selector


class Stream:
    """One guest's event stream and its journal, which it closes."""

    def __init__(self, recorder: Recorder, number: int, path: Path, journal: Journal) -> None:
        self._recorder = recorder
        self._number = number
        self._path = path
        self._journal = journal
        self._socket: socket.socket | None = None
        self._reader = ObjectReader()
        self._registered = self._over = self._broken = False
        self._attested_ns = 0
        self._waits: ProcessorWaits | None = None
        self._why = ""

    def say(self, what: str, **details: object) -> None:
        """Tell the harness."""
        self._recorder.output.add(encoded({"id": self._number, "is": what, **details}))

    def write(self, kind: str, t_ns: int | None = None, **details: object) -> None:
        """Add a record to the journal."""
        if self._broken:
            return
        try:
            self._journal.add({"t_ns": time.monotonic_ns() if t_ns is None else t_ns, "kind": kind, **details})
        except OSError as error:
            self._over = self._broken = True
            self._disconnect()
            self.say("failed", why=f"the journal cannot be written: {error}")

    def try_to_connect(self) -> None:
        """Connect if there is something to connect to by now, and register."""
        if self._socket is not None or self._over:
            return
        try:
            connection = _connect(self._path)
        except OSError as error:
            if str(error) != self._why:
                self._why = str(error)
                self.say("waiting", why=self._why)
            return
        self._socket = connection
        self._recorder.selector.register(connection, selectors.EVENT_READ, self)
        self._waits = waits_of_peer(connection)
        self.write("connected")
        if self._over:
            return
        try:
            connection.sendall(REGISTER)
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
        if self._socket is None:
            return  # it was given up in this very turn
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
            self._recorder.heard(self._number)
        else:
            self._end(now_ns, reason)

    def stop(self) -> None:
        """Listen no more; the journal is complete then."""
        self._disconnect()
        self.write("end")
        with contextlib.suppress(OSError):
            self._journal.close()
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
            self._recorder.selector.unregister(self._socket)
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
