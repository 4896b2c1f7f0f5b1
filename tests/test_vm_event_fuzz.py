"""Pages that were tampered with in every way, in great numbers, against what the layout says of each by the letter."""

from __future__ import annotations

import os
import random
import struct
from collections import Counter

import pytest

from harness.vm_event import SettledRtcChange, SharedRing, Tunnel, VmEvent
from harness.vm_event.source import TunnelSource
from harness.vm_event.watch import describe
from harness.vm_event.wire import MESSAGE_LIMIT, encode
from tests.vm_event_support import NOON, SECOND

PAGES_A_CASE = 5_000
PAGES_A_NIGHT = 100_000

HEADER = struct.Struct("<QIIIIIIII")
ELEMENT = struct.Struct("<IqqQ4x")
FRESH = HEADER.pack(0x5AA57AA71AA13AA3, 126, 32, 0, 0, 0, 0, 0, 4032) + bytes(4056)
WORDS = (0, 1, 2, 3, 31, 32, 33, 64, 125, 126, 127, 4000, 4032, 4064, 4096, 2**31 - 1, 2**31, 2**32 - 32, 2**32 - 1)
TIMES = (NOON, NOON + 1, NOON + 60, 0, 1, -1, -2, 2**31, -(2**31), 253402300800, 2**62, 2**63 - 1, -(2**63), 60, -60)


class Fuzz:
    """A tunnel over a page that is changed between two looks of its reader, and what must come of it."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self._now = 1000 * SECOND

    def run(self, pages: int) -> None:
        """Tamper so many times; a ring that is given up is followed by a new one."""
        while pages > 0:
            pages -= self._life(min(pages, 20))

    def _life(self, most: int) -> int:
        self._page = bytearray(FRESH)
        self._head = 0
        kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        tunnel = Tunnel(SharedRing(self._page), kick)
        stamped = self._chance.random() < 0.5
        source = TunnelSource("hv", tunnel, vm="vm0", window=1.0, stamped=stamped, trusted=False)
        self._elements = self._raw_told = 0
        pages = 0
        while pages < most and source.error is None:
            pages += 1
            self._now += self._chance.choice((0, 1, SECOND // 2, SECOND - 1, SECOND, 3 * SECOND))
            self._tamper()
            self._look(source)
        self._end(source)
        source.close()
        return pages

    def _look(self, source: TunnelSource) -> None:
        expected, reason = self._by_the_letter()
        told = source.collect(self._now)
        if expected is None:
            assert source.error is not None and reason in source.error, (reason, source.error)
            self.seen[reason] += 1
        else:
            assert source.error is None
            self._elements += len(expected) // 32
            assert struct.unpack_from("<I", self._page, 16) == (self._head,), "all that was there has been taken"
        self._check([*told, *iter(lambda: source.expire(self._now), None)])
        assert (deadline := source.deadline_ns()) is None or self._now < deadline <= self._now + SECOND

    def _end(self, source: TunnelSource) -> None:
        """What was taken is in the counts once, and in the events once."""
        self._now += 10 * SECOND
        self._check(list(iter(lambda: source.expire(self._now), None)))
        status = source.status()
        assert self._elements == sum(status[key] for key in ("raw", "passed", "throttled", "skipped"))
        assert self._raw_told == status["raw"]
        assert source.deadline_ns() is None

    def _check(self, events: list[SettledRtcChange | VmEvent]) -> None:
        for event in events:
            self.seen[type(event).__name__] += 1
            if isinstance(event, SettledRtcChange):
                self._raw_told += event.raw_events or 0
                for number in (event.last_time, event.new_time, event.delta_time, event.overrun):
                    assert number is None or -(2**63) <= number < 2**63
                assert event.new_time is not None
            told = event.as_json()
            assert len(encode(told)) < MESSAGE_LIMIT
            assert describe(told)

    def _by_the_letter(self) -> tuple[bytes | None, str]:
        """The elements that a look takes now, or what is wrong with the page."""
        magic, count, size, head, tail, flags, _, _, data_size = HEADER.unpack_from(self._page)
        if magic != 0x5AA57AA71AA13AA3:
            return None, "magic"
        if (count, size, data_size) != (126, 32, 4032):
            return None, "ele_num"
        if head not in range(0, 4032, 32) or tail not in range(0, 4032, 32):
            return None, "is not an element"
        if flags & 2:
            return None, "overwrites"
        if head != self._head:
            return None, "moved"
        data = self._page[64:]
        self._head = tail
        return bytes(data[head:tail] if head <= tail else data[head:4032] + data[:tail]), ""

    def _tamper(self) -> None:
        chance = self._chance
        page = self._page
        self._append(chance.choice((0, 1, 1, 2, 7, 30, 125)))
        for _ in range(chance.choice((0, 1, 1, 2, 5))):
            match chance.randrange(8):
                case 0:  # any header word, by a value that means something somewhere
                    struct.pack_into("<I", page, chance.randrange(16) * 4, chance.choice(WORDS))
                case 1:
                    struct.pack_into("<I", page, chance.randrange(16) * 4, chance.getrandbits(32))
                case 2:  # one bit
                    page[chance.randrange(64)] ^= 1 << chance.randrange(8)
                case 3:  # the tail, or the head, to where they might be
                    struct.pack_into("<I", page, chance.choice((20, 20, 20, 16)), chance.randrange(126) * 32)
                case 4:
                    struct.pack_into("<I", page, 32, chance.getrandbits(32))
                case 5:
                    page[64:] = chance.randbytes(4032)
                case 6:
                    at = chance.randrange(4096)
                    page[at : at + 8] = chance.randbytes(8)[: 4096 - at]
                case _:
                    struct.pack_into("<I", page, chance.randrange(10, 16) * 4, chance.getrandbits(32))

    def _append(self, count: int) -> None:
        """As a writer does; full or not, it does not care."""
        choice = self._chance.choice
        (tail,) = struct.unpack_from("<I", self._page, 20)
        stamps = (0, self._now, self._now - SECOND, self._now + SECOND, 1, 2**64 - 1)
        for _ in range(count):
            kind = choice((0, 0, 0, 0, 0, 1, 2, 3, 2**32 - 1))
            ELEMENT.pack_into(self._page, 64 + tail % 4032, kind, choice(TIMES), choice(TIMES), choice(stamps))
            tail = (tail + 32) % 4032
        struct.pack_into("<I", self._page, 20, tail)


def everything_was_seen(seen: Counter[str]) -> None:
    """The fuzz would be blind if it never got behind the header, or never met one of the reasons."""
    for name in ("magic", "ele_num", "is not an element", "overwrites", "moved", "SettledRtcChange", "VmEvent"):
        assert seen[name] >= 20, seen


@pytest.mark.parametrize("seed", range(10))
def test_tampered_pages_are_read_by_the_letter_or_given_up_by_name(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    fuzz = Fuzz(seed)
    fuzz.run(PAGES_A_CASE)
    everything_was_seen(fuzz.seen)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_million_tampered_pages(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    fuzz = Fuzz(seed)
    fuzz.run(PAGES_A_NIGHT)
    everything_was_seen(fuzz.seen)
