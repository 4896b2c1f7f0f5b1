"""What a guest does to its RTC without being asked: judged like everything else."""

from __future__ import annotations

import pytest

from fixtures.types import Verdict, seconds_off
from harness.errors import InfrastructureError

RIGHT_S = 5.0
"""Seconds: what an RTC that is right may be off by, with the way to the guest."""

pytestmark = [pytest.mark.qemu, pytest.mark.nested, pytest.mark.hw, pytest.mark.rtc_last]


def test_what_no_plan_asked_for_is_settled_too(beside_the_plans: list[Verdict]) -> None:
    """Firmware, drivers, and the RTC set right at the end: one settled event each, and none beside them."""
    restores = [verdict for verdict in beside_the_plans if verdict.role == "restore" and verdict.expected]
    assert restores, "the RTC is set right at the end"
    assert max(abs(seconds_off(verdict)) for verdict in restores) < RIGHT_S
    unjudged = [verdict.item for verdict in beside_the_plans if verdict.verdict == "inconclusive"]
    if unjudged:
        raise InfrastructureError(f"the machine stood still during {', '.join(unjudged)}: nothing is known of them")
