"""Where one update ends and the next begins: only the settle window tells."""

from __future__ import annotations

import pytest

from fixtures import plan_sets
from fixtures.plans import rtc_plans
from fixtures.types import Update, Vrtc, expect_events, last_write_ns

pytestmark = [pytest.mark.qemu, pytest.mark.nested, pytest.mark.hw]


@rtc_plans(plan_sets.two_updates)
def test_two_updates_a_little_more_than_the_window_apart(update: Update) -> None:
    """Two updates 1.2 s apart, and more: an event each."""
    verdict = update.judged()
    expect_events(verdict, 2)


@rtc_plans(plan_sets.cut_in_two)
def test_update_cut_in_two_by_a_longer_pause(update: Update) -> None:
    """One pause longer than the window within an update: the service cannot but see two."""
    verdict = update.judged()
    expect_events(verdict, 3)  # the update before, and the two parts


@rtc_plans(plan_sets.parts_of_a_date)
def test_some_registers_of_a_date(update: Update) -> None:
    """Only some registers are written, some seconds after the last write, with and without a read before."""
    verdict = update.judged()
    expect_events(verdict, 2)  # the update before, and the part


@rtc_plans(plan_sets.silent_registers)
def test_day_of_week_and_alarm_announce_nothing(update: Update) -> None:
    """These registers are no part of the date."""
    verdict = update.judged()
    expect_events(verdict, 0)


@rtc_plans(plan_sets.silent_registers_after_update)
def test_day_of_week_and_alarm_do_not_put_off_an_event(update: Update) -> None:
    """Written 0.6 s after an update, they do not start its window anew."""
    verdict = update.judged()
    expect_events(verdict, 1)
    assert verdict.expected[0].last_ns < last_write_ns(verdict) - 500_000_000, "the silent writes came later"


@rtc_plans(plan_sets.silent_moves)
def test_event_after_a_silent_move_tells_of_the_gap(update: Update, vrtc: Vrtc) -> None:
    """Moved by a write that no event is sent for, the hypervisor's clock leaves a gap: the next event says `lost`."""
    verdict = update.judged()
    expect_events(verdict, 2)
    assert [event.lost for event in verdict.expected] == [False, vrtc == "hv"]
