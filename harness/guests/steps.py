"""What a guest can be asked to do to its RTC, and what it reports: plain values, the same for every guest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

INDEX_LIMIT = 0x38
"""First CMOS index no guest may touch: in a real-time VM the bytes above are the hypervisor's (ACRN.md)."""


def _check_byte(what: str, value: int, limit: int) -> None:
    if not 0 <= value < limit:
        raise ValueError(f"{what} {value:#x} is not in 0..{limit - 1:#x}")


@dataclass(frozen=True)
class Write:
    """Write `value` to CMOS register `index` (port 0x70, then port 0x71).

    Raises ValueError for an index outside the RTC's bytes or a value that is no byte.
    """

    index: int
    value: int

    def __post_init__(self) -> None:
        _check_byte("index", self.index, INDEX_LIMIT)
        _check_byte("value", self.value, 0x100)


@dataclass(frozen=True)
class Read:
    """Read CMOS register `index`. Raises ValueError for an index outside the RTC's bytes."""

    index: int

    def __post_init__(self) -> None:
        _check_byte("index", self.index, INDEX_LIMIT)


@dataclass(frozen=True)
class Pause:
    """Let `seconds` pass in the guest, from the access before it. Raises ValueError outside 0..600."""

    seconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.seconds <= 600:
            raise ValueError(f"a pause of {self.seconds} s is not in 0..600 s")


Step: TypeAlias = "Write | Read | Pause"


@dataclass(frozen=True)
class AgentReport:
    """What an agent says it did for one item.

    start_ns, end_ns: monotonic nanoseconds of *this* machine, before the command was sent and after the
    answer was complete; every access of the item lies between. writes, reads: (index, value, guest_ns) in
    order, where guest_ns is the guest's own monotonic clock. ok is False when the agent refused (then it did
    nothing) or hwclock failed; `error` says why. complete is False when someone else in the guest made the
    writes (hwclock: the kernel), so that `writes` cannot list them. grain_ns: each access was made at its guest_ns or
    later, and at most so many nanoseconds later; the guest measured it for this very item. kinds: a `w` or an `r` for
    each access, as they came: coarse clocks do not tell.
    """

    item: str
    ok: bool
    error: str | None
    start_ns: int
    end_ns: int
    writes: tuple[tuple[int, int, int], ...] = ()
    reads: tuple[tuple[int, int, int], ...] = ()
    complete: bool = True
    grain_ns: int = 0
    kinds: str = ""
