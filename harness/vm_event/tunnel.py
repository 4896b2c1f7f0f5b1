"""A tunnel, from one event source to the service: a ring, and the eventfd that kicks its reader."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

from .abi import ELEMENT
from .errors import SourceError
from .ring import SharedRing


class Tunnel:
    """A ring plus its kick. `put` may be called from any number of threads, `drain` by one reader.

    Nothing here waits: the eventfd is non-blocking and close-on-exec.
    """

    def __init__(self, ring: SharedRing, kick: int) -> None:
        """Take over `ring` and the eventfd `kick`; both are closed with the tunnel."""
        self._ring = ring
        self._kick = kick
        self._overrun_seen = ring.overrun
        self._closed = False
        #: Held while a sender puts and kicks, so that order, stamps and closing agree between threads.
        self.lock = threading.Lock()
        #: Elements put by this process, in all; guarded by `lock`.
        self.put_count = 0

    @classmethod
    def create(cls) -> Tunnel:
        """A tunnel inside this process: an anonymous page and a new eventfd."""
        ring = SharedRing.create()
        try:
            return cls(ring, os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        except BaseException:  # whatever it was, what is open is ours to close
            ring.close()
            raise

    @classmethod
    def attach(cls, ring_descriptor: int, kick_descriptor: int, *, require_seal: bool = True) -> Tunnel:
        """A tunnel whose other end is another process. The two descriptors stay the caller's.

        O_NONBLOCK is set on the eventfd, for both sides: it belongs to the open file they share.
        Raises SourceError for descriptors that are not what they should be, RingError for a damaged ring.
        """
        kick = _duplicate_eventfd(kick_descriptor)
        try:
            return cls(SharedRing.attach(ring_descriptor, require_seal=require_seal), kick)
        except BaseException:  # whatever it was, what is open is ours to close
            os.close(kick)
            raise

    def fileno(self) -> int:
        """The eventfd, readable after a kick."""
        return self._kick

    def put(self, event_type: int, last_time: int, delta_time: int, stamp_ns: int | None = None) -> bool:
        """Put one stamped element and kick. False when the ring is full (counted there) or the tunnel is
        closed.

        Without `stamp_ns` the stamp is taken here, in the order of the elements. Raises struct.error for
        numbers that do not fit the element, RingError when the reader damaged the header.
        """
        with self.lock:
            if self._closed:
                return False
            if stamp_ns is None:
                stamp_ns = time.monotonic_ns()
            if not self._ring.put(ELEMENT.pack(event_type, last_time, delta_time, stamp_ns)):
                return False
            self.put_count += 1
            self.kick()
            return True

    def kick(self) -> None:
        """Wake the reader. The caller holds `lock`."""
        if self._closed:
            return
        try:
            os.eventfd_write(self._kick, 1)
        except BlockingIOError:
            pass  # the counter is at its top: the reader has kicks enough

    def acknowledge(self) -> None:
        """Take back the kicks there have been so far; to be called before `drain`, never after."""
        try:
            os.eventfd_read(self._kick)
        except BlockingIOError:
            pass

    def drain(self) -> bytes:
        """All elements there are, as one copy. Raises RingError on a damaged header."""
        return self._ring.drain()

    def take_overrun(self) -> int:
        """How many elements were refused since the last call. To be called after `drain`."""
        overrun = self._ring.overrun
        refused = (overrun - self._overrun_seen) & 0xFFFFFFFF
        self._overrun_seen = overrun
        return refused

    def close(self) -> None:
        """Release page and descriptors; senders get False from now on. Closing again does nothing."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
            self._ring.close()
            os.close(self._kick)


def _duplicate_eventfd(descriptor: int) -> int:
    try:
        own = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
    except (OSError, ValueError, OverflowError) as error:
        raise SourceError(f"kick descriptor {descriptor}: {error}") from error
    try:
        if "eventfd-count" not in Path(f"/proc/self/fdinfo/{own}").read_text(encoding="ascii"):
            raise SourceError(f"kick descriptor {descriptor}: not an eventfd")
        os.set_blocking(own, False)
        return own
    except OSError as error:
        os.close(own)
        raise SourceError(f"kick descriptor {descriptor}: {os.strerror(error.errno or errno.EIO)}") from error
    except BaseException:  # whatever it was, what is open is ours to close
        os.close(own)
        raise
