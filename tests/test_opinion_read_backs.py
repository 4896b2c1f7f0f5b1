"""When a guest is asked to read its RTC back, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.engine.read_back import EVERY, ReadBacks
from harness.guests.steps import AgentReport, Read
from harness.opinion import read_back as opinion_side
from harness.opinion.grain import Lag
from harness.opinion.opinions import CONSISTENT, INCONSISTENT, NO_OPINION
from harness.opinion.records import ReadBack

NOON = 1_718_452_800
SECOND = 10**9
BYTES = (0x02, 0x00, 0x00, 0x12, 0x15, 0x06, 0x24, 0x20, 0x00)
"""2024-06-15 12:00:00 as the registers of a read-back show it."""


def reading(values: tuple[int, ...] = BYTES, *, after_s: float = 0.0, took_s: float = 0.001) -> ReadBack:
    start = round(after_s * SECOND)
    return ReadBack("x", start, start + round(took_s * SECOND), tuple(zip(opinion_side.STEPS, values, strict=True)))


def test_a_share_of_items_begins_with_a_read_back_and_the_last_thing_a_guest_does(tmp_path: Path) -> None:
    guest = ReadBacks(tmp_path, on_hv=False)
    asked = [bool(guest.before("update")) for _ in range(3 * EVERY)]
    assert sum(asked) == 3 and asked[EVERY - 1]
    assert guest.before("restore") == [Read(register) for register in opinion_side.STEPS]


def test_on_the_hypervisors_vrtc_reading_would_disturb_so_only_the_last_item_does(tmp_path: Path) -> None:
    guest = ReadBacks(tmp_path, on_hv=True)
    assert not any(guest.before("update") for _ in range(3 * EVERY))
    assert guest.before("restore")


def test_what_was_read_is_kept_and_the_items_own_reads_are_its_own(tmp_path: Path) -> None:
    guest = ReadBacks(tmp_path, on_hv=False)
    asked = guest.before("restore")
    reads = tuple((register, value, 7) for register, value in zip(opinion_side.STEPS, BYTES, strict=True))
    report = AgentReport("item", True, None, 1, 2, writes=((0, 1, 9),), reads=(*reads, (0x0C, 0, 8)))

    own = guest.take(report, asked)

    assert own.reads == ((0x0C, 0, 8),) and own.writes == report.writes
    kept = json.loads((tmp_path / "read-back.jsonl").read_text())
    assert kept == {"item": "item", "start_ns": 1, "end_ns": 2, "reads": [list(read) for read in reads]}


def test_nothing_is_kept_of_what_was_not_asked_or_refused(tmp_path: Path) -> None:
    guest = ReadBacks(tmp_path, on_hv=False)
    report = AgentReport("item", True, None, 1, 2, reads=((0x0C, 0, 8),))
    assert guest.take(report, []) is report
    guest.take(AgentReport("item", False, "no", 1, 2), guest.before("restore"))
    assert not (tmp_path / "read-back.jsonl").exists()


def test_the_engine_asks_for_what_the_second_opinion_understands(tmp_path: Path) -> None:
    asked = ReadBacks(tmp_path, on_hv=False).before("restore")
    assert asked == [Read(register) for register in opinion_side.STEPS]
    assert opinion_side.STEPS == (0x0B, 0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32, 0x00)


@pytest.mark.parametrize(
    ("values", "after_s", "opinion"),
    [
        (BYTES, 0.0, CONSISTENT),
        (BYTES, 1.4, CONSISTENT),
        (BYTES, 3.4, INCONSISTENT),  # it stands
        ((0x06, 0, 0, 12, 15, 6, 24, 20, 0), 0.0, CONSISTENT),  # binary
        ((0x00, 0, 0, 0x92, 0x15, 6, 0x24, 0x20, 0), 0.0, CONSISTENT),  # 12 o'clock p.m.
        ((0x00, 0, 0, 0x12, 0x15, 6, 0x24, 0x20, 0), 0.0, INCONSISTENT),  # midnight
        ((0x02, 0, 0, 0x13, 0x15, 6, 0x24, 0x20, 0), 0.0, INCONSISTENT),  # an hour off
        ((0x02, 0, 0, 0x12, 0x31, 6, 0x24, 0x20, 0), 0.0, INCONSISTENT),  # 31 June
        ((0x02, 0x59, 0, 0x12, 0x15, 6, 0x24, 0x20, 0), 0.0, NO_OPINION),  # ticked in between
        ((0x82, *BYTES[1:]), 0.0, NO_OPINION),  # halted
    ],
)
def test_what_was_read_is_held_against_the_event_and_the_time_since(
    values: tuple[int, ...], after_s: float, opinion: str
) -> None:
    said = opinion_side.said_by_reads(reading(values, after_s=after_s), NOON, 0, Lag(-1, 1))
    assert said.opinion == opinion, said


@pytest.mark.parametrize("read", [reading(took_s=6), ReadBack("x", 0, 1, reading().reads[:-1])])
def test_a_reading_that_is_not_whole_says_nothing(read: ReadBack) -> None:
    assert opinion_side.said_by_reads(read, NOON, 0, Lag(-1, 1)).opinion == NO_OPINION
