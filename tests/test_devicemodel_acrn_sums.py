"""The sums of acrn-dm's own service, held against what ACRN's own C was recorded to settle."""

from __future__ import annotations

import pytest

from harness.devicemodel.acrn_sums import AcrnSums
from harness.vm_event import RtcChange
from tests.test_acrn_cases import FILES, recorded


@pytest.mark.parametrize("name", FILES)
def test_every_recorded_event_has_acrns_sums(name: str) -> None:
    events = 0
    for case in recorded(name)[1]:
        sums = AcrnSums()
        for _, last_time, delta_time in case["raw"]:
            sums.add(RtcChange(last_time, delta_time))
        made = [sums.settle(event[3]) for event in case["settled"]]
        right = [(event[0], event[2]) for event in case["settled"]]
        expected = [tuple(event) for event in case.get("acrn", right)]
        assert made == expected, case["name"]
        events += len(made)
    assert events


def test_a_date_that_is_none_in_between_makes_them_wrong() -> None:
    """31 January to 29 February, the month first: what is between is the 31 February."""
    sums = AcrnSums()
    sums.add(RtcChange(-1, 1_000_001))
    sums.add(RtcChange(1_000_000, 5))
    assert sums.settle(2) == (1_000_000, 1_000_006)


def test_what_is_pending_dies_with_a_full_reset() -> None:
    sums = AcrnSums()
    sums.add(RtcChange(10, 5))
    sums.clear()
    sums.add(RtcChange(20, 1))
    assert sums.settle(1) == (20, 1)
    # and of what nobody sent there is nothing
    assert sums.settle(3) == (-1, 0)
