"""A guest's own operating system sets the RTC; needs a guest with one."""

from __future__ import annotations

import pytest

from fixtures import plan_sets
from fixtures.plans import rtc_plans
from fixtures.types import Update, expect_events, written_registers

pytestmark = [pytest.mark.qemu]


@rtc_plans(plan_sets.hwclock("pc"))
def test_hwclock_on_pc(update: Update) -> None:
    """Linux on pc writes halted and leaves the century alone."""
    verdict = update.judged()
    expect_events(verdict, 1)
    assert 0x32 not in written_registers(verdict)


@pytest.mark.parametrize("vrtc", ["dm"], indirect=True)
@rtc_plans(plan_sets.hwclock("q35"))
def test_hwclock_on_q35(update: Update) -> None:
    """Linux on q35 writes halted, century included."""
    verdict = update.judged()
    expect_events(verdict, 1)
    assert 0x32 in written_registers(verdict)
