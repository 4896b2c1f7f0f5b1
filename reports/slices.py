"""The lines of a time-ordered file between two moments, by bisection: a run's trace has 100,000 lines."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

KeyOf = Callable[[bytes], "int | None"]

_MOST_LINES = 5000


def arrival_of(line: bytes) -> int | None:
    """The monotonic ns of a `trace.log` line: its arrival, or the stamp of the device model's own records."""
    if line.startswith(b"# "):
        return _json_key(line[2:], "stamp_ns")
    head = line.split(b" ", 1)[0]
    return int(head) if head.isdigit() else None


def stamp_of(line: bytes) -> int | None:
    """The monotonic ns of a `witness.jsonl` line."""
    return _json_key(line, "stamp_ns")


def t_ns_of(line: bytes) -> int | None:
    """The monotonic ns of an `events.jsonl` line."""
    return _json_key(line, "t_ns")


def lines_between(path: Path, key_of: KeyOf, from_ns: int, to_ns: int) -> list[str]:
    """Complete lines of `path` whose key lies in [from_ns, to_ns]; none if there is no such file.

    Lines whose key cannot be read (garbage, damage) count with their neighbours and are kept: evidence is
    not tidied up. At most 5,000 lines come back. Raises OSError where the file cannot be read.
    """
    try:
        if path.stat().st_size == 0:
            return []
    except FileNotFoundError:
        return []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        size = data.rfind(b"\n") + 1  # a last line without its end is still being written
        at = _first_at_or_after(data, size, key_of, from_ns)
        found: list[str] = []
        while at < size and len(found) < _MOST_LINES:
            end = data.find(b"\n", at)
            line = data[at:end]
            key = key_of(line)
            if key is not None and key > to_ns:
                break
            found.append(line.decode("utf-8", "replace"))
            at = end + 1
        return found


def lines_before(path: Path, key_of: KeyOf, before_ns: int) -> Iterator[str]:
    """Complete lines of `path` whose key is below `before_ns`, the last one first; none if there is no such file.

    Raises OSError where the file cannot be read.
    """
    try:
        if path.stat().st_size == 0:
            return
    except FileNotFoundError:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = _first_at_or_after(data, data.rfind(b"\n") + 1, key_of, before_ns)
        while end > 0:
            start = data.rfind(b"\n", 0, end - 1) + 1
            yield data[start : end - 1].decode("utf-8", "replace")
            end = start


def _first_at_or_after(data: mmap.mmap, size: int, key_of: KeyOf, wanted: int) -> int:
    """The offset of the first line whose key is >= wanted; `size` if there is none."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        start = data.rfind(b"\n", low, middle) + 1 or low
        key, next_line = _next_key(data, size, key_of, start)
        if key is not None and key < wanted:
            low = next_line
        else:
            high = start
    return low


def _next_key(data: mmap.mmap, size: int, key_of: KeyOf, at: int) -> tuple[int | None, int]:
    """The first readable key at or after the line at `at`, and where the line behind it begins."""
    while at < size:
        end = data.find(b"\n", at)
        key = key_of(data[at:end])
        at = end + 1
        if key is not None:
            return key, at
    return None, at


def _json_key(text: bytes, key: str) -> int | None:
    try:
        value = json.loads(text.decode("utf-8", "replace"))
    except ValueError:
        return None
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, int) else None
