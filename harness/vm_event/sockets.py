"""Unix sockets at a path: long paths, a dead owner's left-over file, and never someone else's."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .errors import MonitorError
from .typed import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: sizeof(sun_path), its closing NUL included.
SUN_PATH = 108
#: How long to wait for another process that is binding a socket in the same directory, in seconds.
DIRECTORY_PATIENCE = 5.0


class ListeningSocket:
    """A listening unix stream socket with mode 0600, and its file; `close` removes the file if it is still
    ours.

    The left-over file of a dead process is replaced. Raises MonitorError when someone listens there, when the
    file is no socket, or when it cannot be made. `kind`: SOCK_STREAM, or SOCK_SEQPACKET for whole messages.
    """

    def __init__(self, path: Path | str, *, backlog: int = 1024, kind: int = socket.SOCK_STREAM) -> None:
        self.path = os.fspath(path)
        with ExitStack() as undo:
            self.socket = undo.enter_context(socket.socket(socket.AF_UNIX, kind))
            self.socket.setblocking(False)
            # The file gets the mode of the socket's inode: it is never open to others, not even for a moment.
            os.fchmod(self.socket.fileno(), 0o600)
            try:
                with _directory_lock(_directory(path)), socket_address(path) as address:
                    _remove_left_over(self.path, address)
                    self.socket.bind(address)
                    self._identity = _identity(self.path)
                    undo.callback(self._unlink)
                    self.socket.listen(backlog)
            except OSError as error:
                raise MonitorError(f"{path}: {error.strerror or error}") from error
            undo.pop_all()

    def fileno(self) -> int:
        """The listening descriptor."""
        return self.socket.fileno()

    def close(self) -> None:
        """Stop listening and remove the file, unless another one has taken its place."""
        self._unlink()
        self.socket.close()

    def _unlink(self) -> None:
        try:
            if _identity(self.path) == self._identity:
                os.unlink(self.path)
        except OSError:
            pass  # someone else removed it, or its directory


def connect(path: Path | str, *, timeout: float = 10.0, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A blocking connection to the socket at `path`, of any length. Raises MonitorError."""
    connection = socket.socket(socket.AF_UNIX, kind)
    try:
        # Not settimeout: a non-blocking connect fails at once where a full backlog could be waited for.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout))
        with socket_address(path) as address:
            connection.connect(address)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(0))
        return connection
    except OSError as error:
        connection.close()
        raise MonitorError(f"{path}: {error.strerror or error}") from error
    except BaseException:  # whatever it was, what is open is ours to close
        connection.close()
        raise


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))


@contextmanager
def socket_address(path: Path | str) -> Iterator[str]:
    """An address of the socket file that fits `sun_path`; good inside the `with` block. Raises MonitorError,
    OSError.
    """
    if len(os.fsencode(path)) < SUN_PATH:
        yield os.fspath(path)
        return
    directory = os.open(_directory(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        address = f"/proc/self/fd/{directory}/{os.path.basename(path)}"
        if len(os.fsencode(address)) >= SUN_PATH:
            raise MonitorError(f"{path}: the file's name is too long for a unix socket")
        yield address
    finally:
        os.close(directory)


@contextmanager
def _directory_lock(directory: str) -> Iterator[None]:
    """Keeps two starters in one directory from each replacing the other's new socket."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + DIRECTORY_PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise MonitorError(
                        f"{directory}: locked by another process for {DIRECTORY_PATIENCE:.0f} s"
                    ) from None
                time.sleep(0.01)  # flock cannot be awaited with a deadline
        yield
    finally:
        os.close(descriptor)


def _remove_left_over(path: str, address: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise MonitorError(f"{path}: exists and is not a socket; it was left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(address)
    if answer != errno.ECONNREFUSED:
        raise MonitorError(f"{path}: another process is listening there")
    os.unlink(path)


def _directory(path: Path | str) -> str:
    return os.path.dirname(path) or "."


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
