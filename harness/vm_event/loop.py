"""One thread's wait for descriptors and a deadline: woken on time, and never without a reason."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

#: select(2) takes no descriptor from here on.
FD_SETSIZE = 1024
#: A single wait is never longer, whatever the deadline: time-outs have to fit a timeval.
LONGEST_WAIT = 3600.0
#: Descriptors told of in one round: between rounds it is looked what is due. The rest comes first in the next one.
ROUND_LIMIT = 16
#: Of a wait up to this many seconds, 0.1 % is nothing to speak of.
_SHORT_WAIT = 0.02

Handler = Callable[[int], None]

_log = logging.getLogger(__name__)


class Loop:
    """An epoll set with a handler per descriptor. `wake` and `post` are for any thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._removed: set[int] = set()
        self._posted: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:  # whatever it was, the descriptor is ours to close
            self._epoll.close()
            raise
        self.add(self._wake, select.EPOLLIN, self._on_wake)

    def add(self, descriptor: int, mask: int, handler: Handler) -> None:
        """Call `handler(events)` whenever one of `mask` holds for the descriptor (level-triggered)."""
        self._epoll.register(descriptor, mask)
        self._handlers[descriptor] = handler

    def modify(self, descriptor: int, mask: int) -> None:
        """Watch for other events. Hang-up and error are always told."""
        if descriptor in self._handlers:
            self._epoll.modify(descriptor, mask)

    def remove(self, descriptor: int) -> None:
        """Forget a descriptor; to be called before it is closed. One that is not watched is no error."""
        if self._handlers.pop(descriptor, None) is None:
            return
        self._epoll.unregister(descriptor)
        # Its number may be taken again within this round: what is still to be told is about the old one.
        self._removed.add(descriptor)

    def wake(self) -> None:
        """End a wait that is going on, or the next one. Does nothing once the loop is closed."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._wake, 1)

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` made on the loop's thread, soon; never, if the loop ends before."""
        self._posted.append(call)
        self.wake()

    def wait(self, deadline_ns: int | None) -> list[tuple[int, int]]:
        """What is ready, as soon as anything is; nothing at `deadline_ns` (monotonic), or a little before it.

        At most `ROUND_LIMIT` of what is ready; the kernel takes them in turn.
        """
        self._removed.clear()
        if deadline_ns is None:
            return self._epoll.poll(None, ROUND_LIMIT)
        ready = self._epoll.poll(0, ROUND_LIMIT)
        remaining = min((deadline_ns - time.monotonic_ns()) / 1e9, LONGEST_WAIT)
        if ready or remaining <= 0:
            return ready
        self._wait_precisely(remaining)
        return self._epoll.poll(0, ROUND_LIMIT)

    def dispatch(self, ready: list[tuple[int, int]]) -> None:
        """Call the handlers, then what has been posted. One that raises is logged; a handler is taken out."""
        for descriptor, events in ready:
            handler = self._handlers.get(descriptor)
            if handler is None or descriptor in self._removed:
                continue
            try:
                handler(events)
            except Exception:  # one source or client must not take the service from all others
                _log.exception("the handler of descriptor %d failed; it is no longer watched", descriptor)
                self.remove(descriptor)
        # Counted after the wake-ups were taken back: whatever is posted from here on brings one of its own. So what
        # these calls post waits for the next round.
        for _ in range(len(self._posted)):
            call = self._posted.popleft()
            try:
                call()
            except Exception:  # as above
                _log.exception("a call that was posted failed")

    def close(self) -> None:
        """Release the loop's own descriptors; those added stay open."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._epoll.close()
            os.close(self._wake)

    def _wait_precisely(self, seconds: float) -> None:
        """epoll's own time-out counts whole milliseconds (0.65 ms late in the median): select's counts
        microseconds.

        The kernel lets a wait end late by 0.1 % of its length (0.5 % for a nice process): a whole window would
        be a millisecond late. So a long wait ends a little early, and the caller waits for the short rest.
        """
        if seconds > _SHORT_WAIT:
            seconds *= 0.994
        if self._epoll.fileno() < FD_SETSIZE:
            select.select([self._epoll], [], [], seconds)
        elif seconds >= 0.001:
            self._epoll.poll(int(seconds * 1000) / 1000)
        else:
            select.select([], [], [], seconds)

    def _on_wake(self, _events: int) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass


def sharpen_timers() -> None:
    """Ask the kernel to end this thread's waits on time; it may otherwise group them, 50 us late."""
    try:
        with open(f"/proc/{threading.get_native_id()}/timerslack_ns", "w", encoding="ascii") as slack:
            slack.write("1")
    except OSError as error:
        _log.debug("timer slack stays as it is: %s", error)
