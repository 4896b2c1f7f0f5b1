"""The second opinion where a guest wrote some registers while they ran, and soon after that the others, halted."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.opinion.opinions import CONSISTENT, INCONSISTENT, NO_OPINION
from tests.opinion_run import ORDER, Records, at

THERE = at("2025-07-20T08:09:10")
BUT_SECONDS = ORDER[1:]


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "vm0")


@pytest.mark.parametrize(
    ("ahead", "off", "opinion"), [(6, 0, CONSISTENT), (0, 0, CONSISTENT), (6, 60, INCONSISTENT), (0, 13, INCONSISTENT)]
)
def test_what_it_gained_before_a_halt_is_there_after_it_where_the_seconds_were_not_written(
    records: Records, ahead: int, off: int, opinion: str
) -> None:
    last = records.update(10.2, THERE)
    records.change(last, THERE + ahead)
    records.event(last, THERE)
    last = records.update(11.5, THERE + 1, registers=BUT_SECONDS, halted=True)
    records.change(last, THERE + 1 + ahead + off)
    records.event(last, THERE + 1)
    assert [said.qmp.opinion for said in records.opinions()] == [CONSISTENT, opinion]


@pytest.mark.parametrize(("second", "opinion"), [(10, INCONSISTENT), (57, NO_OPINION)])
def test_a_minute_that_ended_before_the_halt_on_one_side_may_be_overwritten(
    records: Records, second: int, opinion: str
) -> None:
    there = at(f"2025-07-20T08:09:{second}")
    last = records.update(10.2, there, halted=True)
    records.change(last, there)
    records.event(last, there)
    last = records.update(11.5, there + 1, registers=BUT_SECONDS, halted=True)
    records.change(last, there + 1 - 60)
    records.event(last, there + 1)
    assert [said.qmp.opinion for said in records.opinions()] == [CONSISTENT, opinion]


@pytest.mark.parametrize("first", ["5983-10-19T00:00:02", "2025-10-19T00:00:02"])
def test_a_century_that_qemus_rtc_does_not_have_does_not_stand_until_the_rest_is_written(
    records: Records, first: str
) -> None:
    # given a running update, and hwclock's on a pc right after it: halted, without the century
    last = records.update(10.2, at(first))
    records.change(last, at(first), bits=32)
    records.event(last, at(first))
    then = at(f"{first[:2]}93-08-09T00:25:09")
    last = records.update(11.4, then, registers=ORDER[:6], halted=True)
    records.change(last, at("2493-08-09T00:25:09"), bits=32)
    records.event(last, then)
    # then QEMU is not blamed for what its clock cannot count
    assert records.opinions()[1].qmp.opinion == (NO_OPINION if first > "2262" else INCONSISTENT)
