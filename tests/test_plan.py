"""Plans: random ones keep their promises, YAML loses nothing, wrong files are told by line."""

from __future__ import annotations

import datetime
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures import plan_sets
from fixtures.plan_making import PlanSet
from harness.errors import ConfigurationError
from harness.plan import (
    REGISTERS,
    VRTCS,
    Pause,
    Plan,
    PlanFile,
    ReadRegister,
    SetClock,
    Vrtc,
    WriteRegister,
    dump_plans,
)
from harness.plan_values import ValueSource, random_pauses
from harness.yamlfile import load_yaml_model

SETS = [
    plan_sets.random_orders,
    plan_sets.random_orders_with_pauses,
    plan_sets.hwclock("pc"),
    plan_sets.hwclock("q35"),
    plan_sets.two_updates,
    plan_sets.cut_in_two,
    plan_sets.silent_registers,
    plan_sets.silent_registers_after_update,
    plan_sets.parts_of_a_date,
    plan_sets.silent_moves,
]


@pytest.mark.parametrize("vrtc", VRTCS)
@pytest.mark.parametrize("plan_set", SETS)
def test_a_seed_always_gives_the_same_plans_and_yaml_gives_them_back(
    plan_set: PlanSet, vrtc: Vrtc, tmp_path: Path
) -> None:
    plans = plan_set(7, 10, vrtc)
    assert plans and plans == plan_set(7, 10, vrtc) and plans != plan_set(8, 10, vrtc)
    assert {plan.vrtc for plan in plans} == {vrtc}
    file = tmp_path / "plans.yaml"
    file.write_text(dump_plans(plans, 7), encoding="utf-8")
    read = load_yaml_model(file, PlanFile)
    assert (list(read.plans), read.seed) == (plans, 7)


def test_ids_are_unique_over_all_sets() -> None:
    ids = [plan.id for plan_set in SETS for vrtc in VRTCS for plan in plan_set(1, 50, vrtc)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("plan_set", SETS)
def test_for_each_vrtc_a_set_has_the_same_plans_by_name_with_values_of_its_own(plan_set: PlanSet) -> None:
    on_dm, on_hv = (plan_set(3, 10, vrtc) for vrtc in VRTCS)
    assert [f"hv-{plan.id}" for plan in on_dm] == [plan.id for plan in on_hv]
    assert [plan.mode for plan in on_dm] == [plan.mode for plan in on_hv]
    assert [plan.actions for plan in on_dm] != [plan.actions for plan in on_hv]


def test_more_updates_leave_the_first_ones_as_they_were() -> None:
    few = {plan.id: plan for plan in plan_sets.random_orders(3, 20, "dm")}
    many = {plan.id: plan for plan in plan_sets.random_orders(3, 200, "dm")}
    assert all(many[name] == plan for name, plan in few.items())


def test_one_random_update_in_five_has_pauses() -> None:
    assert len(plan_sets.random_orders(1, 100, "dm")) == 160
    paused = plan_sets.random_orders_with_pauses(1, 100, "dm")
    assert len(paused) == 40
    assert all(0 < plan.seconds <= 6 * 0.8 for plan in paused)


@given(st.integers())
def test_no_run_of_pauses_is_near_the_window(seed: int) -> None:
    pauses = random_pauses(random.Random(seed))
    assert len(pauses) == 7 and max(pauses) <= 0.8
    for begin, end in itertools.combinations(range(8), 2):
        assert not 0.9 <= sum(pauses[begin:end]) <= 1.1


def test_values_cover_every_kind_and_keep_apart() -> None:
    choice = random.Random(5)
    source = ValueSource()
    values = [source.next(choice) for _ in range(2000)]
    ordered = sorted(values)
    assert min(b - a for a, b in itertools.pairwise(ordered)) > datetime.timedelta(seconds=10)
    days = {(v.month, v.day) for v in values}
    assert {(2, 29), (12, 31), (1, 1), (1, 31), (4, 30)} <= days
    assert {1970, 1999, 2000, 2099, 2100} <= {v.year for v in values}
    assert max(v.year for v in values) > 5000


def test_most_values_for_the_hypervisors_vrtc_are_in_its_years_and_some_on_purpose_are_not() -> None:
    choice = random.Random(5)
    source = ValueSource("hv")
    values = [source.next(choice) for _ in range(2000)]
    beyond = [value for value in values if value.year > 2037]
    assert 100 < len(beyond) < 300
    assert {2038} < {value.year for value in beyond}
    assert {1970, 1999, 2000, 2037} <= {value.year for value in values}
    days = {(v.month, v.day) for v in values if v.year <= 2037}
    assert {(2, 29), (12, 31), (1, 1), (1, 31), (4, 30)} <= days


def test_accesses_of_a_halted_update_are_framed_by_register_b() -> None:
    value = datetime.datetime(2024, 2, 29, 12, 34, 56)
    plan = Plan(id="x", actions=(SetClock(mode="halted", value=value, order=("century", "sec"), pauses=(0, 0.5)),))
    assert list(plan.accesses()) == [(0x0B, 0x82), (0x32, 0x20), 0.5, (0, 0x56), (0x0B, 0x02)]
    assert (plan.order, plan.mode, plan.seconds) == ([0x32, 0], "halted", 0.5)


def test_a_cut_update_never_passes_through_an_invalid_date() -> None:
    for plan in (plan for vrtc in VRTCS for plan in plan_sets.cut_in_two(11, 0, vrtc)):
        before, _, after = plan.actions
        assert isinstance(before, SetClock) and isinstance(after, SetClock)
        for chosen in itertools.product((before.value, after.value), repeat=7):
            parts = dict(zip(REGISTERS, chosen, strict=True))
            year = parts["century"].year // 100 * 100 + parts["year"].year % 100
            datetime.datetime(year, parts["month"].month, parts["day"].day)
            assert plan.vrtc == "dm" or 1970 <= year <= 2037


def test_a_read_is_an_access_and_no_part_of_the_order() -> None:
    plan = Plan(id="x", actions=(ReadRegister(index=9), WriteRegister(index=0, value=0x56)))
    assert list(plan.accesses()) == [(9, None), (0, 0x56)]
    assert plan.order == [0]


def test_a_silent_move_is_by_twelve_hours_whatever_the_order() -> None:
    # by these registers ACRN's hypervisor moves its clock back by half a day when they are read in 12-hour format
    for plan in plan_sets.silent_moves(11, 0, "hv"):
        first, last = (action for action in plan.actions if isinstance(action, SetClock))
        assert first.value.hour == 12
        assert abs(last.value - first.value) > datetime.timedelta(days=300)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("version: 1\nplans:\n- id: a\n  actions:\n  - do: set-clok\n    mode: running\n", 5, "set-clock"),
        ("version: 1\nplans:\n- id: a\n  actions:\n  - {do: pause, seconds: -1}\n", 5, "seconds"),
        ("version: 1\nplans:\n- id: a\n  actoins:\n  - {do: pause, seconds: 1}\n", 4, "actions"),
        ("version: 1\nplans:\n- id: a\n  actions:\n  - {do: write, index: 0x38, value: 0}\n", 5, "index"),
        (
            "version: 1\nplans:\n- id: a\n  actions:\n  - do: set-clock\n    mode: running\n"
            "    value: '2024-13-01T00:00:00'\n",
            7,
            "value",
        ),
        ("version: 2\nplans: []\n", 1, "version"),
    ],
)
def test_a_wrong_plan_file_is_told_by_line(text: str, line: int, said: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_yaml_model(file, PlanFile)
    assert f"{file}:{line}: " in str(caught.value)
    assert said in str(caught.value)


def test_a_plan_id_stands_once() -> None:
    plan = Plan(id="a", actions=(Pause(seconds=1),))
    with pytest.raises(ValueError, match="given twice"):
        PlanFile(version=1, plans=(plan, plan))
