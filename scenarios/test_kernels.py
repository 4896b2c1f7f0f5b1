"""What a kernel could make different: orders and modes on the Linux guest of each machine, whatever kernel it has.

On the bench of `./lab qemu` that is Debian's kernel for virtual machines; fixtures/benches/kernels.yaml has the
standard and the real-time one.
"""

from __future__ import annotations

import pytest

from fixtures import plan_sets_linux
from fixtures.plans import rtc_plans
from fixtures.types import Update, expect_events

pytestmark = [pytest.mark.qemu]


@rtc_plans(plan_sets_linux.orders_on("pc"), plan_sets_linux.orders_on("q35"))
def test_random_order_below_this_kernel(update: Update) -> None:
    """Registers written back to back, running or halted."""
    verdict = update.judged()
    expect_events(verdict, 1)
