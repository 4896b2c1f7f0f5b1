"""Cuts the monitor socket's byte stream into JSON objects: the harness's own decoder."""

from __future__ import annotations

import codecs
import json
import re

_LIMIT = 1 << 16


class ObjectReader:
    """Cuts a byte stream into JSON objects; the stream has no delimiters (ACRN's monitor socket).

    What can be no part of a JSON object comes out as garbage, and reading goes on at the next `{`.
    """

    def __init__(self) -> None:
        self._buffer = ""
        self._decoder = json.JSONDecoder()
        self._text = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def feed(self, data: bytes) -> list[dict[str, object] | bytes]:
        """The complete objects, and pieces of garbage as bytes, that `data` completes; in their order."""
        self._buffer += self._text.decode(data)
        found: list[dict[str, object] | bytes] = []
        while text := self._buffer.lstrip(" \t\r\n\0"):
            self._buffer = text
            if not text.startswith("{"):
                found.append(self._garbage(text.find("{")))
                continue
            try:
                value, end = self._decoder.raw_decode(text)
            except json.JSONDecodeError as error:
                if len(text) > _LIMIT or not _truncated(text, error):
                    found.append(self._garbage(text.find("{", 1)))
                    continue
                break
            found.append(value)
            self._buffer = text[end:]
        else:
            self._buffer = ""
        return found

    def rest(self) -> bytes:
        """What is left undecided; non-empty at the end of a stream: a cut-off object."""
        self._buffer += self._text.decode(b"", final=True)
        return self._buffer.encode("utf-8", "surrogateescape").strip(b" \t\r\n\0")

    def _garbage(self, until: int) -> bytes:
        end = until if until > 0 else len(self._buffer)
        piece, self._buffer = self._buffer[:end], self._buffer[end:]
        return piece.encode("utf-8", "surrogateescape")


_CUT_VALUE = re.compile(r"-|[.eE][+-]?\d*|-?I[nfity]*|N[aN]*|t[rue]*|f[alse]*|n[ul]*")
_LONGEST_ESCAPE = len(r"\u0000")


def _truncated(text: str, error: json.JSONDecodeError) -> bool:
    """Whether the text is an object that is only cut short, so that more bytes can still complete it."""
    if error.msg.startswith("Unterminated string") or error.pos >= len(text):
        return True
    if error.msg.startswith("Invalid \\"):
        return len(text) - error.pos < _LONGEST_ESCAPE
    return _CUT_VALUE.fullmatch(text, error.pos) is not None
