"""Where reports say which vRTC an update was for, and what its guest read."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.failure import explain
from reports.lines import verdict_line
from reports.summary import summary
from tests.synthetic_run import BOOT, SyntheticRun


@pytest.fixture
def both(tmp_path: Path) -> SyntheticRun:
    """A run with a guest on each vRTC."""
    return SyntheticRun(tmp_path / "both", guests=("pc-1", "rt-1"), on_hv=("rt-1",))


def test_the_line_says_which_vrtc_it_is_where_no_name_does(both: SyntheticRun) -> None:
    update = both.update("running-0001", vm="rt-1")
    told = verdict_line(update, vrtc="hv")
    assert told.split()[:4] == ["pass", "rt-1", "hv", "running-0001"]

    others = [
        verdict_line(update, vrtc="dm"),
        verdict_line({**update, "vm": "pc-hv-1"}, vrtc="hv"),
        verdict_line({**update, "item": "hv-running-0001"}, vrtc="hv"),
    ]
    assert not any(" hv " in line for line in others)
    assert len({line.index("order ") for line in [told, *others]}) == 1


def test_the_summary_counts_for_each_vrtc_where_there_are_both(both: SyntheticRun, tmp_path: Path) -> None:
    both.update("a-0", vm="pc-1", number=0)
    both.update("a-1", vm="rt-1", number=1, mode="halted")
    both.update("a-2", vm="rt-1", number=2)
    both.update("a-3", vm="rt-1", number=3, verdict="product fault", diagnosis="no event came", latency_ms=None)

    rows = [tuple(line.split()) for line in summary(both.path).splitlines()]

    at = rows.index(("pass", "1", "2", "3"))
    assert rows[at + 1 : at + 3] == [("dm", "0", "1", "1"), ("hv", "1", "1", "2")]
    at = rows.index(("product", "fault", "0", "1", "1"))
    assert rows[at + 1 : at + 3] == [("dm", "0", "0", "0"), ("hv", "0", "1", "1")]
    assert rows[at + 3][:3] == ("known", "vRTC", "defect"), "nothing is split up that is not there"

    run = SyntheticRun(tmp_path / "run")
    run.update("a-0")
    assert "  dm " not in summary(run.path)


def test_an_explained_update_says_that_it_is_the_hypervisors_vrtc(both: SyntheticRun) -> None:
    on_dm, on_hv = (both.update("a-0", vm=vm, verdict="product fault") for vm in ("pc-1", "rt-1"))

    assert "the hypervisor's vRTC" in explain(both.path, on_hv).splitlines()[0]
    assert "hypervisor" not in explain(both.path, on_dm)
    assert "source      hv" in explain(both.path, on_hv)


def test_the_timeline_shows_what_was_read_where_that_matters(both: SyntheticRun) -> None:
    # given reads 2 s before an update and in its middle, on a guest of each vRTC
    told = {}
    for vm in ("pc-1", "rt-1"):
        first = BOOT + 10_000_000_000
        both.access(vm, first - 2_000_000_000, 0x0B, 2, "read")
        verdict = both.update("a-0", vm=vm)
        verdict["writes"][6][0] += 500_000_000
        for number in range(3):
            both.access(vm, first + 100_000_000 + number, 0x09, 0x24, "read")
        told[vm] = explain(both.path, verdict).splitlines()

    # then the hypervisor's has them: one row for several in a row, and since when the rest stands
    (since,) = [line for line in told["rt-1"] if "as of here" in line]
    assert since.split()[:3] == ["-2000.000", "read", "0b"]
    (row,) = [line for line in told["rt-1"] if "refreshed" in line]
    assert row.split()[:7] == ["100.000", "read", "09", "year", "and", "2", "more:"]
    assert not any("read" in line for line in told["pc-1"])


def test_a_trace_that_is_not_there_has_no_reads(both: SyntheticRun) -> None:
    verdict = both.update("a-0", vm="rt-1")
    (both.path / "rt-1" / "trace.log").unlink()

    assert "announces" in explain(both.path, verdict)
