"""A tunnel, from one event source to the service: a ring, and the eventfd that kicks its reader."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import threading
import time
from contextlib import ExitStack

from .errors import SourceError
from .ring import SharedRing

#: A step of the overrun counter by this much or more is one back: a writer that began anew, or that lies.
_BACKWARDS = 1 << 31
#: After so many looks that found nothing, each within `VAIN_WITHIN_NS` of the one before, the kicks go unheard for
#: `REST_NS`. A writer that puts before it kicks gets nowhere near: its kicks in vain are those of elements read early.
VAIN_LOOKS = 32
VAIN_WITHIN_NS = 1_000_000
REST_NS = 5_000_000

_EDGES = select.EPOLLIN | select.EPOLLET


class Tunnel:
    """A ring plus its kick. `put` may be called from any number of threads, `drain` by one reader.

    Nothing the reader does here can wait, whatever the other side does to the eventfd they share: it watches
    the eventfd for kicks (edge-triggered, through an epoll descriptor) and never reads its counter. So a
    counter that stays readable for ever wakes nobody, and clearing O_NONBLOCK or stealing the counter hangs
    nobody. Kicks without end and without elements are not listened to for 5 ms at a time (`weigh`).
    """

    def __init__(self, ring: SharedRing, kick: int) -> None:
        """Take over `ring` and the eventfd `kick`; both are closed with the tunnel.

        Raises OSError, with both still the caller's, when descriptors run out.
        """
        self._ring = ring
        self._kick = kick
        self._overrun_seen = ring.overrun
        #: Set for good by `close`: page and descriptors are released.
        self.closed = False
        #: Held while a sender puts and kicks, so that order, stamps and closing agree between threads.
        self.lock = threading.Lock()
        #: Elements put by this process, in all; guarded by `lock`.
        self.put_count = 0
        #: Until when the kicks go unheard (monotonic): the reader is to look then. None: they are heard.
        self.resting_until_ns: int | None = None
        self._vain_looks = 0
        self._vain_at_ns = 0
        self._bell = select.epoll()
        try:
            # The reader's own: to be woken by a thread of this process must not depend on what is shared.
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:  # whatever it was, what is open is ours to close
            self._bell.close()
            raise
        for descriptor in (kick, self._wake):
            self._bell.register(descriptor, _EDGES)

    @classmethod
    def create(cls) -> Tunnel:
        """A tunnel inside this process: an anonymous page and a new eventfd."""
        with ExitStack() as undo:
            ring = undo.enter_context(SharedRing.create())
            kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, kick)
            tunnel = cls(ring, kick)
            undo.pop_all()
            return tunnel

    @classmethod
    def attach(cls, ring_descriptor: int, kick_descriptor: int, *, require_seal: bool = True) -> Tunnel:
        """A tunnel whose other end is another process. The two descriptors stay the caller's.

        O_NONBLOCK is set on the eventfd, for both sides: it belongs to the open file they share.
        Raises SourceError for descriptors that are not what they should be, RingError for a damaged ring,
        OSError when descriptors run out.
        """
        with ExitStack() as undo:
            kick = _duplicate_eventfd(kick_descriptor)
            undo.callback(os.close, kick)
            ring = undo.enter_context(SharedRing.attach(ring_descriptor, require_seal=require_seal))
            tunnel = cls(ring, kick)
            undo.pop_all()
            return tunnel

    def fileno(self) -> int:
        """Readable after a kick or `wake`, until `acknowledge`."""
        return self._bell.fileno()

    def put(self, event_type: int, last_time: int, delta_time: int, stamp_ns: int | None = None) -> bool:
        """Put one stamped element and kick. False when the ring is full (counted there) or the tunnel is
        closed.

        Without `stamp_ns` the stamp is taken here, in the order of the elements. Raises struct.error for
        numbers that do not fit the element, RingError when the reader damaged the header.
        """
        with self.lock:
            if self.closed:
                return False
            if stamp_ns is None:
                stamp_ns = time.monotonic_ns()
            if not self._ring.put_event(event_type, last_time, delta_time, stamp_ns):
                return False
            self.put_count += 1
            _add_one(self._kick)
            return True

    def wake(self) -> None:
        """Have this process's reader look at the tunnel, without an element. The caller holds `lock`."""
        if not self.closed:
            _add_one(self._wake)

    def acknowledge(self) -> None:
        """Take back the kicks there have been so far; to be called before `drain`, never after."""
        self._bell.poll(0, 2)

    def drain(self) -> bytes:
        """All elements there are, as one copy. Raises RingError on a damaged header."""
        return self._ring.drain()

    def weigh(self, found: bool, now_ns: int) -> None:
        """To be told after each look whether it `found` elements: whoever kicks in vain for ever is not heard."""
        if self.resting_until_ns is not None:
            if now_ns >= self.resting_until_ns:
                self.resting_until_ns = None
                self._vain_looks = 0
                self._bell.register(self._kick, _EDGES)
        elif found or now_ns - self._vain_at_ns > VAIN_WITHIN_NS:
            self._vain_looks = 0
        else:
            self._vain_looks += 1
            if self._vain_looks == VAIN_LOOKS:
                self.resting_until_ns = now_ns + REST_NS
                self._bell.unregister(self._kick)
        self._vain_at_ns = now_ns

    def take_overrun(self) -> int:
        """How many elements were refused since the last call. To be called after `drain`.

        The counter is the writer's word: one that went back is taken as it is now, and counts nothing.
        """
        overrun = self._ring.overrun
        refused = (overrun - self._overrun_seen) & 0xFFFFFFFF
        self._overrun_seen = overrun
        return refused if refused < _BACKWARDS else 0

    def close(self) -> None:
        """Release page and descriptors; senders get False from now on. Closing again does nothing."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
            self._bell.close()
            self._ring.close()
            os.close(self._kick)
            os.close(self._wake)


def _add_one(eventfd: int) -> None:
    try:
        os.eventfd_write(eventfd, 1)
    except BlockingIOError:
        pass  # the counter is at its top, and stays readable


def _duplicate_eventfd(descriptor: int) -> int:
    try:
        own = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
    except (OSError, ValueError, OverflowError) as error:
        raise SourceError(f"kick descriptor {descriptor}: {error}") from error
    try:
        with open(f"/proc/self/fdinfo/{own}", encoding="ascii") as facts:
            is_eventfd = "eventfd-count" in facts.read()
        if not is_eventfd:
            raise SourceError(f"kick descriptor {descriptor}: not an eventfd")
        os.set_blocking(own, False)
        return own
    except OSError as error:
        os.close(own)
        raise SourceError(f"kick descriptor {descriptor}: {os.strerror(error.errno or errno.EIO)}") from error
    except BaseException:  # whatever it was, what is open is ours to close
        os.close(own)
        raise
