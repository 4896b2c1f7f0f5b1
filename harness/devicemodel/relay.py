"""Moves console bytes between the guest's serial port and our standard streams, never waiting on either."""

from __future__ import annotations

import collections
import os
import selectors
import socket

_CHUNK = 4096
_LIMIT = 1 << 20
_KEPT = 32768


class ConsoleRelay:
    """Both directions of a console, inside somebody else's selector.

    `closed` turns true when our side's input ends: whoever holds the console has gone, and the guest is to
    go with it. The guest's last output is kept for the exit record.
    """

    def __init__(self, selector: selectors.BaseSelector, guest: socket.socket, stdin: int, stdout: int) -> None:
        self._selector = selector
        self._guest = guest
        self._stdin, self._stdout = stdin, stdout
        self._to_guest = bytearray()
        self._to_us = bytearray()
        self._kept: collections.deque[bytes] = collections.deque(maxlen=256)
        self._guest_open = True
        self.closed = False
        guest.setblocking(False)
        for descriptor in {stdin, stdout}:
            if not os.isatty(descriptor):
                os.set_blocking(descriptor, False)
        self._poll_input = self._watch(stdin)
        selector.register(guest, selectors.EVENT_READ, self.guest_ready)

    def line_with(self, words: str) -> str | None:
        """The first line among the guest's last output that has these words."""
        return next((line for line in self._lines() if words in line), None)

    @property
    def last_lines(self) -> list[str]:
        """The last lines the guest printed."""
        return self._lines()[-20:]

    def _lines(self) -> list[str]:
        text = b"".join(self._kept)[-_KEPT:].decode("utf-8", "replace")
        return [line.rstrip("\r") for line in text.split("\n") if line.strip()]

    def _watch(self, stdin: int) -> bool:
        try:
            self._selector.register(stdin, selectors.EVENT_READ, self.input_ready)
        except PermissionError:  # a regular file is always ready and cannot be polled: read it at once
            while data := os.read(stdin, _CHUNK):
                self._to_guest += data
            return False
        return True

    def input_ready(self) -> None:
        """Our side has something for the guest, or has gone."""
        try:
            data = os.read(self._stdin, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
            self._selector.unregister(self._stdin)
            self._poll_input = False
            return
        self._to_guest += data
        self.flush()

    def guest_ready(self) -> None:
        """The guest has printed something, or there is room again for what we have for it."""
        if not self._guest_open:
            return
        try:
            data = self._guest.recv(_CHUNK * 4)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data == b"":
            self._guest_open = False
            self._selector.unregister(self._guest)
        elif data:
            self._kept.append(data)
            self._to_us += data
            del self._to_us[:-_LIMIT]  # nobody reads: the oldest output goes, the guest runs on
        self.flush()

    def flush(self) -> None:
        """Pass on what can be passed on now; what cannot is tried again at the next event or tick."""
        try:
            while self._to_us:
                del self._to_us[: os.write(self._stdout, self._to_us[:_CHUNK])]
        except BlockingIOError:
            pass
        except OSError:
            self._to_us.clear()
        try:
            while self._to_guest and self._guest_open:
                del self._to_guest[: self._guest.send(self._to_guest[:_CHUNK])]
        except BlockingIOError:
            pass
        except OSError:
            self._to_guest.clear()
        if self._guest_open:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._to_guest else 0)
            self._selector.modify(self._guest, wanted, self.guest_ready)

    @property
    def pending(self) -> bool:
        """Whether output waits for our side to read."""
        return bool(self._to_us)
