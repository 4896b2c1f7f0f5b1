"""All orders as plans: each of them once, every register changed, from known date to known date, as the seed says."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import pytest

from fixtures import exhaustive_plans
from fixtures.plan_making import PlanSet
from harness.engine.sharing import following
from harness.plan import HV_LAST_YEAR, REGISTERS, Plan, SetClock, Vrtc
from tests.test_fixtures_options import collected, pytest_on

ALL = math.factorial(len(REGISTERS))
SETS: list[tuple[PlanSet, Vrtc]] = [
    (exhaustive_plans.running, "dm"),
    (exhaustive_plans.halted, "dm"),
    (exhaustive_plans.running, "hv"),
]
SAMPLES: list[tuple[PlanSet, Vrtc]] = [
    (exhaustive_plans.running_sample, "dm"),
    (exhaustive_plans.halted_sample, "dm"),
    (exhaustive_plans.running_sample, "hv"),
]


def order_of(plan: Plan) -> tuple[str, ...]:
    (action,) = plan.actions
    assert isinstance(action, SetClock)
    return action.order


def registers(plan: Plan) -> list[tuple[int, int]]:
    """What each register is before, and what it is set to."""
    before, after = plan.start, plan.leaves
    assert before is not None and after is not None
    pairs = zip(before.timetuple()[1:6], after.timetuple()[1:6], strict=True)
    return [*pairs, (before.year % 100, after.year % 100), (before.year // 100, after.year // 100)]


@pytest.mark.parametrize(("make", "vrtc"), SETS)
def test_each_order_is_there_once_and_changes_every_register(make: PlanSet, vrtc: Vrtc) -> None:
    plans = make(7, 0, vrtc)
    assert len({order_of(plan) for plan in plans}) == len({plan.id for plan in plans}) == len(plans) == ALL
    for plan in plans:
        assert all(before != after for before, after in registers(plan)), plan.id
        assert plan.start is not None and plan.leaves is not None
        assert abs((plan.leaves - plan.start).total_seconds()) > 20, "more than 10 s apart, and the clock ticks on"
        assert 1970 <= plan.leaves.year <= HV_LAST_YEAR


@pytest.mark.parametrize(("make", "vrtc"), SETS)
def test_dates_that_make_trouble_are_among_them(make: PlanSet, vrtc: Vrtc) -> None:
    plans = make(7, 0, vrtc)
    days = Counter(
        ((plan.start.month, plan.start.day), (plan.leaves.month, plan.leaves.day))
        for plan in plans
        if plan.start is not None and plan.leaves is not None
    )
    for trouble in (((1, 31), (2, 29)), ((3, 31), (4, 30)), ((12, 31), (1, 1))):
        assert days[trouble] > 20, trouble
    assert sum(count for (before, _), count in days.items() if before == (2, 29)) > 100
    assert any(a.year == 1999 and b.year == 2000 for a, b in ((p.start, p.leaves) for p in plans) if a and b)


@pytest.mark.parametrize(("make", "vrtc"), SETS)
def test_a_plan_starts_where_the_one_before_it_leaves_the_clock(make: PlanSet, vrtc: Vrtc) -> None:
    plans = make(7, 0, vrtc)
    assert all(plan.start == before.leaves for before, plan in itertools.pairwise(plans))
    # and the chains of which each stays on one guest are short, so that no guest has much left when others are done
    together = following(plans)
    lengths = [len(list(chain)) for chained, chain in itertools.groupby(plans, lambda p: p.id in together) if chained]
    assert min(lengths[:-1]) >= 3 and max(lengths) <= 7


def test_the_same_seed_makes_the_same_plans_and_another_one_others() -> None:
    seeds = [exhaustive_plans.running(seed, 10, "hv") for seed in (1, 1, 2)]
    assert seeds[0] == seeds[1]
    assert sum(a.leaves == b.leaves for a, b in zip(seeds[0], seeds[2], strict=True)) < ALL / 4


def test_a_thousand_orders_are_for_linux() -> None:
    plans = [make(7, 0, vrtc) for make, vrtc in SAMPLES]
    assert sum(map(len, plans)) == 1000
    assert all(before != after for each in plans for plan in each for before, after in registers(plan))
    assert len({plan.id for each in plans for plan in each}) == 1000


def test_every_order_is_an_item_that_is_selected_by_mode_vrtc_and_number(tmp_path: Path) -> None:
    scenarios = ("scenarios", "--collect-only", "-q", "-m", "exhaustive")
    items = collected(pytest_on(tmp_path, *scenarios))
    assert len(items) == 3 * ALL + 1000 + 1
    assert "test_every_order_halted[dm-bare-every-halted-5040]" in items
    assert "test_every_order_running[hv-bare-every-running-0001]" in items
    selected = collected(pytest_on(tmp_path, *scenarios, "-k", "hv-bare-every-running-07"))
    assert selected == {f"test_every_order_running[hv-bare-every-running-{number:04}]" for number in range(700, 800)}


def test_without_the_marker_no_order_is_an_item(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, "scenarios/test_exhaustive.py", "--collect-only", "-q", "-m", "qemu")
    assert not collected(done) and "no tests collected" in done.stdout
