"""The clock map: the true moment always lies within a mapped stamp's uncertainty, and stamps keep their order."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.clock_map import DRIFT_PPM, Break, ClockMap, Stamp

MS = 1_000_000
SECOND = 1_000_000_000
UNHURRIED = settings(deadline=None)


@dataclasses.dataclass(frozen=True)
class Piece:
    """For so long of our time their clock runs at a rate of its own; `still`: then it stands still for so long."""

    seconds: float
    ppm: float
    still_ns: int = 0


class Clocks:
    """The truth: their clock as a piecewise linear function of ours, inverted exactly enough."""

    def __init__(self, offset_ns: int, pieces: list[Piece]) -> None:
        self._knots: list[tuple[float, float, float]] = []  # ours, theirs, their nanoseconds for one of ours
        ours, theirs = 0.0, float(offset_ns)
        for piece in pieces:
            rate = 1 / (1 + piece.ppm * 1e-6)
            self._knots.append((ours, theirs, rate))
            ours += piece.seconds * 1e9
            theirs += piece.seconds * 1e9 * rate
            if piece.still_ns:
                self._knots.append((ours, theirs, 0.0))
                ours += piece.still_ns
        self._knots.append((ours, theirs, 1.0))
        self.end_ns = int(ours)

    def theirs(self, ours_ns: int) -> int:
        """What their clock shows then."""
        ours, theirs, rate = max((knot for knot in self._knots if knot[0] <= ours_ns), default=self._knots[0])
        return int(theirs + (ours_ns - ours) * rate)


ROUNDING_NS = 4
"""The simulation's own: floating point and whole nanoseconds."""

drifts = st.floats(-100, 100)
pieces = st.lists(st.builds(Piece, st.floats(0.01, 20), drifts), min_size=1, max_size=6)
ways = st.one_of(st.just(0), st.integers(0, MS), st.integers(0, 300 * MS))
questions = st.lists(st.tuples(st.floats(0, 1), ways, ways), min_size=1, max_size=30)
moments = st.lists(st.floats(-0.1, 1.1), max_size=12)
offsets = st.integers(-(10**17), 10**17)


def ask(clocks: Clocks, clock: ClockMap, share: float, there: int, back: int) -> Break | None:
    answered = int(share * clocks.end_ns)
    return clock.add(answered - there, clocks.theirs(answered), answered + back)


def holds(clocks: Clocks, stamp: Stamp, true_ns: int) -> bool:
    return abs(stamp.ns - true_ns) <= stamp.uncertainty_ns + ROUNDING_NS


@UNHURRIED
@given(offsets, pieces, questions, moments, st.randoms(use_true_random=False))
def test_the_truth_lies_within_the_uncertainty_and_stamps_keep_their_order(
    offset: int, course: list[Piece], asked: list[tuple[float, int, int]], wanted: list[float], random: object
) -> None:
    # given clocks with an offset, that drift by up to 100 ppm, and answers with delays of any kind
    clocks, clock = Clocks(offset, course), ClockMap()
    issued: dict[int, int] = {}
    for share, there, back in sorted(asked):
        # when samples come in, and moments are mapped before and after each
        assert ask(clocks, clock, share, there, back) is None
        for moment in wanted:
            true_ns = int(moment * clocks.end_ns)
            stamp = clock.ours(clocks.theirs(true_ns))
            # then each is right, within what it claims
            assert holds(clocks, stamp, true_ns)
            issued[clocks.theirs(true_ns)] = stamp.ns
    # and no two are in the wrong order, whenever they were mapped
    assert [issued[theirs] for theirs in sorted(issued)] == sorted(issued.values())


@UNHURRIED
@given(offsets, st.floats(0, 1), ways, ways, st.integers(0, 10 * SECOND))
def test_one_sample_bounds_by_half_its_round_trip_and_the_drift_since(
    offset: int, share: float, there: int, back: int, later: int
) -> None:
    clock = ClockMap()
    clock.add(0, offset, there + back)
    assert clock.ours(offset).uncertainty_ns in {(there + back) // 2, -(-(there + back) // 2)}
    drifted = -(-later * DRIFT_PPM // 1_000_000)
    assert clock.ours(offset + later).uncertainty_ns == pytest.approx((there + back) / 2 + drifted, abs=1)


def test_a_good_sample_serves_until_drift_has_eaten_its_advantage() -> None:
    clock = ClockMap()
    clock.add(0, 0, 200_000)
    for second in range(1, 40):  # since then every answer takes 30 ms
        clock.add(second * SECOND, second * SECOND + 100_000, second * SECOND + 30 * MS)
    assert clock.ours(10 * SECOND).uncertainty_ns < 2.2 * MS
    assert clock.ours(39 * SECOND).uncertainty_ns < 8 * MS


def test_asymmetric_delays_are_narrowed_by_answers_that_were_slow_the_other_way() -> None:
    clock = ClockMap()
    clock.add(0, 10 * MS, 10 * MS)
    assert clock.ours(10 * MS).uncertainty_ns == 5 * MS
    clock.add(20 * MS, 20 * MS, 30 * MS)
    assert clock.ours(20 * MS).uncertainty_ns < 10_000


# -- clocks that stand still, or are slewed -----------------------------------------------------------------------


@UNHURRIED
@given(
    offsets,
    st.integers(60 * MS, 100 * SECOND),
    st.floats(0.5, 5),
    st.lists(st.floats(0, 1), max_size=12),
    st.integers(0, 20 * MS),
    st.integers(0, 20 * MS),
)
def test_a_host_that_was_suspended_is_noticed_and_no_stamp_is_wrong_for_it(
    offset: int, still: int, before: float, wanted: list[float], there: int, back: int
) -> None:
    # given a host whose clock stands still for a while, at an unknown moment
    clocks, clock = Clocks(offset, [Piece(before, 50, still), Piece(5, -50)]), ClockMap()
    step = SECOND // 2
    answered = list(range(0, clocks.end_ns + step, step))
    asleep = range(int(before * SECOND) - there, int(before * SECOND) + still + 1)
    breaks = []
    for moment in answered:
        if moment not in asleep:  # nothing is answered while it sleeps
            breaks.append(clock.add(moment - there, clocks.theirs(moment), moment + back))
    found = [item for item in breaks if item is not None]
    # then that is known, if answers were fast enough to show it
    if still > there + back + 5 * MS:
        assert len(found) == 1
        assert found[0].from_ns <= before * SECOND and before * SECOND + still <= found[0].to_ns
        assert still - there - back - 5 * MS <= found[0].gained_ns <= still + 5 * MS
        # and every moment, those around it included, is right within what it claims
        for share in wanted:
            true_ns = int(share * clocks.end_ns)
            if true_ns not in asleep:
                assert holds(clocks, clock.ours(clocks.theirs(true_ns)), true_ns)


@pytest.mark.parametrize("ppm", [1600, -1600, 83_000, -83_000])
def test_a_clock_that_a_daemon_slews_is_expected_to_go_on_so_until_it_does_not(ppm: int) -> None:
    # given a clock that begins to be slewed after 5 s, and is no more after 25 s
    clocks, clock = Clocks(0, [Piece(5, 10), Piece(20, ppm), Piece(75, 10)]), ClockMap()
    widest = 0
    for second in range(100):
        answered = second * SECOND + 100_000
        clock.add(answered - 100_000, clocks.theirs(answered), answered + 100_000)
        # when moments are mapped before the next sample is there, and between samples
        for share in (0.1, 0.5, 0.9):
            true_ns = answered + int(share * SECOND)
            if second not in {4, 5}:  # the first second of it cannot be foreseen
                assert holds(clocks, clock.ours(clocks.theirs(true_ns)), true_ns)
        true_ns = answered - int(0.7 * SECOND)
        if second > 0:
            assert holds(clocks, clock.ours(clocks.theirs(true_ns)), true_ns)
        widest = max(widest, clock.ours(clocks.theirs(answered)).uncertainty_ns)
    # then the uncertainty was never more than the slew explains, and is small again
    assert widest < SECOND * abs(ppm) * 1e-6 + MS
    assert clock.ours(clocks.theirs(100 * SECOND)).uncertainty_ns < MS // 2


def test_what_came_before_our_own_clock_can_have_known_it_is_not_dated_into_the_future() -> None:
    # given a harness that was suspended for a minute: its clock stood still, theirs went on
    clock = ClockMap()
    clock.add(0, 0, MS)
    # when a record is there before a new sample is
    stamp = clock.ours(60 * SECOND, not_after_ns=2 * MS)
    # then it was not before the last moment known, nor after its arrival
    assert stamp.earliest_ns <= MS and stamp.latest_ns == 2 * MS


def test_without_proof_all_up_to_the_arrival_is_possible() -> None:
    clock = ClockMap()
    clock.add(0, 0, MS)
    stamp = clock.ours(SECOND, not_after_ns=9 * SECOND, proven=False)
    assert stamp.earliest_ns <= SECOND and stamp.latest_ns == 9 * SECOND


def test_a_clock_that_began_anew_is_said_to_have() -> None:
    clock = ClockMap()
    clock.add(0, 100 * SECOND, MS)
    clock.ours(100 * SECOND)
    found = clock.add(10 * SECOND, SECOND, 10 * SECOND + MS)
    assert found is not None and found.restarted
    assert abs(clock.ours(2 * SECOND).ns - 11 * SECOND) < 2 * MS


def test_every_sample_and_break_is_told_for_the_record() -> None:
    kept: list[dict[str, object]] = []
    clock = ClockMap(keep=kept.append)
    assert not clock.ready
    clock.add(0, 0, MS)
    assert clock.ready
    clock.add(SECOND, 5 * SECOND, SECOND + MS)
    assert [record["kind"] for record in kept] == ["sample", "sample", "break"]
    assert kept[1] == {"kind": "sample", "sent_ns": SECOND, "theirs_ns": 5 * SECOND, "received_ns": SECOND + MS}
    assert kept[2]["gained_ns"] == -4 * SECOND + MS and kept[2]["restarted"] is False


def test_no_answer_comes_before_its_question_and_nothing_is_known_without_one() -> None:
    with pytest.raises(ValueError, match="before its question"):
        ClockMap().add(2, 0, 1)
    with pytest.raises(ValueError, match="no sample"):
        ClockMap().ours(0)
