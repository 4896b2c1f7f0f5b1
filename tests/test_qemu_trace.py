"""QEMU's trace: its lines, and the drain that reads them from the pipe."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.qemu.trace import Chunk, PortAccess, TraceDrain, lines_of_interest, port_access, wall_stamp_ns

PATIENCE = 60.0
PREFIX = b"19433@1795511679.603286:"
PREFIX_OF_11_1 = b"2026-11-24T14:29:36.925420Z "
READ = b"memory_region_ops_read cpu 0 mr 0x55d6c0a2 addr 0x71 value 0x26 size 1 name 'rtc'"
WRITE = b"memory_region_ops_write cpu 0 mr 0x55d6c0a2 addr 0x71 value 0x2 size 1 name 'rtc'"


@pytest.mark.parametrize("prefix", [PREFIX, PREFIX_OF_11_1, b""])
def test_a_write_is_read_from_a_line_with_or_without_qemus_prefix(prefix: bytes) -> None:
    assert port_access(prefix + WRITE) == PortAccess("rtc", 0x71, 0x2, 1)


def test_a_write_without_a_guest_is_one_too() -> None:
    assert port_access(WRITE.replace(b"cpu 0", b"cpu -1")) == PortAccess("rtc", 0x71, 0x2, 1)


def test_size_address_and_a_region_with_blanks_are_read_as_they_stand() -> None:
    line = b"memory_region_ops_write cpu 3 mr 0x7f addr 0xcf9 value 0xfffffffe size 4 name 'piix3 reset'"
    assert port_access(line) == PortAccess("piix3 reset", 0xCF9, 0xFFFFFFFE, 4)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"memory_region_ops_rewrite cpu 0 mr 0x55 addr 0x71 value 0x2 size 1 name 'rtc'",
        WRITE[:-1],
        WRITE.replace(b"value 0x2", b"value"),
        b"runstate_set current_run_state 6 (prelaunch) new_state 9 (running)",
        b"\xff\xfe\x00",
    ],
)
def test_any_other_line_is_no_access(line: bytes) -> None:
    assert port_access(PREFIX + line) is None


def test_a_read_is_told_from_a_write() -> None:
    assert port_access(PREFIX + READ) == PortAccess("rtc", 0x71, 0x26, 1, is_read=True)


KEPT = (
    *(READ, READ.replace(b"rtc", b"rtc-index"), WRITE, WRITE.replace(b"rtc", b"rtc-index")),
    *(b"resettable_reset obj=0x55 cold=0", b"runstate_set current_run_state 6 (prelaunch) new_state 9 (running)"),
    b"memory_region_ops_write cpu 0 mr 0x7f addr 0xcf9 value 0x6 size 1 name 'piix3 reset'",
)
DROPPED = (
    *(access.replace(b"rtc", name) for access in (READ, WRITE) for name in (b"serial", b"pic", b"not-rtc", b"rtc2")),
    b"memory_region_ops_write cpu 0 mr 0x7f addr 0xcf90 value 0 size 1 name 'x'",
    *(b"memory_region_ops_write cut o", b""),
)


@pytest.mark.parametrize("line", KEPT)
def test_accesses_of_the_rtc_resets_and_run_states_are_kept(line: bytes) -> None:
    assert lines_of_interest(PREFIX + line + b"\n") == PREFIX + line + b"\n"


@pytest.mark.parametrize("line", DROPPED)
def test_what_has_nothing_to_do_with_the_rtc_is_not(line: bytes) -> None:
    assert lines_of_interest(PREFIX + line + b"\n") == b""


@given(st.lists(st.sampled_from(KEPT + DROPPED)))
def test_kept_lines_stay_in_their_order_and_as_they_were(lines: list[bytes]) -> None:
    assert lines_of_interest(b"".join(line + b"\n" for line in lines)) == b"".join(
        line + b"\n" for line in lines if line in KEPT
    )


def test_the_stamp_is_the_wall_clock_to_the_microsecond() -> None:
    assert wall_stamp_ns(PREFIX_OF_11_1 + WRITE) == 1_795_530_576_925_420_000
    assert wall_stamp_ns(b"1970-01-01T00:00:01.000001Z x") == 1_000_001_000
    assert wall_stamp_ns(PREFIX + WRITE) == 1_795_511_679_603_286_000
    assert wall_stamp_ns(b"1@0.000001:x") == 1_000


@pytest.mark.parametrize("line", [b"", WRITE, b"19433@1795511679:x", b"x" + PREFIX + WRITE,
                                  b"2026-13-24T14:29:36.925420Z x", b"2026-11-24T14:29:36.925420 x"])
def test_a_line_without_a_stamp_has_none(line: bytes) -> None:
    assert wall_stamp_ns(line) is None


ONE, TWO = (PREFIX + WRITE.replace(b"0x2", value) for value in (b"0x1", b"0x2"))
"""Lines that are kept."""


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Writer:
    """Holds the write end as QEMU does, and sees what the drain makes of what is written."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.drain = TraceDrain(self.ended.set)
        self._end = os.dup(self.drain.write_end)
        self.drain.start()

    def write(self, data: bytes) -> None:
        assert os.write(self._end, data) == len(data)

    def close(self) -> None:
        os.close(self._end)

    def chunk(self) -> Chunk | None:
        return self.drain.chunks.get(timeout=PATIENCE)

    def rest(self) -> bytes:
        """All that comes until the end."""
        data = b""
        while (chunk := self.chunk()) is not None:
            data += chunk.data
        return data


def test_complete_lines_come_at_once_and_the_rest_of_a_line_with_its_end() -> None:
    # given a drain into which a line and the beginning of another are written
    writer = Writer()
    writer.write(ONE + b"\n" + TWO[:40])
    first = writer.chunk()
    assert first is not None and first.data == ONE + b"\n"
    # when the other line's end is written
    writer.write(TWO[40:] + b"\n")
    second = writer.chunk()
    # then the line comes whole, and is as old as its end
    assert second is not None and second.data == TWO + b"\n"
    assert second.arrival.monotonic_ns >= first.arrival.monotonic_ns
    writer.close()
    assert writer.chunk() is None


def test_a_line_that_qemu_died_in_comes_all_the_same() -> None:
    writer = Writer()
    writer.write(ONE + b"\n" + TWO)
    writer.close()
    assert writer.rest() == ONE + b"\n" + TWO + b"\n"


def test_lines_that_are_not_kept_are_no_chunk_and_hold_up_nothing() -> None:
    writer = Writer()
    other = DROPPED[0] + b"\n"
    for _ in range(3):
        writer.write(other)
    writer.write(other + ONE + b"\n" + other)
    chunk = writer.chunk()
    assert chunk is not None and chunk.data == ONE + b"\n"
    writer.close()
    assert writer.chunk() is None


def test_the_end_of_the_pipe_is_told_after_the_last_line() -> None:
    writer = Writer()
    writer.write(ONE + b"\n")
    assert not writer.ended.is_set()
    writer.close()
    assert writer.ended.wait(PATIENCE)
    assert writer.drain.close(PATIENCE)
    assert writer.drain.chunks.qsize() == 2, "the line, then the end"


def test_a_drain_whose_queue_nobody_reads_goes_on_reading_the_pipe() -> None:
    # given far more than a pipe holds
    writer = Writer()
    line = b"x" * (4095 - len(ONE)) + ONE + b"\n"
    # when it is written and nobody takes a chunk
    for _ in range(1024):
        writer.write(line)
    # then the writer has not been kept waiting
    writer.close()
    assert writer.rest() == line * 1024


@given(st.lists(st.tuples(st.sampled_from((ONE, TWO, *DROPPED[:3])), st.integers(0, 120)), max_size=12), st.booleans())
def test_whatever_the_pieces_every_kept_line_comes_once_and_chunks_are_whole_lines(
    lines: list[tuple[bytes, int]], cut: bool
) -> None:
    writer = Writer()
    for line, at in lines:
        for piece in filter(None, ((line + b"\n")[:at], (line + b"\n")[at:])):
            writer.write(piece)
    if cut:
        writer.write(TWO)
    writer.close()
    data = b""
    while (chunk := writer.chunk()) is not None:
        assert chunk.data.endswith(b"\n")
        data += chunk.data
    assert data.split(b"\n")[:-1] == [line for line, _ in lines if line in (ONE, TWO)] + [TWO] * cut


def test_while_somebody_holds_the_pipe_closing_says_that_the_reader_is_still_there() -> None:
    writer = Writer()
    assert not writer.drain.close(0)
    writer.close()
    assert writer.drain.close(PATIENCE)


def test_no_descriptor_is_left_of_a_drain_whether_it_was_started_or_not() -> None:
    before = descriptors()
    never_started = TraceDrain()
    assert never_started.close(0)
    assert never_started.close(0), "closing again is no harm"
    started = Writer()
    started.close()
    assert started.drain.close(PATIENCE)
    assert descriptors() == before
