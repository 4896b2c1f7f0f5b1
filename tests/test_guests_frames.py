"""The line protocol between host and agent: what was framed comes back whole, or is known to be damaged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.guests.frames import MAX_PAYLOAD, Answer, Part, decode_parts, encode_command, encode_part

PAYLOADS = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="*@"), max_size=80)
PARTS = st.builds(Part, st.integers(0, 1 << 40), st.integers(1, 999), st.integers(1, 999), PAYLOADS)
NOISE = st.binary(max_size=40).filter(lambda data: b"@" not in data and b"\n" not in data and b"\r" not in data)


@settings(deadline=None)
@given(PARTS, NOISE, NOISE)
def test_a_frame_is_found_between_whatever_the_kernel_printed_on_the_same_line(
    part: Part, before: bytes, after: bytes
) -> None:
    line = before + encode_part(part).strip() + after
    assert decode_parts(line) == ([part], False)


@settings(deadline=None)
@given(st.lists(PARTS, min_size=2, max_size=4))
def test_frames_whose_line_ends_were_lost_are_still_told_apart(parts: list[Part]) -> None:
    line = b"".join(encode_part(part).strip() for part in parts)
    assert decode_parts(line) == (parts, False)


@settings(deadline=None)
@given(PARTS, st.data())
def test_one_altered_byte_never_yields_another_frame(part: Part, data: st.DataObject) -> None:
    frame = bytearray(encode_part(part).strip())
    where = data.draw(st.integers(0, len(frame) - 1))
    frame[where] ^= data.draw(st.integers(1, 255))
    parts, damaged = decode_parts(bytes(frame))
    assert parts == []
    assert damaged == (b"@<" in frame)


@settings(deadline=None)
@given(PARTS, NOISE.filter(bool), st.data())
def test_noise_in_the_middle_of_a_frame_is_damage(part: Part, noise: bytes, data: st.DataObject) -> None:
    frame = encode_part(part).strip()
    where = data.draw(st.integers(2, len(frame) - 1))
    parts, damaged = decode_parts(frame[:where] + noise + frame[where:])
    assert (parts, damaged) == ([], True)


@settings(deadline=None)
@given(st.lists(PAYLOADS, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_an_answer_is_whole_with_its_last_missing_part_in_any_order(payloads: list[str], random: object) -> None:
    parts = [Part(7, number, len(payloads), payload) for number, payload in enumerate(payloads, 1)]
    random.shuffle(parts)  # type: ignore[attr-defined]
    answer = Answer(7)
    for part in parts:
        assert answer.payload is None
        answer.add(part)
        answer.add(Part(6, part.part, 9, "an earlier command's"))
    assert answer.payload == "".join(payloads)


@pytest.mark.parametrize("payload", ["a*b", "a@b", "a\nb", "ü", "x" * (MAX_PAYLOAD + 1)])
def test_what_cannot_be_framed_is_refused(payload: str) -> None:
    with pytest.raises(ValueError, match="payload"):
        encode_command(1, payload)
