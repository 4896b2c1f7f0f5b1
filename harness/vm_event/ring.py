"""ACRN's shared ring: one page, one writer side, one reader side, and neither trusts what the other wrote.

The page may be shared with another process that writes anything at any time. So each side keeps its own
offset, looks at the other's through a bounds check, and copies elements out before it interprets them.
Publication order (element first, then tail) relies on x86's ordered stores, as ACRN's own code does.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from types import TracebackType

from .abi import (
    DATA_SIZE,
    ELEMENT,
    ELEMENT_COUNT,
    ELEMENT_SIZE,
    FLAG_OVERWRITE,
    HEADER,
    HEADER_SIZE,
    PAGE_SIZE,
    RING_MAGIC,
    WORD_HEAD,
    WORD_OVERRUN,
    WORD_TAIL,
)
from .errors import RingError, SourceError

_SHAPE = (RING_MAGIC, ELEMENT_COUNT, ELEMENT_SIZE, DATA_SIZE)


def format_page(page: bytearray | mmap.mmap) -> None:
    """Write the header of an empty ring into `page`; the data area is left alone."""
    HEADER.pack_into(page, 0, RING_MAGIC, ELEMENT_COUNT, ELEMENT_SIZE, 0, 0, 0, 0, 0, DATA_SIZE)


class SharedRing:
    """A ring over a page. `put` is for one writer at a time, `get` and `drain` for one reader at a time.

    A ring that is full refuses the element and counts it in the header's `overrun_cnt`: ACRN's rings count
    nothing there, ours do, and the reader of the page can see it.
    """

    def __init__(self, page: bytearray | mmap.mmap, *, descriptor: int | None = None) -> None:
        """Take over a page that holds a ring. `descriptor`, where given, becomes the ring's to close.

        Raises RingError when the header is not that of a ring this code can read.
        """
        if len(page) != PAGE_SIZE:
            raise RingError(f"a ring is one page of {PAGE_SIZE} bytes, this is {len(page)}")
        self._page = page
        self._descriptor = descriptor
        self._bytes = memoryview(page)
        self._words = self._bytes.cast("I")
        try:
            self._head, self._tail = self._checked_header()
        except RingError:
            self._release()
            raise

    @classmethod
    def create(cls, *, shared: bool = False) -> SharedRing:
        """A new, empty ring: of this process only, or with `shared` in a memfd to hand to another process.

        The memfd has its final size and is sealed against shrinking and growing: whoever maps it cannot be
        killed by SIGBUS.
        """
        if not shared:
            page = mmap.mmap(-1, PAGE_SIZE)
            format_page(page)
            return cls(page)
        descriptor = os.memfd_create("vm_event-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, PAGE_SIZE)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            page = mmap.mmap(descriptor, PAGE_SIZE)
            format_page(page)
            return cls(page, descriptor=descriptor)
        except BaseException:  # whatever it was, the descriptor is ours to close
            os.close(descriptor)
            raise

    @classmethod
    def attach(cls, descriptor: int, *, require_seal: bool = True) -> SharedRing:
        """The ring in the first page of what `descriptor` refers to. The caller's descriptor stays the
        caller's.

        A file that another process can shrink would kill this one by SIGBUS, so it must be a memfd sealed
        against shrinking, or one that still lets us seal it; `require_seal=False` takes that risk knowingly.
        Raises SourceError for a descriptor that cannot be mapped, RingError for a page that holds no ring.
        """
        if descriptor < 0:
            raise SourceError(f"ring descriptor {descriptor}: not a descriptor")
        if require_seal:
            _seal_against_shrinking(descriptor)
        try:
            page = mmap.mmap(descriptor, PAGE_SIZE)
        except (OSError, ValueError, OverflowError) as error:
            raise SourceError(f"ring descriptor {descriptor}: cannot be mapped: {error}") from error
        try:
            return cls(page)
        except RingError:
            page.close()
            raise

    @property
    def descriptor(self) -> int | None:
        """The memfd of a ring made with `create(shared=True)`, to hand to another process; else None."""
        return self._descriptor

    @property
    def overrun(self) -> int:
        """How many elements the writer says it could not put (modulo 2^32); a writer may say anything."""
        return self._words[WORD_OVERRUN]

    def put(self, element: bytes) -> bool:
        """Append an element; False when the ring is full: counted. Raises RingError on a bad head."""
        if len(element) != ELEMENT_SIZE:
            raise ValueError(f"an element has {ELEMENT_SIZE} bytes, not {len(element)}")
        after = self._after_put()
        if after < 0:
            return False
        start = HEADER_SIZE + self._tail
        self._bytes[start : start + ELEMENT_SIZE] = element
        self._tail = self._words[WORD_TAIL] = after
        return True

    def put_event(self, event_type: int, last_time: int, delta_time: int, stamp_ns: int) -> bool:
        """`put` an element of these fields, packed in its place. Raises struct.error where one does not fit."""
        after = self._after_put()
        if after < 0:
            return False
        ELEMENT.pack_into(self._page, HEADER_SIZE + self._tail, event_type, last_time, delta_time, stamp_ns)
        self._tail = self._words[WORD_TAIL] = after
        return True

    def _after_put(self) -> int:
        """Where the tail will be after the next element; -1, and counted, when there is no room for one."""
        words = self._words
        head = words[WORD_HEAD]
        if head >= DATA_SIZE or head % ELEMENT_SIZE:
            raise RingError(f"head {head} is not an element of the ring")
        after = (self._tail + ELEMENT_SIZE) % DATA_SIZE
        if after == head:
            words[WORD_OVERRUN] = (words[WORD_OVERRUN] + 1) & 0xFFFFFFFF
            return -1
        return after

    def get(self) -> bytes | None:
        """Take the oldest element; None when the ring is empty. Raises RingError on a damaged header: nothing
        is taken then.
        """
        tail = self._checked_tail()
        head = self._head
        if head == tail:
            return None
        start = HEADER_SIZE + head
        element = bytes(self._bytes[start : start + ELEMENT_SIZE])
        head += ELEMENT_SIZE
        self._head = self._words[WORD_HEAD] = 0 if head == DATA_SIZE else head
        return element

    def drain(self) -> bytes:
        """Take all elements there are, in order, as one copy. Raises RingError on a damaged header: nothing is
        taken then.
        """
        tail = self._checked_tail()
        head = self._head
        if head == tail:
            return b""
        view = self._bytes
        if head < tail:
            elements = bytes(view[HEADER_SIZE + head : HEADER_SIZE + tail])
        else:
            elements = b"".join(
                (view[HEADER_SIZE + head : HEADER_SIZE + DATA_SIZE], view[HEADER_SIZE : HEADER_SIZE + tail])
            )
        self._head = self._words[WORD_HEAD] = tail
        return elements

    def close(self) -> None:
        """Unmap the page and close the ring's own descriptor. Further use raises ValueError; closing again
        does nothing.
        """
        self._release()
        if isinstance(self._page, mmap.mmap):
            self._page.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> SharedRing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked_header(self) -> tuple[int, int]:
        """Head and tail, from one look at the header: what is checked is what is used, whatever is written
        meanwhile. Raises RingError naming what is wrong.
        """
        magic, count, element_size, head, tail, flags, _, _, size = HEADER.unpack_from(self._page)
        if (magic, count, element_size, size) != _SHAPE:
            if magic != RING_MAGIC:
                raise RingError(f"magic is {magic:#x}, a ring's is {RING_MAGIC:#x}")
            raise RingError(
                f"ele_num {count}, ele_size {element_size}, size {size}; "
                f"a ring of vm_events has {ELEMENT_COUNT}, {ELEMENT_SIZE}, {DATA_SIZE}"
            )
        for name, offset in (("head", head), ("tail", tail)):
            if offset >= DATA_SIZE or offset % ELEMENT_SIZE:
                raise RingError(f"{name} {offset} is not an element of the ring (multiple of 32 below {DATA_SIZE})")
        if flags & FLAG_OVERWRITE:
            raise RingError("the ring overwrites its oldest elements (flags bit 1): its reader could be overtaken")
        return head, tail

    def _checked_tail(self) -> int:
        head, tail = self._checked_header()
        if head != self._head:
            raise RingError(f"head was moved by the other side: it is {head}, the reader left it at {self._head}")
        return tail

    def _release(self) -> None:
        self._words.release()
        self._bytes.release()


def _seal_against_shrinking(descriptor: int) -> None:
    try:
        if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except (OSError, OverflowError) as error:
        raise SourceError(
            f"ring descriptor {descriptor}: not a memfd, or it cannot be sealed against shrinking ({error}); "
            "the other side could kill the service by truncating it"
        ) from error
