"""The table of special cases, row by row and for each vRTC: what each must send, and what it must not."""

from __future__ import annotations

import pytest

from fixtures import special_plans as plans
from fixtures.expectations import (
    DM_ONLY,
    HV_ONLY,
    by_vrtc,
    expect_known_defect,
    expected_events,
    only_ticked_beside,
    raw_events,
    stamps_of,
    ticks,
)
from fixtures.plans import rtc_plans
from fixtures.resets import expect_reset_in_window
from fixtures.types import Update, Vrtc, last_write_ns

pytestmark = [pytest.mark.qemu, pytest.mark.nested, pytest.mark.hw]

YEAR_1971 = 365 * 86400
YEAR = 0x09
"""The register that is written last of the four before a reset."""


# -- row: no-op ----------------------------------------------------------------------------------------------


@rtc_plans(plans.no_op)
def test_no_op(update: Update, vrtc: Vrtc) -> None:
    """Seven raw events, one event, delta 0; on the hypervisor's vRTC with fresh bytes."""
    verdict = update.judged()
    _, again = expected_events(verdict, 2)
    assert again.raw_events == 7
    before, after = stamps_of(verdict, 0x00)
    if vrtc == "dm":
        assert again.delta_time is not None
        assert 2 - again.delta_time in ticks(before, after, again), "0, but for a guest that was held up for a tick"
    else:
        assert again.delta_time in {-1, 0, 1}


@rtc_plans(plans.no_op_of_a_stopped_clock("running"))
@DM_ONLY
def test_no_op_of_a_stopped_clock(update: Update) -> None:
    """Nothing ticks, so delta is 0 whenever the guest writes."""
    _, again = expected_events(update.judged(), 2)
    assert (again.raw_events, again.delta_time) == (7, 0)


@rtc_plans(plans.no_op_of_a_stopped_clock("halted"), plans.no_op_but_seconds)
@DM_ONLY
def test_halted_no_op(update: Update) -> None:
    """The un-halt finds nothing changed and sends nothing."""
    expected_events(update.judged(), 1)


@rtc_plans(plans.no_op_with_stale_bytes)
@HV_ONLY
def test_no_op_with_stale_bytes(update: Update) -> None:
    """Seven raw events, one event; delta is minus the seconds since the bytes were last written."""
    first, again = expected_events(update.judged(), 2)
    assert again.raw_events == 7
    assert again.delta_time in {-3, -2}
    assert again.new_time == first.new_time


@rtc_plans(plans.no_op_but_seconds)
@HV_ONLY
def test_no_op_while_set_is_1(update: Update) -> None:
    """The hypervisor's vRTC has no halted mode: every write announces."""
    _, again = expected_events(update.judged(), 2)
    assert again.raw_events == 6
    assert again.delta_time in {-1, 0}


# -- row: invalid date in the middle -------------------------------------------------------------------------


@rtc_plans(plans.invalid_in_the_middle("running"))
def test_invalid_in_the_middle(update: Update, vrtc: Vrtc) -> None:
    """Device model: the announcing writes only, a break that the service repairs. Hypervisor: all, and a plain sum."""
    _, event = expected_events(update.judged(), 2)
    assert event.raw_events == by_vrtc(vrtc, dm=5, hv=7)
    assert event.estimated == (vrtc == "dm")
    if vrtc == "dm":
        assert only_ticked_beside(event)


@rtc_plans(plans.invalid_in_the_middle("halted"))
def test_invalid_in_the_middle_of_a_halt(update: Update, vrtc: Vrtc) -> None:
    """Device model: nothing until the un-halt. Hypervisor: as ever."""
    _, event = expected_events(update.judged(), 2)
    assert event.raw_events == by_vrtc(vrtc, dm=1, hv=7)
    assert not event.estimated


# -- row: invalid date at the end ----------------------------------------------------------------------------


@rtc_plans(plans.invalid_at_the_end(valid_part=True))
def test_invalid_at_the_end(update: Update, vrtc: Vrtc) -> None:
    """Device model: an event for the valid part, due from its last valid write. Hypervisor: one, and it ends at -1."""
    verdict = update.judged()
    _, event, repaired = expected_events(verdict, 3)
    (_, valid), (_, invalid, _) = stamps_of(verdict, 0x02)[:2], stamps_of(verdict, 0x08)
    assert event.raw_events == by_vrtc(vrtc, dm=1, hv=2)
    assert event.last_ns == by_vrtc(vrtc, dm=valid, hv=invalid)
    assert (event.new_time == -1) == (vrtc == "hv")
    assert repaired.estimated == (vrtc == "dm")


@rtc_plans(plans.invalid_at_the_end(valid_part=False))
def test_invalid_at_the_end_and_nothing_before(update: Update, vrtc: Vrtc) -> None:
    """Device model: nothing. Hypervisor: one event, which ends at -1."""
    events = expected_events(update.judged(), by_vrtc(vrtc, dm=2, hv=3))
    assert events[-1].estimated == (vrtc == "dm")
    if vrtc == "hv":
        assert (events[1].raw_events, events[1].new_time) == (1, -1)


@rtc_plans(plans.invalid_at_the_unhalt)
def test_invalid_at_the_end_of_a_halt(update: Update, vrtc: Vrtc) -> None:
    """Device model: nothing, and the clock is broken. Hypervisor: one event, which ends at -1."""
    events = expected_events(update.judged(), by_vrtc(vrtc, dm=2, hv=3))
    assert events[-1].estimated == (vrtc == "dm")
    if vrtc == "hv":
        assert (events[1].raw_events, events[1].new_time) == (2, -1)


@rtc_plans(plans.invalid_for_some_ticks)
@HV_ONLY
def test_invalid_for_more_than_two_ticks(update: Update) -> None:
    """The clock ticks on from -1, and a read then replaces the whole date: it is 1970."""
    _, invalid, event, after = expected_events(update.judged(), 4)
    assert invalid.new_time == -1
    assert event.last_time in {1, 2, 3}
    assert 5 * 60 < event.new_time < 5 * 60 + 10
    assert after.last_time is not None and after.last_time < YEAR_1971


# -- row: clock broken, then a valid running write -----------------------------------------------------------


@rtc_plans(plans.broken_then_valid)
def test_broken_then_valid(update: Update, vrtc: Vrtc) -> None:
    """Device model: last is -1, which the service repairs. Hypervisor: last is where the clock then is."""
    events = expected_events(update.judged(), by_vrtc(vrtc, dm=2, hv=3))
    before, event = events[0], events[-1]
    assert event.raw_events == 1
    assert event.estimated == (vrtc == "dm")
    if vrtc == "dm":
        assert event.last_time is not None
        assert event.last_time - before.new_time in ticks(before.last_ns, event.first_ns, event)
        assert event.delta_time == event.new_time - event.last_time
    else:
        assert event.last_time in {1, 2}


# -- row: clock broken, then halt, valid date, un-halt -------------------------------------------------------


@rtc_plans(plans.broken_then_unhalted("running"), plans.broken_then_unhalted("halted"))
@DM_ONLY
def test_broken_then_unhalted(update: Update) -> None:
    """Nothing, where there should be an event: a known defect. The next update's event tells of the gap."""
    verdict = update.judged()
    expect_known_defect(verdict, "broken-unhalt")
    _, after = expected_events(verdict, 2)
    assert after.lost


@rtc_plans(plans.broken_then_unhalted("running"), plans.broken_then_unhalted("halted"))
@HV_ONLY
def test_broken_then_set_to_1_and_0(update: Update) -> None:
    """As ever: the hypervisor's vRTC announces every write."""
    verdict = update.judged()
    assert verdict.verdict == "pass"
    events = expected_events(verdict, 3)
    assert raw_events(events) == [7, 8, 7]
    assert not any(event.lost for event in events)


# -- row: there and back within the window -------------------------------------------------------------------


@rtc_plans(plans.there_and_back("running"))
def test_there_and_back(update: Update, vrtc: Vrtc) -> None:
    """One event, delta 0."""
    _, event = expected_events(update.judged(), 2)
    assert event.raw_events == 2
    assert event.delta_time in ({0} if vrtc == "dm" else {0, -1})


@rtc_plans(plans.there_and_back("halted"))
def test_there_and_back_in_two_halts(update: Update, vrtc: Vrtc) -> None:
    """One raw event for each un-halt that changed something, merged."""
    _, event = expected_events(update.judged(), 2)
    assert event.raw_events == 2
    assert event.delta_time in ({0} if vrtc == "dm" else {0, -1})


@rtc_plans(plans.there_and_back_over_a_tick)
def test_there_and_back_over_a_tick(update: Update, vrtc: Vrtc) -> None:
    """Device model: delta 0, since ticking is no change. Hypervisor: each tick is taken back, for lack of a read."""
    _, event = expected_events(update.judged(), 2)
    assert event.raw_events == 3
    assert event.delta_time in ({0} if vrtc == "dm" else {-1, -2})


# -- row: system reset in mid-update -------------------------------------------------------------------------


@rtc_plans(plans.reset_in_mid_update("running"))
def test_system_reset_in_mid_update(update: Update) -> None:
    """One event for what was announced before the reset."""
    verdict = update.judged()
    _, event = expected_events(verdict, 2)
    assert event.raw_events == 4
    expect_reset_in_window(update, verdict, event.last_ns)


@rtc_plans(plans.reset_in_mid_update("halted"))
def test_system_reset_in_mid_halt(update: Update, vrtc: Vrtc) -> None:
    """Device model: the halted part is lost with the registers. Hypervisor: one event."""
    verdict = update.judged()
    _, *events = expected_events(verdict, by_vrtc(vrtc, dm=1, hv=2))
    assert raw_events(events) == ([] if vrtc == "dm" else [4])
    expect_reset_in_window(update, verdict, stamps_of(verdict, YEAR)[1])


@rtc_plans(plans.full_reset_after_update("running"), plans.full_reset_after_update("halted"))
def test_full_reset_in_the_window(update: Update) -> None:
    """A pending update dies with the event service; its stream of events lives."""
    verdict = update.judged()
    settled, dead = expected_events(verdict, 2)
    expect_reset_in_window(update, verdict, dead.last_ns)
    assert [seen.event["new_time"] for seen in verdict.seen] == [settled.new_time] != [dead.new_time]


# -- more behaviour, measured --------------------------------------------------------------------------------


@rtc_plans(plans.halted_twice)
def test_halted_twice(update: Update, vrtc: Vrtc) -> None:
    """Counts once: the device model's vRTC remembers the time of the first halt."""
    _, event = expected_events(update.judged(), 2)
    assert event.raw_events == by_vrtc(vrtc, dm=1, hv=7)


@rtc_plans(plans.two_halt_cycles(0.2))
def test_two_halt_cycles_in_one_window(update: Update, vrtc: Vrtc) -> None:
    """One event."""
    _, event = expected_events(update.judged(), 2)
    assert event.raw_events == by_vrtc(vrtc, dm=2, hv=14)


@rtc_plans(plans.two_halt_cycles(2.0))
def test_two_halt_cycles_in_two_windows(update: Update, vrtc: Vrtc) -> None:
    """Two events."""
    _, *events = expected_events(update.judged(), 3)
    assert raw_events(events) == [by_vrtc(vrtc, dm=1, hv=7)] * 2


@rtc_plans(plans.seven_writes(0.9))
def test_seven_writes_that_each_keep_the_window_open(update: Update, vrtc: Vrtc) -> None:
    """One event, without the seconds that passed."""
    _, event = expected_events(update.judged(), 2)
    assert event.raw_events == 7
    assert event.last_ns - event.first_ns > 5 * 10**9
    if vrtc == "dm":
        assert only_ticked_beside(event)


@rtc_plans(plans.seven_writes(1.1))
def test_seven_writes_that_are_an_update_each(update: Update) -> None:
    """Seven events, of one raw event each."""
    _, *events = expected_events(update.judged(), 8)
    assert raw_events(events) == [1] * 7


@rtc_plans(plans.other_registers)
def test_other_registers(update: Update) -> None:
    """Day of week, alarm, NVRAM, A, C and D send nothing and do not put off an event."""
    verdict = update.judged()
    (event,) = expected_events(verdict, 1)
    assert last_write_ns(verdict) - event.last_ns > 1_500_000_000


@rtc_plans(plans.divider)
def test_divider(update: Update, vrtc: Vrtc) -> None:
    """Device model: time stands still while the divider is off. The hypervisor's vRTC ignores register A."""
    set_, stopped, going = expected_events(update.judged(), 3)
    assert stopped.last_time is not None and going.last_time is not None
    while_off, while_on = stopped.last_time - set_.new_time, going.last_time - stopped.new_time
    assert while_off in ({0, 1} if vrtc == "dm" else {2, 3})
    assert while_on in {2, 3}
    assert (stopped.delta_time, going.delta_time) == (20 * 60, 5 * 60) or vrtc == "hv"


@rtc_plans(plans.alarm_and_jumps)
def test_alarm_enabled_and_the_clock_set_back(update: Update) -> None:
    """The vRTC answers at once, where ACRN's counts up to the alarm: every event is in time."""
    _, back, forwards = expected_events(update.judged(), 3)
    assert back.delta_time is not None and back.delta_time < -364 * 86400
    assert forwards.delta_time is not None and forwards.delta_time > 729 * 86400
