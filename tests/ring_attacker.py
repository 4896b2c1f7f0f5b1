"""A program that knows the ring's layout and keeps to none of its rules; it shares rings with a running service.

`python -m tests.ring_attacker SEED RING_FD:KICK_FD[:harmless] …`: for each line `attack N` on stdin it makes so many
attacks in random order on each ring, for `kick N` it only kicks, and prints how often in all. `harmless` rings are
spared what a reader must refuse. It ends with stdin.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import struct
import sys
from collections.abc import Callable, Sequence

# Written down here once more: an attacker that imported the service's layout would follow its mistakes.
PAGE = 4096
DATA = 64
SIZE = 4032
MAGIC = 0x5AA57AA71AA13AA3
MAGIC_AT, ELE_NUM_AT, ELE_SIZE_AT, HEAD_AT, TAIL_AT, FLAGS_AT, RESERVED_AT, OVERRUN_AT, SIZE_AT = (
    0, 8, 12, 16, 20, 24, 28, 32, 36,
)  # fmt: skip
EXTREMES = (0, 1, -1, 2**31 - 1, -(2**31), 2**32, 2**62, -(2**62), 2**63 - 1, -(2**63))
FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE = 2, 1

_libc = ctypes.CDLL(None, use_errno=True)


class Attacker:
    """One ring and its kick, and what can be done to them."""

    def __init__(self, ring: int, kick: int, chance: random.Random, *, harmless: bool) -> None:
        self._ring = ring
        self._kick = kick
        self._chance = chance
        self._page = mmap.mmap(ring, PAGE)
        self._deadly = [] if harmless else DEADLY
        os.set_blocking(kick, False)

    def attack(self, count: int) -> None:
        """`count` attacks, one after another. Few of them are deadly, or most would meet a ring that is given up."""
        for _ in range(count):
            if self._deadly and self._chance.random() < 0.005:
                self._chance.choice(self._deadly)(self)
            else:
                self._chance.choice(HARMLESS)(self)

    # What every writer may do, however senseless it is.

    def flood(self) -> None:
        """A full ring, kicked and kicked again."""
        for _ in range(self._chance.randint(1, 20)):
            self._fill(struct.pack("<IqqQ4x", 0, 1718452800, 60, self._stamp()) * 126)
            self.kick()

    def say_nothing(self) -> None:
        """Kicks without data."""
        for _ in range(self._chance.randint(1, 200)):
            self.kick()

    def whisper(self) -> None:
        """Data without a kick."""
        self._fill(struct.pack("<IqqQ4x", 0, 1718452800, -1, self._stamp()) * 126)

    def babble(self) -> None:
        """Elements of random bytes, most of them of unknown types."""
        self._fill(self._chance.randbytes(SIZE))
        self.kick()

    def exaggerate(self) -> None:
        """Times at the ends of what 64 bits hold, and stamps from any time."""
        choice = self._chance.choice
        self._fill(
            b"".join(
                struct.pack("<IqqQ4x", choice((0, 0, 0, 1, 2)), choice(EXTREMES), choice(EXTREMES), self._stamp())
                for _ in range(126)
            )
        )
        self.kick()

    def cry_wolf(self) -> None:
        """Power-offs and triple faults."""
        self._fill(b"".join(struct.pack("<I28x", self._chance.choice((1, 2))) for _ in range(126)))
        self.kick()

    def overwhelm(self) -> None:
        """A kick that leaves no room in the counter."""
        self.steal()
        os.eventfd_write(self._kick, 2**64 - 2)

    def steal(self) -> None:
        """A kick that is taken back before anyone can read it."""
        self.kick()
        try:
            os.eventfd_read(self._kick)
        except BlockingIOError:
            pass

    def block(self) -> None:
        """As `steal`, while the shared eventfd blocks: whoever reads it behind the thief waits for ever."""
        self.steal()
        os.set_blocking(self._kick, True)
        for _ in range(20):
            os.eventfd_write(self._kick, 1)
            os.eventfd_read(self._kick)
        os.set_blocking(self._kick, False)

    def miscount(self) -> None:
        """An overrun counter that jumps."""
        self._word(OVERRUN_AT, self._chance.getrandbits(32))
        self.kick()

    def scribble(self) -> None:
        """Bytes that mean nothing, and a flag that means nothing alone."""
        self._word(RESERVED_AT, self._chance.getrandbits(32))
        self._page[SIZE_AT + 4 : DATA] = self._chance.randbytes(DATA - SIZE_AT - 4)
        self._word(FLAGS_AT, self._chance.choice((0, 1, 4, 0xFFFFFFFD)))
        self.kick()

    def shrink(self) -> None:
        """Take the page from under the reader: the seal must hold."""
        try:
            os.ftruncate(self._ring, 0)
        except PermissionError:
            return
        raise SystemExit("the ring could be shrunk")

    # What no reader can go on with.

    def forge(self) -> None:
        """A field of the header that is wrong."""
        at = self._chance.choice((MAGIC_AT, MAGIC_AT + 4, ELE_NUM_AT, ELE_SIZE_AT, SIZE_AT))
        self._word(at, self._chance.choice((0, 1, 31, 33, 127, 4096, 2**31, 2**32 - 1)))
        self.kick()

    def misplace(self) -> None:
        """Head or tail out of range, or unaligned."""
        value = self._chance.choice((1, 31, 33, SIZE, SIZE + 32, PAGE, 2**31, 2**32 - 32, 2**32 - 1))
        self._word(self._chance.choice((HEAD_AT, TAIL_AT)), value)
        self.kick()

    def rewrite_head(self) -> None:
        """Move the reader's own offset, to another element."""
        self._word(HEAD_AT, self._chance.randrange(126) * 32)
        self.kick()

    def overwrite(self) -> None:
        """Say that the writer overtakes the reader from now on."""
        self._word(FLAGS_AT, self._chance.choice((2, 3, 0xFFFFFFFF)))
        self.kick()

    def flicker(self) -> None:
        """Right and wrong in turns, as fast as can be, so that a reader meets both within one read."""
        right = self._page[:DATA]
        for _ in range(50):
            self._page[:DATA] = self._chance.randbytes(DATA)
            self.kick()
            self._page[:DATA] = right
            self.kick()

    def punch(self) -> None:
        """Give the page back to the kernel: nothing but zeros is left of it."""
        mode = ctypes.c_int(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
        if _libc.fallocate(self._ring, mode, ctypes.c_long(0), ctypes.c_long(PAGE)):
            raise OSError(ctypes.get_errno(), "fallocate")
        self.kick()

    def noise(self) -> None:
        """A page of random bytes."""
        self._page[:] = self._chance.randbytes(PAGE)
        self.kick()

    def kick(self) -> None:
        """Wake the reader."""
        try:
            os.eventfd_write(self._kick, 1)
        except BlockingIOError:  # no room in the counter, which nobody else reads
            os.eventfd_read(self._kick)
            os.eventfd_write(self._kick, 1)

    def _fill(self, elements: bytes) -> None:
        """Write the whole data area and set the tail right behind what the reader will read last."""
        self._page[DATA:] = elements[:SIZE]
        (head,) = struct.unpack_from("<I", self._page, HEAD_AT)
        self._word(TAIL_AT, (head - 32) % SIZE if head % 32 == 0 and head < SIZE else 0)

    def _word(self, at: int, value: int) -> None:
        struct.pack_into("<I", self._page, at, value)

    def _stamp(self) -> int:
        return self._chance.choice((0, 1, 10**9, 2**63, 2**64 - 1, self._chance.getrandbits(64)))


HARMLESS: Sequence[Callable[[Attacker], None]] = (
    Attacker.flood, Attacker.say_nothing, Attacker.whisper, Attacker.babble, Attacker.exaggerate, Attacker.cry_wolf,
    Attacker.overwhelm, Attacker.steal, Attacker.block, Attacker.miscount, Attacker.scribble, Attacker.shrink,
)  # fmt: skip
DEADLY: Sequence[Callable[[Attacker], None]] = (
    Attacker.forge, Attacker.misplace, Attacker.rewrite_head, Attacker.overwrite, Attacker.flicker, Attacker.punch,
    Attacker.noise,
)  # fmt: skip


def main() -> None:
    """Attack as told."""
    chance = random.Random(int(sys.argv[1]))
    attackers = []
    for argument in sys.argv[2:]:
        ring, kick, *harmless = argument.split(":")
        attackers.append(Attacker(int(ring), int(kick), chance, harmless=bool(harmless)))
    made = 0
    for line in sys.stdin:
        word, number = line.split()
        for attacker in attackers:
            if word == "attack":
                attacker.attack(int(number))
            else:
                for _ in range(int(number)):
                    attacker.kick()
            made += int(number)
        print(made, flush=True)


if __name__ == "__main__":
    main()
