"""Wall-clock stamps become monotonic ones, whatever happens to the wall clock."""

from __future__ import annotations

import itertools
import time

from hypothesis import given
from hypothesis import strategies as st

from harness.qemu.clock import STEP_NS, Sample, StampMapper, sample_clocks

MS = 1_000_000
SECOND = 1_000_000_000
AHEAD = 1_795_511_679 * SECOND
"""How far the wall clock is ahead of the monotonic one."""


def test_a_stamp_becomes_the_monotonic_time_of_the_same_moment() -> None:
    mapper = StampMapper()
    assert mapper.map(AHEAD + 5 * SECOND, Sample(5 * SECOND + 20_000, AHEAD)) == 5 * SECOND


def test_a_stamp_later_than_its_arrival_becomes_its_arrival() -> None:
    mapper = StampMapper()
    assert mapper.map(AHEAD + 6 * SECOND, Sample(5 * SECOND, AHEAD)) == 5 * SECOND


def test_a_stamp_before_the_one_before_it_becomes_that_one() -> None:
    mapper = StampMapper()
    mapper.map(AHEAD + 5 * SECOND, Sample(5 * SECOND, AHEAD))
    assert mapper.map(AHEAD + 4 * SECOND, Sample(6 * SECOND, AHEAD)) == 5 * SECOND


def test_a_step_forwards_is_told_once_and_later_stamps_are_right_again() -> None:
    steps: list[int] = []
    mapper = StampMapper(steps.append)
    mapper.map(AHEAD + 1 * SECOND, Sample(1 * SECOND, AHEAD))
    # when the wall clock jumps an hour ahead, after a line was stamped and before it arrived
    ahead = AHEAD + 3600 * SECOND
    late = mapper.map(AHEAD + 2 * SECOND, Sample(2 * SECOND, ahead))
    after = [mapper.map(ahead + n * SECOND, Sample(n * SECOND + MS, ahead)) for n in (3, 4)]
    # then only the line in between is clamped, to the one before it
    assert (late, after) == (1 * SECOND, [3 * SECOND, 4 * SECOND])
    assert steps == [3600 * SECOND]


def test_a_step_backwards_is_told_once_and_later_stamps_are_right_again() -> None:
    steps: list[int] = []
    mapper = StampMapper(steps.append)
    mapper.map(AHEAD + 1 * SECOND, Sample(1 * SECOND, AHEAD))
    ahead = AHEAD - 3600 * SECOND
    late = mapper.map(AHEAD + 2 * SECOND, Sample(2 * SECOND + MS, ahead))
    after = [mapper.map(ahead + n * SECOND, Sample(n * SECOND + MS, ahead)) for n in (3, 4)]
    # then only the line in between is clamped, to its arrival
    assert (late, after) == (2 * SECOND + MS, [3 * SECOND, 4 * SECOND])
    assert steps == [-3600 * SECOND]


def test_slewing_is_no_step() -> None:
    steps: list[int] = []
    mapper = StampMapper(steps.append)
    for n in range(100):
        ahead = AHEAD + n * STEP_NS
        assert mapper.map(ahead + n * SECOND, Sample(n * SECOND, ahead)) == n * SECOND
    assert not steps


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, int, Sample]]:
    """True moments, their wall stamps, and the samples at their arrival, while somebody steps the wall clock."""
    now, ahead, found = 10 * SECOND, AHEAD, []
    for _ in range(draw(st.integers(1, 30))):
        moment = now + draw(st.integers(0, SECOND))
        wall = moment + ahead
        if draw(st.booleans()):
            ahead += draw(st.integers(-7200 * SECOND, 7200 * SECOND))
        now = moment + draw(st.integers(0, 10 * MS))
        found.append((moment, wall, Sample(now, ahead)))
    return found


@given(arrivals())
def test_stamps_never_run_backwards_nor_past_their_arrival(lines: list[tuple[int, int, Sample]]) -> None:
    mapper, last = StampMapper(), 0
    for _, wall, arrival in lines:
        stamp = mapper.map(wall, arrival)
        assert last <= stamp <= arrival.monotonic_ns
        last = stamp


@given(arrivals())
def test_every_larger_change_of_the_wall_clock_is_told_and_no_other(lines: list[tuple[int, int, Sample]]) -> None:
    steps: list[int] = []
    mapper = StampMapper(steps.append)
    for _, wall, arrival in lines:
        mapper.map(wall, arrival)
    offsets = [arrival.wall_ahead_ns for _, _, arrival in lines]
    changes = [after - before for before, after in itertools.pairwise(offsets)]
    assert steps == [change for change in changes if abs(change) > STEP_NS]


@given(arrivals())
def test_without_a_step_in_between_a_stamp_is_right_to_the_nanosecond(lines: list[tuple[int, int, Sample]]) -> None:
    mapper = StampMapper()
    for moment, wall, arrival in lines:
        stamp = mapper.map(wall, arrival)
        if wall - arrival.wall_ahead_ns == moment:
            assert stamp == moment


def test_a_sample_lies_between_the_readings_around_it() -> None:
    before, wall_before = time.monotonic_ns(), time.time_ns()
    sample = sample_clocks()
    wall_after, after = time.time_ns(), time.monotonic_ns()
    assert before <= sample.monotonic_ns <= after
    # the two clocks were read at the same moment, as far as the readings around can tell
    ahead_before, ahead_after = wall_before - before, wall_after - after
    doubt = after - before + abs(ahead_after - ahead_before)
    assert abs(sample.wall_ahead_ns - ahead_before) <= doubt
