"""Reads QEMU's trace pipe: a thread that waits on nothing else, since QEMU stands still while nobody reads.

Only lines that tell of the RTC or of a reset are passed on. The others are in the majority by far: each byte that a
guest prints is a traced write.
"""

from __future__ import annotations

import calendar
import fcntl
import functools
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.qemu.clock import Sample, sample_clocks

PIPE_SIZE = 1 << 20
_F_SETPIPE_SZ = 1031

_PREFIX = re.compile(rb"\d+@(\d+)\.(\d{6}):|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{6})Z ")
"""QEMU's stamp: `PID@SECONDS.MICROSECONDS:` (seen in 7.2 to 10.0), an ISO 8601 time and a blank in 11.1."""

_ACCESS = re.compile(
    rb"memory_region_ops_(read|write) cpu -?\d+ mr 0x[0-9a-f]+ addr (0x[0-9a-f]+) value (0x[0-9a-f]+) size (\d+)"
    rb" name '([^']*)'"
)
_NEEDLES = (b" name 'rtc'", b" name 'rtc-index'", b"resettable_reset", b"runstate_set", b" addr 0xcf9 ")
"""What a line has in it that is kept; 0xcf9 is the port by which a guest asks for a full reset."""

_UNHURRIED = 0.001
"""Seconds in which lines may gather after some of which none was kept."""


@dataclass(frozen=True)
class Chunk:
    """Complete lines as they came from the pipe, of those that are kept, and when they came."""

    data: bytes
    arrival: Sample


@dataclass(frozen=True)
class PortAccess:
    """A guest's access to a device register: region as QEMU names it, port address, value, bytes."""

    region: str
    address: int
    value: int
    size: int
    is_read: bool = False


def wall_stamp_ns(line: bytes) -> int | None:
    """QEMU's own stamp of a trace line, wall-clock nanoseconds; None where the line has none."""
    match = _PREFIX.match(line)
    if match is None:
        return None
    seconds, micros, date, micros_of_date = match.groups()
    if seconds is not None:
        return int(seconds) * 1_000_000_000 + int(micros) * 1_000
    whole = _seconds_of(date)
    return None if whole is None else whole * 1_000_000_000 + int(micros_of_date) * 1_000


@functools.lru_cache(maxsize=8)
def _seconds_of(date: bytes) -> int | None:
    try:
        return calendar.timegm(time.strptime(date.decode("ascii"), "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def port_access(line: bytes) -> PortAccess | None:
    """The access that a trace line tells of; None for any other line."""
    match = _ACCESS.search(line)
    if match is None:
        return None
    way, address, value, size, region = match.groups()
    return PortAccess(region.decode("ascii", "replace"), int(address, 16), int(value, 16), int(size), way == b"read")


def lines_of_interest(data: bytes) -> bytes:
    """Of complete lines those that are kept, in their order.

    Without a step of Python's for each of the others: a Linux boot has 100,000 of them.
    """
    found: dict[int, int] = {}
    for needle in _NEEDLES:
        at = data.find(needle)
        while at >= 0:
            begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at) + 1
            found[begin] = end
            at = data.find(needle, end)
    return b"".join(data[begin:end] for begin, end in sorted(found.items()))


class TraceDrain:
    """Owns the trace pipe. `chunks` receives what was read and is kept; None when the pipe's last writer has gone.

    The thread reads, stamps, sifts and queues, and does nothing else: parsing, the log file and the vRTC are
    for the thread at the other end of the queue, which may wait as long as it likes.
    """

    def __init__(self, on_end: Callable[[], object] = lambda: None) -> None:
        self._read_end, self.write_end = os.pipe()
        try:
            fcntl.fcntl(self._read_end, _F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            pass  # an unprivileged user may be over the system's pipe quota: the default size works too
        self.chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name="trace-drain", daemon=True)

    def start(self) -> None:
        """To be called when QEMU holds the write end: ours is closed here, so that its death ends the pipe."""
        os.close(self.write_end)
        self.write_end = -1
        self._thread.start()

    def close(self, timeout: float) -> bool:
        """Wait for the end of the pipe, after QEMU's; False if it did not come within `timeout` seconds."""
        if not self._thread.ident:  # never started
            if self.write_end >= 0:
                os.close(self.write_end)
                os.close(self._read_end)
                self.write_end = -1
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._read()
        finally:  # also when reading failed: nobody may wait for lines that cannot come
            os.close(self._read_end)
            self.chunks.put(None)
            self._on_end()

    def _read(self) -> None:
        rest = b""
        while data := os.read(self._read_end, PIPE_SIZE):
            arrival = sample_clocks()
            data = rest + data
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            if kept := lines_of_interest(data[:end]):
                self.chunks.put(Chunk(kept, arrival))
            elif end:
                # A guest that prints wakes this thread for every byte. Arrivals are that much later then, and stamps
                # are QEMU's: nothing is due before a whole settle window has passed. The pipe holds far more.
                time.sleep(_UNHURRIED)
        if kept := lines_of_interest(rest + b"\n"):
            self.chunks.put(Chunk(kept, sample_clocks()))
