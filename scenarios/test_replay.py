"""Runs the plans of a saved file again: `--rtc-plan FILE`."""

from __future__ import annotations

import pytest

from fixtures.plans import rtc_replay
from fixtures.types import Plan, System, Update, Vrtc

pytestmark = [pytest.mark.qemu, pytest.mark.nested, pytest.mark.hw]


@pytest.fixture
def vrtc(plan: Plan) -> Vrtc | None:
    """Each saved plan says which vRTC it is for; one that does not will do with any."""
    return plan.vrtc


@pytest.fixture
def guest(plan: Plan) -> System | None:
    """And which system."""
    return plan.system


@rtc_replay
def test_replay(update: Update) -> None:
    """Each plan of the file, in its order; the judge decides as it did the first time."""
    verdict = update.judged()
    assert verdict.verdict in {"pass", "known vRTC defect", "known acrn-dm defect"}
