"""A stream from the harness to something on the host: a unix socket, HOST:PORT, or a terminal device.

    relay [--folder FOLDER] [--mark MARK] [--wait SECONDS] ADDRESS

Both ways until either side ends or the session's lease is void.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import stat
import time
from collections.abc import Sequence

from harness.onhost.lease import Lease
from harness.onhost.words import complain, say

_MOST = 1 << 16
_TURN_MS = 500
_RETRY = 0.02


def connected(address: str, seconds: float) -> tuple[int, int]:
    """Descriptors to read from and write to. Raises OSError or ValueError when nobody accepts for so long."""
    until = time.monotonic() + seconds
    while True:
        try:
            return _opened(address, max(0.1, until - time.monotonic()))
        except OSError:
            if time.monotonic() >= until:
                raise
        time.sleep(_RETRY)  # that somebody listens can only be tried


def _opened(address: str, seconds: float) -> tuple[int, int]:
    if "/" not in address:
        host, _, port = address.rpartition(":")
        stream = socket.create_connection((host.strip("[]"), int(port)), timeout=seconds)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    elif stat.S_ISCHR(os.stat(address).st_mode):
        return _terminal(address)
    else:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(seconds)
        stream.connect(address)
    stream.setblocking(False)
    descriptor = stream.detach()
    return descriptor, descriptor


def _terminal(path: str) -> tuple[int, int]:
    from harness.onhost.keeper import make_raw

    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    if os.isatty(descriptor):
        make_raw(descriptor)
    return descriptor, descriptor


class _Way:
    """One direction: what was read and not yet written."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.sink = sink
        self.waiting = bytearray()
        self.ended = False

    def read(self) -> None:
        try:
            data = os.read(self.source, _MOST)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # what ended badly has ended
        self.waiting += data
        self.ended = self.ended or not data

    def write(self) -> None:
        try:
            while self.waiting:
                del self.waiting[: os.write(self.sink, self.waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self.waiting.clear()
            self.ended = True


def pump(ways: Sequence[_Way], lease: Lease | None) -> None:
    """Both ways until one has ended and its last bytes are through."""
    while not any(way.ended and not way.waiting for way in ways) and not (lease is not None and lease.void):
        poll = select.poll()
        wanted: dict[int, int] = {}
        for way in ways:
            if not way.ended and len(way.waiting) < _MOST:
                wanted[way.source] = wanted.get(way.source, 0) | select.POLLIN
            if way.waiting:
                wanted[way.sink] = wanted.get(way.sink, 0) | select.POLLOUT
        for descriptor, events in wanted.items():
            poll.register(descriptor, events)
        ready = dict(poll.poll(_TURN_MS))
        for way in ways:
            if ready.get(way.source, 0) & (select.POLLIN | select.POLLHUP | select.POLLERR) and not way.ended:
                way.read()
            if way.waiting:
                way.write()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0 once either side has ended."""
    parser = argparse.ArgumentParser(prog="relay")
    parser.add_argument("--folder")
    parser.add_argument("--mark", default="")
    parser.add_argument("--wait", type=float, default=0.0)
    parser.add_argument("address")
    options = parser.parse_args(arguments)
    try:
        lease = None if options.folder is None else Lease(options.folder)
        source, sink = connected(options.address, options.wait)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return complain(options.mark, why)
    say(options.mark)
    os.set_blocking(1, False)
    pump([_Way(source, 1), _Way(0, sink)], lease)
    return 0
