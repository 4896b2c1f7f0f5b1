"""Rule 2: one event and only one, in time, with every field as it must be; and in which words it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.judge import PASS, PRODUCT_FAULT
from tests.judge_cases import AT, DUE, END, HOUR_ON, hour_on, only, registered_guest
from tests.judge_run import MS, RTC0, SECOND, RunWriter


@pytest.fixture
def run(tmp_path: Path) -> RunWriter:
    return registered_guest(tmp_path)


def test_the_event_in_time_passes_in_the_shape_of_the_contract(run: RunWriter) -> None:
    hour_on(run, seq=3)
    run.event(DUE + 310_000, HOUR_ON)
    verdict = only(run)
    assert json.loads(json.dumps(verdict.as_json())) == {
        "item": "a",
        "revision": 1,
        "vm": "vm0",
        "verdict": "pass",
        "role": "update",
        "mode": "running",
        "order": [0, 2, 4, 7, 8, 9, 50],
        "diagnosis": "",
        "faults": [],
        "defect": None,
        "expected": [
            {
                "last_time": RTC0 + 5,
                "new_time": RTC0 + 3605,
                "delta_time": 3600,
                "raw_events": 1,
                "estimated": False,
                "lost": False,
                "first_ns": AT,
                "last_ns": AT,
                "due_ns": DUE,
                "last_arrival_ns": AT + 20_000,
            }
        ],
        "seen": [{"t_ns": DUE + 310_000, "event": HOUR_ON, "after_due_ms": 0.31, "faults": []}],
        "writes": [[AT, 4, 0x13, True]],
        "latency_ms": 0.31,
        "decided_ns": END,
        "expect": "any",
        "seq": 3,
    }


@pytest.mark.parametrize(
    ("t_ns", "faults", "diagnosis"),
    [
        (DUE - MS, (), ""),
        (DUE - MS - 1, ("early",), "event 1 ms early"),
        (DUE - 312 * MS, ("early",), "event 312 ms early"),
        (DUE + 150 * MS + 20_000, (), ""),
        (DUE + 150 * MS + 20_001, ("late",), "event 150 ms late"),
        (DUE + 1_850 * MS, ("late",), "event 1.85 s late"),
        (DUE + 6 * SECOND, ("late",), "event 6.00 s late"),
    ],
)
def test_in_time_is_from_1_ms_before_due_to_150_ms_after(
    run: RunWriter, t_ns: int, faults: tuple[str, ...], diagnosis: str
) -> None:
    hour_on(run)
    run.event(t_ns, HOUR_ON)
    verdict = only(run)
    assert (verdict.faults, verdict.diagnosis) == (faults, diagnosis)
    assert verdict.verdict == (PRODUCT_FAULT if faults else PASS)


def test_a_trace_line_that_arrives_late_moves_the_limit(run: RunWriter) -> None:
    run.lag_ns = 400 * MS
    hour_on(run)
    run.event(DUE + 500 * MS, HOUR_ON)
    assert only(run).verdict == PASS


@pytest.mark.parametrize(
    ("change", "diagnosis"),
    [
        ({"delta_time": 3601}, "delta_time is 3601, expected 3600 (+1 s)"),
        ({"last_time": RTC0 + 4}, f"last_time is {RTC0 + 4}, expected {RTC0 + 5} (-1 s)"),
        ({"raw_events": 2}, "raw_events is 2, expected 1 (+1)"),
        ({"raw_events": "1"}, 'raw_events is "1", expected 1 (JSON type string instead of integer)'),
        ({"raw_events": 1.0}, "raw_events is 1.0, expected 1 (JSON type fraction instead of integer)"),
        ({"raw_events": True}, "raw_events is true, expected 1 (JSON type boolean instead of integer)"),
        ({"vm_event": 1}, "vm_event is 1, expected 0 (+1)"),
        ({"vm_event": False}, "vm_event is false, expected 0 (JSON type boolean instead of integer)"),
        ({"source": "hv"}, 'source is "hv", expected "dm"'),
        ({"vm": "vm1"}, 'vm is "vm1", expected "vm0"'),
        ({"overrun": 3}, "unexpected key overrun = 3"),
        ({"lost": True}, "unexpected key lost = true"),
        ({"estimated": False}, "unexpected key estimated = false"),
        ({"delta_time": None}, "delta_time is null, expected 3600"),
    ],
)
def test_every_field_counts(run: RunWriter, change: dict[str, Any], diagnosis: str) -> None:
    hour_on(run)
    run.event(DUE + MS, {**HOUR_ON, **change})
    verdict = only(run)
    assert (verdict.verdict, verdict.faults, verdict.diagnosis) == (PRODUCT_FAULT, ("payload",), diagnosis)


def test_a_key_that_is_not_there(run: RunWriter) -> None:
    hour_on(run)
    run.event(DUE + MS, {key: value for key, value in HOUR_ON.items() if key != "vm"})
    assert only(run).diagnosis == 'vm is missing, expected "vm0"'


def test_a_second_event(run: RunWriter) -> None:
    hour_on(run)
    run.event(DUE + MS, HOUR_ON)
    run.event(DUE + 313 * MS, HOUR_ON)
    verdict = only(run)
    assert (verdict.faults, verdict.diagnosis) == (("duplicate",), "second event 312 ms after the first")
    assert [seen.faults for seen in verdict.seen] == [(), ("duplicate",)]


def test_no_event(run: RunWriter) -> None:
    hour_on(run)
    verdict = only(run)
    assert (verdict.verdict, verdict.faults) == (PRODUCT_FAULT, ("missing",))
    assert verdict.diagnosis == "no event came, awaited until 6.00 s after it was due"


def test_two_updates_of_one_item_are_two_events(run: RunWriter) -> None:
    run.do("a", AT, [(0, 0x04, 0x13), (1_300 * MS, 0x04, 0x15)])
    run.event(DUE + MS, HOUR_ON)
    verdict = only(run)
    assert (len(verdict.expected), verdict.faults) == (2, ("missing",))
