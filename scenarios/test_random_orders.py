"""The seven registers in random orders: every update gives one settled event, in time and right."""

from __future__ import annotations

import pytest

from fixtures import plan_sets
from fixtures.plans import rtc_plans
from fixtures.types import Update, Vrtc, expect_events

pytestmark = [pytest.mark.qemu, pytest.mark.nested, pytest.mark.hw]


@rtc_plans(plan_sets.random_orders)
def test_random_order(update: Update) -> None:
    """Registers written back to back, running or halted."""
    verdict = update.judged()
    expect_events(verdict, 1)


@rtc_plans(plan_sets.random_orders_with_pauses)
def test_random_order_with_pauses(update: Update, vrtc: Vrtc) -> None:
    """Registers written with pauses of up to 0.8 s between them.

    The device model's vRTC is silent where one invalid date follows another, so a pause may become longer than
    the window. The hypervisor's announces every write.
    """
    verdict = update.judged()
    expect_events(verdict, 1, most=4 if vrtc == "dm" else 1)
