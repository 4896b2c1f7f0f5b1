"""Plans in every format and of the special cases: what they write, and that each leaves the RTC fit for the next."""

from __future__ import annotations

import calendar
import datetime
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures import format_plans, plan_sets, special_plans
from fixtures.plan_making import PlanSet
from harness.judge import dates
from harness.judge.dm_clock import DmClock
from harness.judge.outcomes import Outcome
from harness.plan import (
    FORMATS,
    REGISTER_B,
    REGISTERS,
    VRTCS,
    Format,
    Mode,
    Pause,
    Plan,
    Reset,
    SetClock,
    Vrtc,
    WriteRegister,
    dump_plans,
)

ON_A_PAGE = [
    *(format_plans.random_formats, format_plans.random_changes, format_plans.edges),
    *(format_plans.bad_bytes_and_good_ones, format_plans.bad_byte_at_the_end),
    *(format_plans.year_of_the_century_beyond_99, format_plans.change_alone),
    *(format_plans.register_after_change(fresh=fresh) for fresh in (False, True)),
    format_plans.read_again_at_the_unhalt,
]
MODES: tuple[Mode, Mode] = ("running", "halted")
SPECIAL = [
    *(special_plans.no_op, special_plans.no_op_with_stale_bytes, special_plans.no_op_but_seconds),
    *(special_plans.no_op_of_a_stopped_clock(mode) for mode in MODES),
    *(special_plans.invalid_in_the_middle(mode) for mode in MODES),
    *(special_plans.invalid_at_the_end(valid_part=part) for part in (False, True)),
    *(special_plans.invalid_at_the_unhalt, special_plans.invalid_for_some_ticks, special_plans.broken_then_valid),
    *(special_plans.broken_then_unhalted(mode) for mode in MODES),
    *(special_plans.there_and_back(mode) for mode in MODES),
    special_plans.there_and_back_over_a_tick,
    *(special_plans.reset_in_mid_update(mode) for mode in MODES),
    *(special_plans.full_reset_after_update(mode) for mode in MODES),
    *(special_plans.halted_twice, special_plans.other_registers, special_plans.divider),
    *(special_plans.two_halt_cycles(apart) for apart in (0.2, 2.0)),
    *(special_plans.seven_writes(apart) for apart in (0.9, 1.1)),
    special_plans.alarm_and_jumps,
]
ALL = [*ON_A_PAGE, *SPECIAL]
REGISTER_A = 0x0A


# -- formats -------------------------------------------------------------------------------------------------


@given(st.sampled_from(FORMATS), st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(9998, 12, 31)))
def test_what_is_written_in_a_format_is_what_the_judge_reads_in_it(format_: Format, value: datetime.datetime) -> None:
    registers = bytearray(128)
    for name, byte in format_.registers(value).items():
        registers[REGISTERS[name]] = byte
    read = dates.decode(registers, format_.register_b())
    assert read == calendar.timegm(value.timetuple())


@pytest.mark.parametrize(
    ("format_", "hours"),
    [
        (Format("bcd", 24), {0: 0x00, 9: 0x09, 10: 0x10, 12: 0x12, 13: 0x13, 23: 0x23}),
        (Format("bcd", 12), {0: 0x12, 9: 0x09, 10: 0x10, 12: 0x92, 13: 0x81, 23: 0x91}),
        (Format("binary", 24), {0: 0, 9: 9, 10: 10, 12: 12, 13: 13, 23: 23}),
        (Format("binary", 12), {0: 12, 9: 9, 10: 10, 12: 0x8C, 13: 0x81, 23: 0x8B}),
    ],
)
def test_hours_of_each_format(format_: Format, hours: dict[int, int]) -> None:
    assert {hour: format_.hour(hour) for hour in hours} == hours


def test_a_halted_update_announces_its_format_and_a_running_one_relies_on_it() -> None:
    value = datetime.datetime(2024, 2, 29, 13, 34, 56)
    clock = {"value": value, "encoding": "binary", "hours": 12, "order": ("hour", "min")}
    halted = SetClock.model_validate({"mode": "halted", **clock})
    assert list(halted.accesses()) == [(0x0B, 0x84), (4, 0x81), (2, 34), (0x0B, 0x04)]
    running = SetClock.model_validate({"mode": "running", **clock})
    assert list(running.accesses()) == [(4, 0x81), (2, 34)]


def test_the_dates_of_the_change_while_halted_are_the_same_bytes() -> None:
    in_bcd = Format("bcd", 24).registers(format_plans.WRITTEN_IN_BCD)
    assert in_bcd == Format("binary", 24).registers(format_plans.READ_IN_BINARY)


def test_bad_bytes_are_bad_and_good_ones_are_good() -> None:
    for plan in format_plans.bad_bytes_and_good_ones(5, 0, "dm"):
        told = [outcome is not None for (index, _), outcome in _on_dm(plan)[1] if index != REGISTER_B]
        count = next(count for name, count in format_plans.BAD_BYTES.items() if plan.id.endswith(name))
        assert told[-2 * count - 2 :] == [*[False, True] * count, True, True], plan.id


# -- every plan ----------------------------------------------------------------------------------------------


def _writes(plan: Plan) -> Iterator[tuple[int, int]]:
    for access in plan.accesses():
        if isinstance(access, tuple) and access[1] is not None:
            yield access[0], access[1]


def _on_dm(plan: Plan) -> tuple[int, list[tuple[tuple[int, int], Outcome]]]:
    """What the device model's clock shows at the end, and what each write has it say, by the judge's model."""
    now, clock, outcomes = 0.0, DmClock(1_718_452_800, 0), []
    for access in plan.accesses():
        if isinstance(access, float):
            now += access
        elif access[1] is not None:
            write = access[0], access[1]
            outcomes.append((write, clock.write(*write, int(now))))
    return clock.time(int(now)), outcomes


@pytest.mark.parametrize("vrtc", VRTCS)
@pytest.mark.parametrize("plan_set", ALL)
def test_each_plan_leaves_24_hours_bcd_running_and_the_divider_on(plan_set: PlanSet, vrtc: Vrtc) -> None:
    for plan in plan_set(3, 20, vrtc):
        if plan.reset is None:
            last = {REGISTER_B: 0x02, REGISTER_A: 0x26, **dict(_writes(plan))}
            assert (last[REGISTER_B], last[REGISTER_A] & 0x70) == (0x02, 0x20), plan.id


@pytest.mark.parametrize("plan_set", ALL)
def test_each_plan_leaves_a_valid_date_on_the_device_models_vrtc(plan_set: PlanSet) -> None:
    for plan in (plan for seed in range(20) for plan in plan_set(seed, 8, "dm")):
        assert plan.reset is not None or _on_dm(plan)[0] > 0, plan.id


def test_no_plan_has_a_pause_that_proves_nothing() -> None:
    for plan_set in ALL:
        for vrtc in VRTCS:
            accesses = [access for plan in plan_set(1, 20, vrtc) for access in plan.accesses()]
            assert not [access for access in accesses if isinstance(access, float) and 0.9 < access < 1.1]


def test_every_case_has_a_name_of_its_own() -> None:
    sets = [*ALL, plan_sets.random_orders, plan_sets.two_updates, plan_sets.silent_registers, plan_sets.cut_in_two]
    names = [plan.id for plan_set in sets for vrtc in VRTCS for plan in plan_set(1, 20, vrtc)]
    assert len(names) == len(set(names))


# -- resets --------------------------------------------------------------------------------------------------

WRITE = WriteRegister(index=0, value=1)


def test_a_reset_stands_last_needs_a_bare_guest_and_is_no_access() -> None:
    plan = Plan(id="x", actions=(WRITE, Reset(full=True)))
    assert (plan.reset, plan.needed_system) == (Reset(full=True), "bare")
    assert list(plan.accesses()) == [(0, 1)]
    assert "do: reset, full: true" in dump_plans([plan], 1)
    assert Plan(id="x", actions=(WRITE,)).needed_system is None


@pytest.mark.parametrize("actions", [(Reset(), WRITE), (WRITE, Reset(), Pause(seconds=1)), (Reset(),)])
def test_a_reset_elsewhere_is_refused(actions: tuple[Reset | WriteRegister | Pause, ...]) -> None:
    with pytest.raises(ValueError, match="a reset"):
        Plan(id="x", actions=actions)
