"""A guest on a bench: what the unknown tick of its RTC may explain and what not, stamps that may be wrong, coverage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.judge import INCONCLUSIVE, PASS, PRODUCT_FAULT, GuestJudge
from tests.bench_run import FORMS, vrtc_of
from tests.bench_writer import AT, DUE, END, START, BenchWriter
from tests.judge_registers import utc
from tests.judge_run import MS, RTC0, SECOND

HOUR_ON = (0x04, 0x13)
LAST = RTC0 + 5
"""The RTC at AT, or one more: the guest read RTC0 at some fraction of a second 5 s before."""


def begun(folder: Path, service: str = "project", **options: Any) -> BenchWriter:
    run = BenchWriter(folder, service=service, vrtc=vrtc_of(service, "dm"), **options)
    run.start()
    return run


def hour_on(run: BenchWriter, name: str = "a", start_ns: int = AT) -> int:
    """An item that writes 13 to the hour at 12 o'clock; on the hypervisor's vRTC after a look."""
    run.access(start_ns - MS, 0x00, None)
    return run.do(name, start_ns, [HOUR_ON])


@pytest.mark.parametrize("service", FORMS)
@pytest.mark.parametrize(("tick", "ok"), [(-1, False), (0, True), (1, True), (2, False)])
def test_a_time_is_one_of_two_numbers(tmp_path: Path, service: str, tick: int, ok: bool) -> None:
    # given an RTC that was read 5 s before it was written, when the event says that it had ticked so many times since
    run = begun(tmp_path, service)
    hour_on(run)
    run.event(DUE + 2 * MS, run.worded(LAST + tick, LAST + tick + 3600, 3600, 1))
    # then 5 and 6 times may be
    assert run.only().verdict == (PASS if ok else PRODUCT_FAULT)
    assert run.errors == []


@pytest.mark.parametrize(("last", "new"), [(LAST, LAST + 3601), (LAST + 1, LAST + 3600), (LAST + 1, LAST + 3602)])
def test_last_new_and_delta_belong_together(tmp_path: Path, last: int, new: int) -> None:
    # given one write, between whose before and after no clock ticks
    run = begun(tmp_path)
    hour_on(run)
    run.event(DUE + MS, run.worded(last, new, 3600, 1))
    found = run.only()
    assert found.faults == ("payload",)
    assert found.diagnosis


SEVEN = [(0x32, 0x20), (0x09, 0x25), (0x08, 0x07), (0x07, 0x20), (0x04, 0x13), (0x02, 0x14), (0x00, 0x15)]
TARGET = utc(2025, 7, 20, 13, 14, 15)


@pytest.mark.parametrize("more", range(-3, 6))
def test_new_minus_last_minus_delta_is_what_may_have_ticked(tmp_path: Path, more: int) -> None:
    # given seven writes within 2.4 s: between the first and the last the clock ticks two or three times
    run = begun(tmp_path)
    run.do("a", AT, SEVEN, apart_ns=400 * MS)
    due_ns = AT + 6 * 400 * MS + SECOND
    delta = TARGET - LAST - 2 - more
    run.event(due_ns + MS, run.worded(LAST, TARGET, delta, 7))
    # the second written last: new is what was written, and delta lacks what ticked before
    assert run.only().verdict == (PASS if more in (0, 1) else PRODUCT_FAULT)


def at_a_rollover(folder: Path, service: str) -> BenchWriter:
    """A guest that reads 23:59:57 on 31 December 2024, and sets the minute 2.5 s later."""
    run = BenchWriter(folder, service=service, vrtc=vrtc_of(service, "dm"))
    run.start(AT - 2_500 * MS, utc(2024, 12, 31, 23, 59, 57))
    run.access(AT - MS, 0x00, None)
    run.do("a", AT, [(0x02, 0x30)])
    return run


@pytest.mark.parametrize("service", FORMS)
@pytest.mark.parametrize(
    ("last", "new", "ok"),
    [
        ((2024, 12, 31, 23, 59, 59), (2024, 12, 31, 23, 30, 59), True),
        ((2025, 1, 1, 0, 0, 0), (2025, 1, 1, 0, 30, 0), True),
        ((2024, 12, 31, 23, 59, 59), (2025, 1, 1, 0, 30, 0), False),
        ((2025, 1, 1, 0, 0, 0), (2025, 1, 1, 0, 30, 1), False),
        ((2024, 12, 31, 23, 59, 58), (2024, 12, 31, 23, 30, 58), False),
        ((2025, 1, 1, 0, 0, 1), (2025, 1, 1, 0, 30, 1), False),
    ],
)
def test_a_rollover_just_then_has_two_readings_and_no_third(
    tmp_path: Path, service: str, last: tuple[int, ...], new: tuple[int, ...], ok: bool
) -> None:
    run = at_a_rollover(tmp_path, service)
    before, after = utc(*last), utc(*new)
    run.event(DUE + MS, run.worded(before, after, after - before, 1))
    assert run.only().verdict == (PASS if ok else PRODUCT_FAULT)


NOON = [(0x0B, 0x82), (0x04, 0x12), (0x02, 0x00), (0x00, 0x05), (0x0B, 0x02)]
"""Halts, writes 12:00:05 and un-halts: at AT the RTC shows that, or one second more."""


@pytest.mark.parametrize(("event", "ok"), [(None, True), ((LAST + 1, LAST, -1), True), ((LAST, LAST, 0), False)])
def test_a_halt_that_may_have_changed_nothing_may_have_an_event(
    tmp_path: Path, event: tuple[int, int, int] | None, ok: bool
) -> None:
    run = begun(tmp_path)
    last_ns = run.do("a", AT, NOON)
    if event is not None:
        run.event(last_ns + SECOND + MS, run.worded(*event, 1))
    found = run.only()
    assert found.verdict == (PASS if ok else PRODUCT_FAULT)
    assert [expected.optional for expected in found.expected] == [True]


def test_a_halt_that_certainly_changed_something_must_have_one(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.do("a", AT, [(register, 0x08 if register == 0 else value) for register, value in NOON])
    assert run.only().faults == ("missing",)


# -- when it came --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after_ms", "uncertainty_ms", "wanted"),
    [
        (-0.9, 0.0, PASS),
        (-1.2, 0.0, "early"),
        (-4.9, 2.0, PASS),
        (-5.1, 2.0, "early"),
        (149.9, 0.0, PASS),
        (150.1, 0.0, "late"),
        (153.9, 2.0, PASS),
        (154.1, 2.0, "late"),
        (-20.5, 9.9, PASS),
        (-60.0, 10.1, INCONCLUSIVE),
        (400.0, 10.1, INCONCLUSIVE),
        (-60.0, 9.9, "early"),
        (400.0, 9.9, "late"),
        (10.0, 80.0, PASS),
    ],
)
def test_early_and_late_are_told_as_far_as_the_stamps_go(
    tmp_path: Path, after_ms: float, uncertainty_ms: float, wanted: str
) -> None:
    run = begun(tmp_path, uncertainty_ns=round(uncertainty_ms * MS))
    hour_on(run)
    run.event(DUE + round(after_ms * MS), run.worded(LAST, LAST + 3600, 3600, 1))
    found = run.only()
    if wanted in (PASS, INCONCLUSIVE):
        assert found.verdict == wanted, found
        assert found.uncertainty_ms == (2 * uncertainty_ms or None)
    else:
        assert found.faults == (wanted,), found
    assert ("may be wrong by" in found.diagnosis) == (wanted == INCONCLUSIVE)


def test_a_missing_event_is_missing_however_uncertain_the_stamps(tmp_path: Path) -> None:
    run = begun(tmp_path, uncertainty_ns=90 * MS)
    hour_on(run)
    assert run.only().faults == ("missing",)


@pytest.mark.parametrize("gap_ms", [940, 1_060])
def test_a_gap_near_the_window_is_ambiguous_by_the_uncertainties_more(tmp_path: Path, gap_ms: int) -> None:
    # given two writes 60 ms off the window, with stamps of 10 ms: either reading may be
    for number, merged in enumerate((False, True)):
        run = begun(tmp_path / str(number), uncertainty_ns=10 * MS)
        run.access(AT, *HOUR_ON)
        run.access(AT + gap_ms * MS, 0x07, 0x25)
        run.item("a", AT - MS, AT + 1_100 * MS, [HOUR_ON, (0x07, 0x25)])
        ticks = 1
        due_ns = DUE + gap_ms * MS
        days = 10 * 86_400
        if merged:
            run.event(due_ns + MS, run.worded(LAST, LAST + 3600 + days + ticks, 3600 + days, 2))
        else:
            run.event(DUE + MS, run.worded(LAST, LAST + 3600, 3600, 1))
            before = LAST + 3600 + ticks
            run.event(due_ns + MS, run.worded(before, before + days, days, 1))
        found = run.only()
        assert found.verdict == PASS, found


# -- what the witness tells of -------------------------------------------------------------------------------


def test_the_name_in_events_is_the_start_records_and_the_verdicts_the_folders(tmp_path: Path) -> None:
    run = begun(tmp_path)
    hour_on(run)
    run.event(DUE + MS, {**run.worded(LAST, LAST + 3600, 3600, 1), "vm": "vm0"})
    found = run.only()
    assert (found.vm, found.faults) == ("vm0", ("payload",))
    assert 'vm is "vm0", expected "guest-7"' in found.diagnosis


@pytest.mark.parametrize("t_ns", [START - SECOND, END - SECOND])
def test_an_event_outside_of_the_witness_is_shown_and_not_judged(tmp_path: Path, t_ns: int) -> None:
    run = begun(tmp_path)
    hour_on(run)
    run.record("end", AT + 20 * SECOND, reason="guest-shutdown")
    ours = (DUE + MS, run.worded(LAST, LAST + 3600, 3600, 1))
    for when_ns, payload in sorted([ours, (t_ns, run.worded(7, 8, 1, 1))], key=lambda each: each[0]):
        run.event(when_ns, payload)
    found = run.final()
    assert found.pop("a").verdict == PASS
    (other,) = found.values()
    assert (other.verdict, other.role, other.uncovered, other.cut) == (INCONCLUSIVE, "background", True, True)
    assert [seen.faults for seen in other.seen] == [()]
    assert run.errors == []


def test_an_event_that_nothing_explains_is_a_fault_within_the_witness(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.event(AT, run.worded(7, 8, 1, 1))
    assert run.only().faults == ("unexplained",)


def test_what_was_pending_at_a_reset_comes_and_the_rtc_is_read_again(tmp_path: Path) -> None:
    # given a reset in mid-update
    run = begun(tmp_path)
    hour_on(run)
    run.record("system-reset", AT + 300 * MS)
    run.event(DUE + MS, run.worded(LAST, LAST + 3600, 3600, 1))
    # when firmware makes an event, and the guest is there again
    run.event(AT + 5 * SECOND, run.worded(LAST + 9, LAST, -9, 2))
    again_ns = AT + 10 * SECOND
    run.start(again_ns, RTC0 + 500)
    hour_on(run, "b", again_ns + 2_500 * MS)
    run.event(again_ns + 3_501 * MS, run.worded(RTC0 + 503, RTC0 + 4103, 3600, 1))
    found = run.final()
    # then both updates are right, and the event in between is background
    assert {name: verdict.verdict for name, verdict in found.items()} == {
        "a": PASS,
        "b": PASS,
        "background-event-2": INCONCLUSIVE,
    }
    assert run.errors == []


def test_what_was_pending_at_a_reset_is_judged(tmp_path: Path) -> None:
    run = begun(tmp_path)
    hour_on(run)
    run.record("system-reset", AT + 300 * MS)
    run.event(DUE + MS, run.worded(LAST, LAST + 3600, 3605, 1))
    assert run.final()["a"].faults == ("payload",)


def test_what_is_written_before_the_rtc_is_read_again_cannot_be_judged(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.record("system-reset", AT - SECOND)
    hour_on(run)
    run.event(DUE + MS, run.worded(LAST, LAST + 3600, 3600, 1))
    found = run.final()
    assert found["a"].verdict == INCONCLUSIVE
    assert "had not been read again" in found["a"].diagnosis


def test_a_restart_of_the_service_takes_what_was_pending_with_it(tmp_path: Path) -> None:
    run = begun(tmp_path)
    hour_on(run)
    run.record("service-restart", AT + 300 * MS)
    assert run.final()["a"].verdict == PASS


DAY = 86_400
PPM_100 = 100_000


@pytest.mark.parametrize(("anchors", "wanted"), [(False, PASS), (True, PASS)])
def test_clocks_drift_apart_in_a_long_run(tmp_path: Path, anchors: bool, wanted: str) -> None:
    # given an RTC that runs 90 ppm faster than our clock, for ten hours
    run = begun(tmp_path)
    hours_ns = 36_000 * SECOND
    shows = 36_000 + 3
    if anchors:
        run.record("anchor", START + hours_ns - SECOND, uncertainty_ns=0, rtc_time=RTC0 + shows - 1)
    at_ns = START + hours_ns
    run.do("a", at_ns, [(0x04, 0x13)])
    last = RTC0 + shows
    new = last - last % DAY + 13 * 3600 + last % 3600
    run.event(at_ns + SECOND + MS, run.worded(last, new, new - last, 1))
    assert run.final(end_ns=at_ns + END)["a"].verdict == wanted


def test_an_anchor_sharpens_what_the_rtc_may_show(tmp_path: Path) -> None:
    # given the same hours, when the guest has read its RTC a second before
    run = begun(tmp_path)
    at_ns = START + 36_000 * SECOND
    run.record("anchor", at_ns - SECOND, uncertainty_ns=0, rtc_time=RTC0 + 35_999)
    run.do("a", at_ns, [(0x04, 0x13)])
    last = RTC0 + 36_003
    new = last - last % DAY + 13 * 3600 + last % 3600
    run.event(at_ns + SECOND + MS, run.worded(last, new, new - last, 1))
    assert run.final(end_ns=at_ns + END)["a"].faults == ("payload",)


def test_an_rtc_that_somebody_moved_unseen_is_no_evidence(tmp_path: Path) -> None:
    run = begun(tmp_path)
    hour_on(run)
    run.event(DUE + MS, run.worded(LAST, LAST + 3600, 3600, 1))
    run.record("anchor", AT + 9 * SECOND, uncertainty_ns=0, rtc_time=RTC0 + 60)
    at_ns = AT + 12_500 * MS
    run.do("b", at_ns, [(0x04, 0x14)])
    run.event(at_ns + SECOND + MS, run.worded(RTC0 + 63, RTC0 + 63 + 7200, 7200, 1))
    found = run.final()
    # then what was before cannot be judged, and what comes after can
    assert (found["a"].verdict, found["b"].verdict) == (INCONCLUSIVE, PASS)
    assert len(run.errors) == 1
    assert "its own record does not explain" in run.errors[0]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"event": "write", "stamp_ns": 1005000000000, "uncertainty_ns": 0, "register": 4, "value": 256}',
        '{"event": "write", "stamp_ns": 1005000000000, "register": 4, "value": 19}',
        '{"event": "write", "stamp_ns": 900000000000, "uncertainty_ns": 0, "register": 4, "value": 19}',
        '{"event": "start", "format": 2, "stamp_ns": 1005000000000}',
    ],
)
def test_a_line_that_cannot_be_read_is_told_and_makes_what_follows_inconclusive(tmp_path: Path, line: str) -> None:
    run = begun(tmp_path)
    with (run.dir / "witness.jsonl").open("a", encoding="utf-8") as out:
        out.write(line + "\n")
    hour_on(run)
    run.event(DUE + MS, run.worded(LAST, LAST + 3600, 3600, 1))
    assert run.final()["a"].verdict == INCONCLUSIVE
    assert any("witness.jsonl" in error for error in run.errors)


@pytest.mark.parametrize("wrong", [{"service": "another"}, {"vrtc": "kvm"}, {"window_ns": 2 * SECOND}])
def test_a_start_record_of_what_the_judge_does_not_know_is_told(tmp_path: Path, wrong: dict[str, Any]) -> None:
    run = BenchWriter(tmp_path)
    run.start(**wrong)
    hour_on(run)
    run.event(DUE + MS, run.worded(LAST, LAST + 3600, 3600, 1))
    assert run.final()["a"].verdict == INCONCLUSIVE
    assert run.errors


def test_the_trace_is_the_witness_where_there_is_one(tmp_path: Path) -> None:
    run = begun(tmp_path)
    (run.dir / "trace.log").write_text("", encoding="utf-8")
    with GuestJudge(run.dir) as judge:
        judge.refresh()
        assert judge._evidence.witness.name == "trace.log"


def test_a_larger_tolerance_admits_a_second_more(tmp_path: Path) -> None:
    for tolerance, last, ok in ((2, LAST + 2, True), (2, LAST + 3, False), (1, LAST + 2, False)):
        run = BenchWriter(tmp_path / f"{tolerance}-{last}")
        run.start(tolerance_s=tolerance)
        hour_on(run)
        run.event(DUE + MS, run.worded(last, last + 3600, 3600, 1))
        assert run.only().verdict == (PASS if ok else PRODUCT_FAULT)
