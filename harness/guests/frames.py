"""Lines between host and agent that survive a console shared with a kernel: marked, numbered, checksummed.

Host to agent, one line:      `@>SEQUENCE PAYLOAD*CRC`
Agent to host, one or more:   `@<SEQUENCE.PART/PARTS PAYLOAD*CRC`

CRC is the CRC-32 of all between the marker and the `*`, as 8 hexadecimal digits. Payloads are printable ASCII
without `*` and `@`. The kernel may print before, after or in the middle of a line: what precedes a marker is
skipped, what is torn fails its checksum. Sequence 0 marks lines that answer no particular command.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

MAX_PAYLOAD = 1000
"""Longest command payload in characters; the agent's line buffer has 4096."""

_FRAME = re.compile(rb"@<(\d{1,19})\.(\d{1,6})/(\d{1,6}) ([^*@\r\n]*)\*([0-9a-f]{8})")
_MARKER = b"@<"


@dataclass(frozen=True)
class Part:
    """One whole line from the agent: part `part` of `parts` of the answer to command `sequence`."""

    sequence: int
    part: int
    parts: int
    payload: str


def _checksum(body: bytes) -> bytes:
    return b"%08x" % zlib.crc32(body)


def encode_command(sequence: int, payload: str) -> bytes:
    """The line that carries a command. Raises ValueError for a payload that cannot be framed."""
    if not payload.isascii() or not payload.isprintable() or set(payload) & {"*", "@"}:
        raise ValueError(f"not a payload: {payload!r}")
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} characters is longer than {MAX_PAYLOAD}")
    body = b"%d %s" % (sequence, payload.encode("ascii"))
    return b"@>" + body + b"*" + _checksum(body) + b"\n"


def encode_part(part: Part) -> bytes:
    """A line as an agent writes it; for agents written in Python and for tests."""
    body = b"%d.%d/%d %s" % (part.sequence, part.part, part.parts, part.payload.encode("ascii"))
    return b"@<" + body + b"*" + _checksum(body) + b"\r\n"


def decode_parts(line: bytes) -> tuple[list[Part], bool]:
    """The whole frames in a console line, and whether something in it was a damaged frame.

    A line without a marker is somebody else's: no parts, nothing damaged.
    """
    parts = [
        Part(int(match[1]), int(match[2]), int(match[3]), match[4].decode("ascii", "replace"))
        for match in _FRAME.finditer(line)
        if _checksum(match[0][len(_MARKER) : -9]) == match[5]
    ]
    return parts, line.count(_MARKER) > len(parts)


class Answer:
    """Collects the parts of one command's answer, in any order, with repeats."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self._parts: dict[int, str] = {}
        self._wanted = 0

    def add(self, part: Part) -> None:
        """Takes a part; those of other commands are ignored."""
        if part.sequence == self.sequence:
            self._parts[part.part] = part.payload
            self._wanted = part.parts

    @property
    def payload(self) -> str | None:
        """The whole payload, or None while a part is missing."""
        if not self._wanted or any(number not in self._parts for number in range(1, self._wanted + 1)):
            return None
        return "".join(self._parts[number] for number in range(1, self._wanted + 1))
