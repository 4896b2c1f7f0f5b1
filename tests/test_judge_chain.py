"""Links between raw events: estimates over breaks and gaps, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judge import PASS, PRODUCT_FAULT, GuestJudge
from harness.judge.chain import UNKNOWN, Chain, Link
from tests.judge_run import MS, SECOND, T0, RunWriter, settled

NOW = 100 * SECOND + 900 * MS


def chain(time: int = 1_000, stamp_ns: int = NOW) -> Chain:
    found = Chain()
    found.set_rtc(time, stamp_ns)
    return found


def test_a_break_is_bridged_by_whole_second_ticks_since_the_last_that_is_known() -> None:
    links = chain()
    assert links.add(UNKNOWN, 5_000, NOW + 150 * MS) == Link(1_001, 5_000, 3_999, estimated=True, lost=False)
    assert links.add(UNKNOWN, 6_000, NOW + 2 * SECOND) == Link(5_001, 6_000, 999, estimated=True, lost=False)


def test_without_anything_known_an_estimated_link_has_no_values() -> None:
    links = Chain()
    assert links.add(UNKNOWN, 5_000, NOW) == Link(None, 5_000, None, estimated=True, lost=False)
    assert links.add(5_000, 5_001, NOW) == Link(5_000, 5_001, 1, estimated=False, lost=False)


def test_minus_one_after_an_event_that_ended_there_counts_as_it_is() -> None:
    links = chain()
    assert links.add(1_000, -1, NOW) == Link(1_000, -1, -1_001, estimated=False, lost=False)
    assert links.add(-1, 7, NOW) == Link(-1, 7, 8, estimated=False, lost=False)


@pytest.mark.parametrize(
    ("last", "after_ns", "lost"),
    [
        (999, 0, True),
        (1_000, 3_600 * SECOND, False),
        (1_001, 0, False),
        (1_002, 0, True),
        (1_010, 8_750 * MS - 1, True),
        (1_010, 8_750 * MS, False),
        (1_010, 9_000 * MS, False),
    ],
)
def test_a_clock_may_lag_but_neither_go_back_nor_run_ahead(last: int, after_ns: int, lost: bool) -> None:
    assert chain().add(last, 50, NOW + after_ns).lost is lost


@pytest.mark.parametrize(
    ("off_by", "tolerance", "verdict"),
    [(0, 0, PASS), (1, 0, PRODUCT_FAULT), (1, 1, PASS), (2, 1, PRODUCT_FAULT)],
)
def test_the_tolerance_is_for_estimated_times_alone(tmp_path: Path, off_by: int, tolerance: int, verdict: str) -> None:
    january = 1_706_702_400
    run, at = RunWriter(tmp_path), T0 + 5 * SECOND
    run.start(T0, january)
    run.do("estimated", at, [(0, 0x08, 0x02), (900 * MS, 0x07, 0x29)])
    new = january + 29 * 86_400 + 5
    estimate = january + 5 + off_by
    run.event(at + 1_901 * MS, settled(estimate, new, new - estimate, 1) | {"estimated": True})
    run.do("plain", at + 4 * SECOND, [(0, 0x07, 0x28)])
    before = new + 4 - off_by
    run.event(at + 5_001 * MS, settled(before, new + 4 - 86_400, new + 4 - 86_400 - before, 1))
    run.journal("end", t_ns=at + 20 * SECOND)
    with GuestJudge(run.dir, estimate_tolerance=tolerance) as judge:
        judge.refresh()
        found = {verdict.item: verdict.verdict for verdict in judge.decide(at + 20 * SECOND, final=True)}
    assert found == {"estimated": verdict, "plain": PRODUCT_FAULT if off_by else PASS}
