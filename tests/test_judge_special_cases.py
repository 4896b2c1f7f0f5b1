"""Rule 8: the special cases of the device model's vRTC, row by row of ACRN.md's table."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judge import KNOWN_DEFECT, PASS, PRODUCT_FAULT
from tests.judge_cases import AT, DUE, HOUR_ON, final, hour_on, only, registered_guest
from tests.judge_run import MS, RTC0, SECOND, T0, RunWriter, settled


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return registered_guest(tmp_path)


JAN_31 = 1_706_702_400
"""2024-01-31 12:00:00 UTC."""


@pytest.fixture
def january(tmp_path: Path) -> RunWriter:
    run = RunWriter(tmp_path)
    run.start(T0, JAN_31)
    run.journal("connected", t_ns=T0 + 1)
    return run


def test_an_invalid_date_in_the_middle_is_repaired_by_estimate(january: RunWriter) -> None:
    january.do("a", AT, [(0, 0x08, 0x02), (900 * MS, 0x07, 0x29)])
    new = JAN_31 + 29 * 86_400 + 5
    january.event(AT + 1_901 * MS, settled(JAN_31 + 5, new, new - JAN_31 - 5, 1) | {"estimated": True})
    assert only(january).verdict == PASS


def test_an_invalid_date_at_the_end_is_due_from_the_last_valid_write(january: RunWriter) -> None:
    january.do("a", AT, [(0, 0x04, 0x13), (500 * MS, 0x08, 0x02)])
    january.event(DUE + MS, settled(JAN_31 + 5, JAN_31 + 3605, 3600, 1))
    assert only(january).verdict == PASS


BROKEN_UNHALT = [(0, 0x08, 0x02), (MS, 0x0B, 0x82), (2 * MS, 0x07, 0x10), (3 * MS, 0x0B, 0x02)]


def test_the_known_defect_is_named_when_it_occurs(january: RunWriter) -> None:
    january.do("a", AT, BROKEN_UNHALT, mode="halted")
    verdict = only(january)
    assert (verdict.verdict, verdict.defect, verdict.faults) == (KNOWN_DEFECT, "broken-unhalt", ())
    assert verdict.diagnosis


def test_the_known_defect_is_a_fault_when_it_stops_occurring(january: RunWriter) -> None:
    january.do("a", AT, BROKEN_UNHALT, mode="halted")
    new = JAN_31 + 10 * 86_400
    january.event(DUE + 4 * MS, settled(JAN_31 + 5, new, new - JAN_31, 1) | {"estimated": True})
    verdict = only(january)
    assert (verdict.verdict, verdict.faults) == (PRODUCT_FAULT, ("unexplained",))
    assert "known defect broken-unhalt did not occur" in verdict.diagnosis


def test_the_known_defect_within_an_update_is_named_when_it_may_have_stopped(january: RunWriter) -> None:
    january.do("a", AT, [*BROKEN_UNHALT, (500 * MS, 0x04, 0x13)], mode="halted")
    new = JAN_31 + 10 * 86_400 + 3600
    january.event(AT + 1_501 * MS, settled(JAN_31 + 5, new, new - JAN_31 - 5, 2) | {"estimated": True})
    verdict = only(january)
    assert verdict.faults == ("payload",)
    assert "perhaps the known defect broken-unhalt did not occur" in verdict.diagnosis


def test_the_update_after_the_known_defect_has_a_lost_link(january: RunWriter) -> None:
    january.do("a", AT, BROKEN_UNHALT, mode="halted")
    january.do("b", AT + 4 * SECOND, [(0, 0x04, 0x13)])
    before = JAN_31 + 10 * 86_400 + 9
    january.event(AT + 5 * SECOND + MS, settled(before, before + 3600, 3600, 1) | {"lost": True})
    assert final(january)["b"].verdict == PASS


def test_a_system_reset_leaves_the_pending_update_and_takes_the_clock_back(run: RunWriter) -> None:
    run.trace(T0 + 1, "resettable_reset obj=0xbbb cold=1")
    run.trace(T0 + 2, "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)")
    hour_on(run, "a")
    run.trace(AT + 300 * MS, "resettable_reset obj=0xbbb cold=0")
    run.event(DUE + MS, HOUR_ON)
    run.do("b", AT + 4 * SECOND, [(0, 0x04, 0x15)])
    run.event(AT + 5 * SECOND + MS, settled(RTC0 + 9, RTC0 + 3 * 3600 + 9, 3 * 3600, 1))
    verdicts = final(run)
    assert (verdicts["a"].verdict, verdicts["b"].verdict) == (PASS, PASS)


def test_a_service_restart_ends_the_pending_update(run: RunWriter) -> None:
    hour_on(run, "a")
    run.record("service-restart", AT + 300 * MS)
    assert only(run).verdict == PASS


def test_an_event_for_an_update_that_ended_with_the_service_is_a_fault(run: RunWriter) -> None:
    hour_on(run, "a")
    run.record("service-restart", AT + 300 * MS)
    run.event(DUE + MS, HOUR_ON)
    assert only(run).faults == ("unexplained",)
