"""Byte channels a console can run over: a socket, a descriptor (pty, serial line), or anything alike."""

from __future__ import annotations

import errno
import os
import socket
from typing import Protocol


class Channel(Protocol):
    """A non-blocking two-way byte stream; its descriptor polls for both ways, as a socket's or a pty's does."""

    def fileno(self) -> int:
        """Descriptor that polls readable when bytes, or the end, are there, and writable when some fit."""

    def recv(self, size: int, /) -> bytes:
        """What is there, at most `size` bytes; b"" at the end of the stream. Raises OSError."""

    def send(self, data: bytes, /) -> int:
        """Takes as much as fits, returns how much. Raises OSError."""

    def close(self) -> None:
        """Ends the stream."""


class DescriptorChannel:
    """A file descriptor (pty, serial device) as a channel. Owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)

    def fileno(self) -> int:
        """The descriptor itself."""
        return self._descriptor

    def recv(self, size: int, /) -> bytes:
        """Reads; the EIO with which Linux ends a pty whose other side closed is an end, not an error."""
        try:
            return os.read(self._descriptor, size)
        except OSError as error:
            if error.errno == errno.EIO:
                return b""
            raise

    def send(self, data: bytes, /) -> int:
        """Writes what fits."""
        return os.write(self._descriptor, data)

    def close(self) -> None:
        """Closes the descriptor. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def channel_of(endpoint: socket.socket | int | Channel) -> Channel:
    """The channel for a socket, a descriptor or something that is one already. Takes ownership."""
    if isinstance(endpoint, socket.socket):
        endpoint.setblocking(False)
        return endpoint
    if isinstance(endpoint, int):
        return DescriptorChannel(endpoint)
    return endpoint
