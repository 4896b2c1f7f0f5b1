"""Beside a guest that somebody else runs: `--attach SOCK`. Whatever it does to its RTC is judged; nobody asks it to."""

from __future__ import annotations

import pytest

from fixtures.attach import Attached

pytestmark = [pytest.mark.qemu, pytest.mark.rtc_attach]


def test_attach(attached: Attached) -> None:
    """Each update gives one settled event, in time and right, until the guest ends or is left."""
    verdicts = attached.judged()
    good = {"pass", "known vRTC defect", "known acrn-dm defect", "inconclusive"}
    assert {verdict.verdict for verdict in verdicts} <= good
