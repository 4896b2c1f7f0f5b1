"""The monitor socket's language: JSON objects that nothing delimits, read in whatever form they come."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from .typed import Any
from .values import Value

#: ACRN's buffers: no command and no event is longer.
MESSAGE_LIMIT = 4096

_OUTSIDE_STRING = re.compile(rb'["{}\[\]]')
_INSIDE_STRING = re.compile(rb'["\\]')
_OPENING = re.compile(rb"[{\[]")
#: What may stand between objects; ACRN turns newlines into NULs, C clients send their string's end.
_BLANK = b" \t\r\n\0"


def encode(message: Mapping[str, Any]) -> bytes:
    """One JSON object on a line of its own."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


class Garbage(Value):
    """Bytes that are no JSON object, and why. Of what was too long only the beginning is kept."""

    __slots__ = __match_args__ = ("data", "reason")
    data: bytes
    reason: str

    def __init__(self, data: bytes, reason: str) -> None:
        self._set(data, reason)


class Decoder:
    """Takes a stream apart into JSON objects: over several lines, in pieces, or several at once.

    What is no object comes out as `Garbage`, and reading goes on behind it. Memory is bounded by `limit`: an
    object that is longer is told as garbage once, then skipped to its end.
    """

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        self._limit = limit
        self._object = bytearray()
        self._depth = 0
        self._in_string = False
        self._escaped = 0
        self._skipping = False

    @property
    def partial(self) -> bool:
        """Whether an object has begun that has not ended."""
        return self._depth > 0

    def feed(self, data: bytes) -> Iterator[dict[str, Any] | Garbage]:
        """What `data` completes, in order. The iterator must be used up before the next call."""
        position = 0
        while position < len(data):
            if self._depth == 0:
                opening = _OPENING.search(data, position)
                start = opening.start() if opening else len(data)
                if between := data[position:start].strip(_BLANK):
                    yield Garbage(between[: self._limit], "no JSON object")
                if opening is None:
                    return
                position = start
            end = self._end_of_object(data, position)
            piece_end = len(data) if end is None else end
            if not self._skipping:
                self._object += data[position:piece_end]
                if len(self._object) > self._limit:
                    self._skipping = True
                    yield Garbage(bytes(self._object[:64]), f"longer than {self._limit} bytes")
                    self._object.clear()
            if end is None:
                return
            position = end
            if not self._skipping:
                yield _parse(bytes(self._object))
            self._object.clear()
            self._skipping = False

    def _end_of_object(self, data: bytes, position: int) -> int | None:
        """Where the object ends that goes on at `position`; None when it does not end in `data`."""
        position += self._escaped
        self._escaped = 0
        while True:
            found = (_INSIDE_STRING if self._in_string else _OUTSIDE_STRING).search(data, position)
            if found is None:
                # A backslash at the very end escapes the first byte of what comes next.
                self._escaped = max(0, position - len(data))
                return None
            position = found.end()
            mark = found.group()
            if mark == b'"':
                self._in_string = not self._in_string
            elif mark == b"\\":
                position += 1
            elif mark in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    return position


def _parse(data: bytes) -> dict[str, Any] | Garbage:
    try:
        value = json.loads(data.decode("utf-8"), strict=False)
    except (ValueError, RecursionError) as error:
        return Garbage(data, f"not JSON: {error}")
    if not isinstance(value, dict):
        return Garbage(data, "not a JSON object")
    return value
