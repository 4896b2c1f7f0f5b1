"""Every order of seven register writes over the dates at which ACRN's own sum goes wrong: ours does not.

The raw events come from a model of ACRN's device-model vRTC that is a few lines long: running, BCD aside.
"""

from __future__ import annotations

from calendar import timegm
from collections.abc import Sequence
from datetime import datetime
from itertools import permutations

import pytest

from harness.vm_event import RtcChange, RtcChangeSettler

Fields = tuple[int, int, int, int, int, int, int]  # sec, min, hour, day, month, year of century, century

# ACRN.md's table of traps: from, to, orders in which the plain sum of deltas is wrong, and last_time.
TRAPS = [
    ("2024-01-31 10:00:00", "2024-02-29 11:30:30", 2520, 720),
    ("2024-02-29 10:00:00", "2023-02-28 11:30:30", 2520, 720),
    ("1999-12-31 23:59:59", "2000-01-01 00:00:00", 2520, 720),
    ("2024-03-31 10:00:00", "2024-04-30 11:30:30", 2520, 720),
    ("2024-05-05 10:00:00", "1985-10-26 01:21:00", 2520, 720),
    ("2024-06-15 12:00:00", "2025-07-20 08:30:15", 0, 0),
]


def fields(text: str) -> tuple[Fields, int]:
    at = datetime.strptime(text, "%Y-%m-%d %H:%M:%S")
    return (at.second, at.minute, at.hour, at.day, at.month, at.year % 100, at.year // 100), timegm(at.timetuple())


def seconds(registers: Sequence[int]) -> int | None:
    """The date as ACRN's vRTC reads it: before 1970 it is as invalid as 31 February."""
    second, minute, hour, day, month, year, century = registers
    try:
        at = datetime(century * 100 + year, month, day, hour, minute, second)
    except ValueError:
        return None
    return timegm(at.timetuple()) if at.year >= 1970 else None


def raw_events(start: Fields, end: Fields, order: Sequence[int]) -> list[RtcChange]:
    registers = list(start)
    clock = seconds(registers)
    events = []
    for index in order:
        registers[index] = end[index]
        new = seconds(registers)
        if new is not None:
            last = -1 if clock is None else clock
            events.append(RtcChange(last, new - last))
        clock = new
    return events


@pytest.mark.parametrize(("start_text", "end_text", "wrong_sums", "wrong_lasts"), TRAPS)
def test_all_5040_orders_settle_to_the_true_change(
    start_text: str, end_text: str, wrong_sums: int, wrong_lasts: int
) -> None:
    start, start_time = fields(start_text)
    end, end_time = fields(end_text)
    naive_sums = naive_lasts = 0
    for order in permutations(range(7)):
        raw = raw_events(start, end, order)
        settler = RtcChangeSettler()
        settler.set_rtc(start_time, 1.0)
        for event in raw:
            settler.add(event, 1.5)
        settled = settler.expire(2.5)
        assert settled is not None
        broken = any(event.last_time == -1 for event in raw)
        assert (settled.last_time, settled.new_time, settled.delta_time, settled.raw_events) == (
            start_time, end_time, end_time - start_time, len(raw)), order  # fmt: skip
        assert (settled.estimated, settled.lost, settler.expire(9.9)) == (broken, False, None), order
        naive_sums += sum(event.delta_time for event in raw) != end_time - start_time
        naive_lasts += raw[0].last_time != start_time
    assert (naive_sums, naive_lasts) == (wrong_sums, wrong_lasts), "the model is not ACRN's"
