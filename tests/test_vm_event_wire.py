"""Reading JSON objects that nothing delimits: in pieces, in heaps, over lines, and among what is none."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.vm_event import SettledRtcChange
from harness.vm_event.watch import describe
from harness.vm_event.wire import Decoder, Garbage, encode
from tests.vm_event_support import UNHURRIED

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=4)


def chopped(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(json_objects, max_size=4), st.sampled_from([None, "\t"]), st.lists(st.integers(0, 10**6)))
@settings(UNHURRIED, max_examples=300)
def test_objects_come_out_as_they_went_in_however_the_stream_is_cut(
    objects: list[dict[str, Any]], indent: str | None, cuts: list[int]
) -> None:
    data = b"".join(json.dumps(thing, indent=indent, ensure_ascii=False).encode() for thing in objects)
    decoder = Decoder(1 << 20)
    assert [thing for piece in chopped(data, cuts) for thing in decoder.feed(piece)] == objects
    assert not decoder.partial


@given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
@UNHURRIED
def test_no_bytes_break_it_and_what_it_keeps_is_bounded(pieces: list[bytes], limit: int) -> None:
    decoder = Decoder(limit)
    for piece in pieces:
        for thing in decoder.feed(piece):
            assert isinstance(thing, dict | Garbage)
        assert len(decoder._object) <= limit


@given(st.dictionaries(st.sampled_from(["vm_event", *SettledRtcChange(0, 0, 0, 1).as_json()]), json_values))
@settings(UNHURRIED, max_examples=200)
def test_any_object_of_a_foreign_service_is_told_in_a_line(event: dict[str, Any]) -> None:
    line = describe(event)
    assert line.isprintable() and line
    assert line.encode()


@pytest.mark.parametrize("time", [2**63 - 1, -(2**63), 67768036191676799, -1, 2**200])
def test_times_that_no_calendar_reaches_are_told_as_numbers_or_dates(time: int) -> None:
    assert describe(SettledRtcChange(time, time, time, 1).as_json())


def test_encoding_is_compact_and_a_line() -> None:
    assert encode({"ack": 0, "why": ["ä"]}) == b'{"ack":0,"why":["\\u00e4"]}\n'


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"command":\n\n"destroy"\r\n}', [{"command": "destroy"}]),
        (b'{"a":1}{"b":2}\x00{"c":3}\n', [{"a": 1}, {"b": 2}, {"c": 3}]),
        (b'{"a":"}{\\"]"}', [{"a": '}{"]'}]),
        (b'{"a":"line\nbreak"}', [{"a": "line\nbreak"}]),
        (
            b'hello {"a":1} there',
            [Garbage(b"hello", "no JSON object"), {"a": 1}, Garbage(b"there", "no JSON object")],
        ),
        (b"}]", [Garbage(b"}]", "no JSON object")]),
        (b'[{"a":1}]{"b":2}', [Garbage(b'[{"a":1}]', "not a JSON object"), {"b": 2}]),
    ],
)
def test_examples(data: bytes, expected: list[object]) -> None:
    assert list(Decoder().feed(data)) == expected


@pytest.mark.parametrize("data", [b'{"a":}', b"{]", b'{"\xff":1}', b"{'a':1}", b"[" * 2000 + b"]" * 2000])
def test_what_looks_like_an_object_and_is_none_is_garbage_and_reading_goes_on(data: bytes) -> None:
    first, second = Decoder().feed(data + b'{"a":1}')
    assert isinstance(first, Garbage)
    assert second == {"a": 1}


def test_a_backslash_at_the_cut_still_escapes() -> None:
    decoder = Decoder()
    assert list(decoder.feed(b'{"a":"\\')) == []
    assert decoder.partial
    assert list(decoder.feed(b'"}"}')) == [{"a": '"}'}]


def test_an_object_that_is_too_long_is_told_once_and_skipped_to_its_end() -> None:
    decoder = Decoder(100)
    long = b'{"a":"' + b"x" * 1000 + b'{"}'
    told = [thing for piece in chopped(long + b'{"b":2}', list(range(0, 1010, 50))) for thing in decoder.feed(piece)]
    assert len(told) == 2
    assert isinstance(told[0], Garbage) and told[0].reason == "longer than 100 bytes"
    assert told[1] == {"b": 2}


def test_an_object_of_exactly_the_limit_is_read() -> None:
    data = b'{"a":"' + b"x" * 92 + b'"}'
    assert len(data) == 100
    assert list(Decoder(100).feed(data)) == [{"a": "x" * 92}]
    assert isinstance(next(iter(Decoder(99).feed(data))), Garbage)
