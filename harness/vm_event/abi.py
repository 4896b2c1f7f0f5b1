"""ACRN's binary layouts, byte for byte: the header of a shared ring and the elements in it.

Source: ACRN's `shared_buf` and `vm_event`. Everything is little endian. A ring is one page: a header of
64 bytes, then `ELEMENT_COUNT` elements of 32 bytes. Head and tail are byte offsets into the data area.
"""

from __future__ import annotations

import struct
from enum import IntEnum

PAGE_SIZE = 4096
HEADER_SIZE = 64
ELEMENT_SIZE = 32
ELEMENT_COUNT = (PAGE_SIZE - HEADER_SIZE) // ELEMENT_SIZE
DATA_SIZE = ELEMENT_COUNT * ELEMENT_SIZE

RING_MAGIC = 0x5AA57AA71AA13AA3

#: magic, ele_num, ele_size, head, tail, flags, reserved, overrun_cnt, size, then 6 padding words.
HEADER = struct.Struct("<Q8I24x")

#: Indices of the header's fields in the page seen as 32-bit words.
WORD_HEAD, WORD_TAIL, WORD_OVERRUN = 4, 5, 8

#: flags bit 1: the writer overwrites the oldest element, and so moves the reader's head. Not set by ACRN.
FLAG_OVERWRITE = 0x2

#: type, last_time, delta_time, and in 20..27, which ACRN leaves unused, the stamp of our own senders:
#: CLOCK_MONOTONIC nanoseconds. 0 on rings filled by others.
ELEMENT = struct.Struct("<IqqQ4x")


class VmEventType(IntEnum):
    """The `type` of an element and the `vm_event` of an event on the monitor socket."""

    RTC_CHANGE = 0
    POWER_OFF = 1
    TRIPLE_FAULT = 2
