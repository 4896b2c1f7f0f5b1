"""What device models and the hypervisor process say to each other: whole messages on a unix SOCK_SEQPACKET socket.

A connection is one VM's. The device model says `CREATE` first, with the ring's memfd and the kick's eventfd attached,
then `ACCESSES` in the order of the guest, and `SYNC` where it wants to know that they have been carried out. The
hypervisor answers `CREATE` and `SYNC`; `REFUSED` may come instead, and is the last word. Closing ends the VM.
"""

from __future__ import annotations

import json
import struct
from typing import NamedTuple

CREATE = b"C"
ACCESSES = b"A"
SYNC = b"S"
REFUSED = b"R"

ACCESS = struct.Struct("<QBBB")
"""One port access: monotonic nanoseconds, register, value written (0 for a read), 1 for a write."""

MOST_ACCESSES = 4096
"""In one message: with the default socket buffers a larger one might never fit."""

LONGEST = 1 + MOST_ACCESSES * ACCESS.size
LONGEST_NAME = 255
DESCRIPTORS = 2


class WireError(Exception):
    """A message that nobody should have sent."""


class NewVm(NamedTuple):
    """A VM to be created: its RTC begins at `stamp_ns` (monotonic) with `rtc_time` (seconds since 1970 UTC)."""

    name: str
    rtc_time: int
    stamp_ns: int


def create_message(vm: NewVm) -> bytes:
    """The message that asks for a VM."""
    return CREATE + json.dumps(vm._asdict()).encode("utf-8")


def read_create(body: bytes) -> NewVm:
    """The VM that a `CREATE` message's body asks for. Raises WireError."""
    try:
        said = json.loads(body)
        name, rtc_time, stamp_ns = said["name"], said["rtc_time"], said["stamp_ns"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(f"a VM cannot be read from {body[:80]!r} ({type(error).__name__})") from error
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise WireError(f"{str(name)[:80]!r} is no name for a VM")
    for value in (rtc_time, stamp_ns):
        if type(value) is not int or not -(2**63) <= value < 2**63:
            raise WireError(f"{name}: {str(value)[:80]!r} is no time")
    return NewVm(name, rtc_time, max(stamp_ns, 0))


def created_message(offset: int) -> bytes:
    """The answer to `CREATE`: the clock is `offset` seconds ahead of `rtc_time`."""
    return CREATE + json.dumps({"offset": offset}).encode("ascii")


def read_created(body: bytes) -> int:
    """The offset in the answer to `CREATE`. Raises WireError."""
    try:
        return int(json.loads(body)["offset"])
    except (ValueError, KeyError, TypeError) as error:
        raise WireError(f"no answer of a hypervisor: {body[:80]!r}") from error


def refusal(why: str) -> bytes:
    """The last word to a device model."""
    return REFUSED + why.encode("utf-8", "replace")[: LONGEST - 1]
