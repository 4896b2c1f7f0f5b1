"""The seven registers in each of their 5,040 orders: `./lab exhaustive`.

Each item writes one order, and is called by its number: `-k "every-running-00"` are the first 99 on a running RTC of
both vRTCs, `-k "halted and not some"` all halted ones but the sample on Linux, `-k "hv-bare"` all on the hypervisor's.
"""

from __future__ import annotations

import pytest

from fixtures import exhaustive_plans
from fixtures.plans import rtc_plans
from fixtures.types import Update, Verdict, expect_events
from scenarios.test_background import test_what_no_plan_asked_for_is_settled_too as background_is_settled

pytestmark = [pytest.mark.qemu, pytest.mark.nested, pytest.mark.hw, pytest.mark.exhaustive]

on_each_vrtc = pytest.mark.parametrize(
    "vrtc", [pytest.param("dm", marks=pytest.mark.dm), pytest.param("hv", marks=pytest.mark.hv)], indirect=True
)
on_dm = pytest.mark.parametrize("vrtc", [pytest.param("dm", marks=pytest.mark.dm)], indirect=True)
"""The hypervisor's vRTC knows no halted mode: to it every order is a running one."""

on_bare_guests = pytest.mark.parametrize("guest", [pytest.param("bare", marks=pytest.mark.bare)], indirect=True)
on_linux = pytest.mark.parametrize("guest", [pytest.param("linux", marks=pytest.mark.linux)], indirect=True)


@on_bare_guests
@on_each_vrtc
@rtc_plans(exhaustive_plans.running)
def test_every_order_running(update: Update) -> None:
    """All orders on each vRTC: one event, whatever dates and non-dates the registers show on the way."""
    expect_events(update.judged(), 1)


@on_bare_guests
@on_dm
@rtc_plans(exhaustive_plans.halted)
def test_every_order_halted(update: Update) -> None:
    """All orders while the RTC stands still: one event, and nothing known of the way."""
    expect_events(update.judged(), 1)


@on_linux
@on_each_vrtc
@rtc_plans(exhaustive_plans.running_sample)
def test_some_orders_running(update: Update) -> None:
    """Some of the orders below Linux, where interrupts come between the writes."""
    expect_events(update.judged(), 1)


@on_linux
@on_dm
@rtc_plans(exhaustive_plans.halted_sample)
def test_some_orders_halted(update: Update) -> None:
    """The same, halted."""
    expect_events(update.judged(), 1)


@pytest.mark.rtc_last
def test_what_no_plan_asked_for_is_settled_as_ever(beside_the_plans: list[Verdict]) -> None:
    """What guests do beside all that."""
    background_is_settled(beside_the_plans)
