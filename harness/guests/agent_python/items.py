"""Items: lists of register accesses and pauses, checked whole before the first access, then done back to back.

Byte accesses only: in ACRN a 16-bit write to port 0x70 reaches the register indexed before. No index at or above 0x38:
in a real-time VM those bytes overwrite other state of the hypervisor.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from harness.guests.agent_python.machine import Refused

INDEX_LIMIT, MAX_STEPS, MAX_PAUSE_US = 0x38, 1024, 600_000_000
SPIN_NS = 2_000_000


class Step(NamedTuple):
    """A register access ("w", "r") or a pause ("p")."""

    kind: str
    register: int = 0
    value: int = 0
    pause_us: int = 0


def parse_step(word: str) -> Step:
    """`wIIVV` (hexadecimal), `rII` or `pMICROSECONDS`. Raises Refused."""
    kind, digits = word[:1], word[1:]
    if kind == "p" and digits.isdigit() and len(word) < 12 and int(digits) <= MAX_PAUSE_US:
        return Step("p", pause_us=int(digits))
    if not set(digits) - set("0123456789abcdef"):
        if kind == "w" and len(digits) == 4:
            return Step("w", int(digits[:2], 16), int(digits[2:], 16))
        if kind == "r" and len(digits) == 2:
            return Step("r", int(digits, 16))
    raise Refused(f"step '{word[:20]}' is none")


def access_registers(ports: Any, steps: list[Step]) -> tuple[list[tuple[str, int, int, int]], int]:
    """Nothing here but the ports and the clock. A pause counts from the access (or the pause) before it."""
    done = []
    now = time.monotonic_ns
    last, longest = now(), 0
    for kind, index, value, pause_us in steps:
        if kind == "p":
            last += pause_us * 1000
            while (left := last - now()) > 0:
                if left > SPIN_NS:
                    time.sleep((left - SPIN_NS) / 1e9)  # the pause that the plan asks for
            continue
        last = now()
        if kind == "w":
            ports.write(index, value)
            seen = value
        else:
            seen = ports.read(index)
        longest = max(longest, now() - last)
        done.append((kind, index, seen, last))
    return done, longest
