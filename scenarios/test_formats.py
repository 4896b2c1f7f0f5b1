"""The registers' formats: BCD and binary, hours of 12 and of 24, set before an update, changed between and within."""

from __future__ import annotations

import pytest

from fixtures import format_plans as plans
from fixtures.expectations import HV_ONLY, by_vrtc, date_of, expected_events
from fixtures.plans import rtc_plans
from fixtures.types import Update, Vrtc, expect_events, last_write_ns

pytestmark = [pytest.mark.qemu, pytest.mark.nested, pytest.mark.hw]


@rtc_plans(plans.random_formats)
def test_random_format(update: Update) -> None:
    """All seven registers in another format than the usual one, in a random order."""
    expected_events(update.judged(), 1)


@rtc_plans(plans.random_changes)
def test_random_change_within_an_update(update: Update, vrtc: Vrtc) -> None:
    """The format changes between two of the seven writes.

    Running, both vRTCs announce what was written. While halted the device model's reads the first bytes in the
    second format: when that gives no date, nothing is announced until the update after it.
    """
    verdict = update.judged()
    halted = "halted" in update.plan.id
    most = 3 if halted else 2
    expect_events(verdict, 2 if vrtc == "dm" else most, most)
    if not halted:
        assert verdict.expected[1].raw_events == 7


@rtc_plans(plans.edges)
def test_edge_of_an_encoding(update: Update) -> None:
    """Where a digit, the PM bit, or 12 for 0 begins to matter: each edge in each format, read back as it was meant."""
    meant = plans.edge_of(update.plan)
    for event in expected_events(update.judged(), 1):
        assert 0 <= (date_of(event.new_time) - meant).total_seconds() <= 1, "a tick between two writes"


@rtc_plans(plans.bad_bytes_and_good_ones)
def test_bad_bytes_and_good_ones(update: Update, vrtc: Vrtc) -> None:
    """Device model: only the good bytes announce, and a second whatever its bit 7, and the last. Hypervisor: all."""
    _, event = expected_events(update.judged(), 2)
    bad = next(count for name, count in plans.BAD_BYTES.items() if update.plan.id.endswith(name))
    assert event.raw_events == by_vrtc(vrtc, dm=bad, hv=2 * bad) + 2
    assert event.estimated == (vrtc == "dm")


@rtc_plans(plans.bad_byte_at_the_end)
def test_bad_byte_at_the_end(update: Update, vrtc: Vrtc) -> None:
    """Device model: nothing, until a valid update. Hypervisor: an event that ends at -1."""
    events = expected_events(update.judged(), by_vrtc(vrtc, dm=2, hv=3))
    if vrtc == "hv":
        assert (events[1].raw_events, events[1].new_time) == (1, -1)
    assert events[-1].estimated == (vrtc == "dm")


@rtc_plans(plans.year_of_the_century_beyond_99)
@HV_ONLY
def test_year_of_the_century_beyond_99(update: Update) -> None:
    """In binary a year byte of 105 counts on, into the next century."""
    _, event, _ = expected_events(update.judged(), 3)
    assert date_of(event.new_time).year == 2005


@rtc_plans(plans.change_alone)
def test_change_of_the_format_alone(update: Update) -> None:
    """Sends nothing, and does not put off the event of the update before it."""
    verdict = update.judged()
    (event,) = expected_events(verdict, 1)
    assert last_write_ns(verdict) - event.last_ns > 600_000_000


@rtc_plans(plans.register_after_change(fresh=True))
def test_register_after_a_change_and_a_read(update: Update) -> None:
    """Both vRTCs have written the other registers anew in the new format."""
    before, event = expected_events(update.judged(), 2)
    assert event.raw_events == 1
    assert date_of(event.new_time).date() == date_of(before.new_time).date()


@rtc_plans(plans.register_after_change(fresh=False))
def test_register_after_a_change_without_a_read(update: Update, vrtc: Vrtc) -> None:
    """The hypervisor's vRTC reads the old bytes in the new format: no date."""
    before, event = expected_events(update.judged(), 2)
    assert event.raw_events == 1
    if vrtc == "dm":
        assert date_of(event.new_time).date() == date_of(before.new_time).date()
    else:
        assert event.new_time == -1


@rtc_plans(plans.read_again_at_the_unhalt)
def test_change_while_halted(update: Update, vrtc: Vrtc) -> None:
    """The device model's vRTC reads all bytes again at the un-halt, in the format that then is."""
    _, event = expected_events(update.judged(), 2)
    assert event.raw_events == by_vrtc(vrtc, dm=1, hv=7)
    meant = plans.READ_IN_BINARY if vrtc == "dm" else plans.WRITTEN_IN_BCD
    assert 0 <= (date_of(event.new_time) - meant).total_seconds() <= 1
