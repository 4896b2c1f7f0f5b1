"""What acrn-dm's own event service is known to do wrong, by name; and what looks like it and is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judge import PASS, PRODUCT_FAULT, GuestJudge
from harness.judge.verdict import KNOWN_ACRN_DM_DEFECT
from tests.bench_run import FORMS, vrtc_of
from tests.bench_writer import AT, DUE, BenchWriter
from tests.judge_registers import utc
from tests.judge_run import MS, RTC0, SECOND

OURS = tuple(form for form in FORMS if "acrn-dm" not in form)
ITS = ("acrn-dm", "behind-acrn-dm")
LAST = RTC0 + 5
NEXT_AT = AT + 3 * SECOND + 500 * MS
"""When the second update is: its RTC shows 3 or 4 s more."""


def begun(folder: Path, service: str) -> BenchWriter:
    run = BenchWriter(folder, service=service, vrtc=vrtc_of(service, "dm"), uncertainty_ns=100_000)
    run.start()
    return run


def heard_before(run: BenchWriter, when_ns: int = AT - 3 * SECOND - 500 * MS) -> None:
    """An update with its event: this service has started. It sets the hour as it stands."""
    run.access(when_ns - MS, 0x00, None)
    run.do("first", when_ns, [(0x04, 0x12)])
    last = RTC0 + (when_ns - (AT - 5 * SECOND)) // SECOND
    run.event(when_ns + SECOND + MS, run.worded(last, last, 0, 1))


def two_updates(run: BenchWriter) -> int:
    """13 o'clock, and 3.5 s later the 20th; returns when the second one is due."""
    for at_ns, name, write in ((AT, "one", (0x04, 0x13)), (NEXT_AT, "two", (0x07, 0x20))):
        run.access(at_ns - MS, 0x00, None)
        run.do(name, at_ns, [write])
    return NEXT_AT + SECOND


DAYS = 5 * 86_400


@pytest.mark.parametrize("service", FORMS)
def test_two_updates_in_one_event(tmp_path: Path, service: str) -> None:
    run = begun(tmp_path, service)
    heard_before(run)
    due_ns = two_updates(run)
    # the sum of both, from the first one's beginning
    new = LAST + 3600 + DAYS + 3
    run.event(due_ns + MS, run.worded(LAST, new, 3600 + DAYS, 2))
    found = run.final()
    words = {found[name].verdict for name in ("one", "two")}
    assert words == {KNOWN_ACRN_DM_DEFECT if service in ITS else PRODUCT_FAULT}
    if service in ITS:
        assert {found[name].defect for name in ("one", "two")} == {"merged-updates"}


@pytest.mark.parametrize("service", ITS)
@pytest.mark.parametrize("wrong", [2, -60])
def test_another_sum_is_a_fault(tmp_path: Path, service: str, wrong: int) -> None:
    run = begun(tmp_path, service)
    heard_before(run)
    due_ns = two_updates(run)
    run.event(due_ns + MS, run.worded(LAST, LAST + 3, 3600 + DAYS + wrong, 2))
    found = run.final()
    assert found["one"].faults == ("missing",)
    assert found["two"].faults == ("payload",)


@pytest.mark.parametrize("service", ITS)
def test_a_merged_event_is_known_while_the_files_grow(tmp_path: Path, service: str) -> None:
    # given an update that was called missing, before the next one's event had come
    run = begun(tmp_path, service)
    heard_before(run)
    run.access(AT - MS, 0x00, None)
    run.do("one", AT, [(0x04, 0x13)])
    with GuestJudge(run.dir) as judge:
        judge.refresh()
        told = {verdict.item: verdict for verdict in judge.decide(DUE + 7 * SECOND)}
        assert told["one"].faults == ("missing",)
        at_ns = AT + 10 * SECOND + 500 * MS
        run.access(at_ns - MS, 0x00, None)
        run.do("two", at_ns, [(0x07, 0x20)])
        run.event(at_ns + SECOND + MS, run.worded(LAST, LAST + 10, 3600 + DAYS, 2))
        judge.refresh()
        told = {verdict.item: verdict for verdict in judge.decide(at_ns + 9 * SECOND)}
    # then both are known, the first one in a second revision
    assert {name: (verdict.defect, verdict.revision) for name, verdict in told.items()} == {
        "one": ("merged-updates", 2),
        "two": ("merged-updates", 1),
    }


@pytest.mark.parametrize("service", FORMS)
def test_nothing_ever_comes(tmp_path: Path, service: str) -> None:
    run = begun(tmp_path, service)
    two_updates(run)
    found = run.final()
    assert {verdict.verdict for verdict in found.values()} == {
        KNOWN_ACRN_DM_DEFECT if service in ITS else PRODUCT_FAULT
    }
    assert {verdict.defect for verdict in found.values()} == {"never-started" if service in ITS else None}


@pytest.mark.parametrize("service", ITS)
def test_one_event_of_a_process_and_what_does_not_come_is_missing(tmp_path: Path, service: str) -> None:
    run = begun(tmp_path, service)
    heard_before(run)
    two_updates(run)
    found = run.final()
    assert [found[name].faults for name in ("first", "one", "two")] == [(), ("missing",), ("missing",)]


@pytest.mark.parametrize("service", ITS)
def test_a_process_after_one_that_started_may_not_have_started(tmp_path: Path, service: str) -> None:
    run = begun(tmp_path, service)
    heard_before(run)
    run.record("service-restart", AT - SECOND)
    two_updates(run)
    found = run.final()
    assert {found[name].defect for name in ("one", "two")} == {"never-started"}


@pytest.mark.parametrize("service", FORMS)
def test_a_sum_that_survives_a_restart(tmp_path: Path, service: str) -> None:
    run = begun(tmp_path, service)
    heard_before(run)
    due_ns = two_updates(run)
    lines = (run.dir / "witness.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    restart = f'{{"event": "service-restart", "stamp_ns": {AT + 400 * MS}}}\n'
    place = next(n for n, line in enumerate(lines) if str(NEXT_AT - MS) in line)
    (run.dir / "witness.jsonl").write_text("".join([*lines[:place], restart, *lines[place:]]), encoding="utf-8")
    run.event(due_ns + MS, run.worded(LAST, LAST + 3603 + DAYS, 3600 + DAYS, 2))
    found = run.final()
    assert found["one"].verdict == PASS
    if service in ITS:
        assert (found["two"].verdict, found["two"].defect) == (KNOWN_ACRN_DM_DEFECT, "sum-survives-restart")
    else:
        assert found["two"].faults == ("payload",)


@pytest.mark.parametrize(("payload", "known"), [({"vm_event": 21_845}, True), ({"vm_event": "x"}, False), ({}, False)])
def test_an_event_of_no_type(tmp_path: Path, payload: dict[str, object], known: bool) -> None:
    run = begun(tmp_path, "acrn-dm")
    run.do("a", AT, [(0x04, 0x13)])
    run.event(DUE + MS, payload)
    found = run.only()
    assert (found.defect == "unset-type") == known
    assert found.verdict == (KNOWN_ACRN_DM_DEFECT if known else PRODUCT_FAULT)


@pytest.mark.parametrize(("writes", "known"), [(126, True), (125, False)])
def test_more_raw_events_than_the_ring_holds(tmp_path: Path, writes: int, known: bool) -> None:
    run = begun(tmp_path, "acrn-dm")
    hours = [(0x04, 0x13 if number % 2 else 0x14) for number in range(writes)]
    last_ns = run.do("a", AT, hours, apart_ns=100_000)
    run.event(last_ns + SECOND + MS, run.worded(LAST, LAST, 77_777, writes))
    assert run.only().defect == ("ring-overflow" if known else None)


@pytest.mark.parametrize(("register_b", "known"), [(0x22, True), (0x02, False)])
def test_the_clock_set_backwards_with_the_alarm_enabled(tmp_path: Path, register_b: int, known: bool) -> None:
    run = begun(tmp_path, "acrn-dm")
    heard_before(run)
    run.do("a", AT, [(0x0B, register_b), (0x04, 0x05)])
    found = run.final()["a"]
    assert (found.defect == "endless-alarm") == known
    assert found.verdict == (KNOWN_ACRN_DM_DEFECT if known else PRODUCT_FAULT)


# -- sums over a broken date ---------------------------------------------------------------------------------

JANUARY, FEBRUARY = utc(2024, 1, 31, 12), utc(2024, 2, 29, 12)


def month_first(folder: Path, service: str) -> tuple[BenchWriter, int]:
    """31 January to 29 February with the month first: a date that is none in between. Returns the last write."""
    run = BenchWriter(folder, service=service)
    run.start(rtc_time=JANUARY)
    return run, run.do("a", AT, [(0x08, 0x02), (0x07, 0x29)])


@pytest.mark.parametrize("service", ("project", *ITS))
@pytest.mark.parametrize("ticks", [5, 6])
def test_the_wrong_sum_is_known_and_the_right_one_noted(tmp_path: Path, service: str, ticks: int) -> None:
    days = 29 * 86_400
    for number, right in enumerate((False, True)):
        run, last_ns = month_first(tmp_path / str(number), service)
        last, new = JANUARY + ticks, FEBRUARY + ticks
        if right:
            estimated = {"estimated": True} if service == "project" else {}
            payload = run.worded(last, new, days, 1, **estimated)
        else:
            payload = run.worded(-1, new, new + 1, 1)
        run.event(last_ns + SECOND + MS, payload)
        found = run.only()
        if service == "project":
            assert found.verdict == (PASS if right else PRODUCT_FAULT)
        elif right:
            assert (found.verdict, found.spared) == (PASS, "broken-date-sum")
            assert "did not occur" in found.diagnosis
        else:
            assert (found.verdict, found.defect) == (KNOWN_ACRN_DM_DEFECT, "broken-date-sum")


@pytest.mark.parametrize("service", ITS)
@pytest.mark.parametrize("by", [2, -2, 60])
def test_a_sum_that_is_wrong_in_another_way_is_a_fault(tmp_path: Path, service: str, by: int) -> None:
    run, last_ns = month_first(tmp_path, service)
    new = FEBRUARY + 5 + (by if by < 0 else by + 1)
    run.event(last_ns + SECOND + MS, run.worded(-1, new, new + 1, 1))
    assert run.only().faults == ("payload",)


@pytest.mark.parametrize("service", ITS)
def test_numbers_of_cjson_are_doubles(tmp_path: Path, service: str) -> None:
    run = begun(tmp_path, service)
    run.do("a", AT, [(0x04, 0x13)])
    payload = run.worded(LAST, LAST + 3600, 3600, 1)
    run.event(DUE + MS, {**payload, "delta_time": 3600.0})
    assert run.only().verdict == (PASS if service == "acrn-dm" else PRODUCT_FAULT)


@pytest.mark.parametrize(
    ("more", "ok"),
    [({"note": 1}, True), ({"vm": "guest-7"}, True), ({"vm": "guest-8"}, False), ({"source": "hv"}, False)],
)
def test_what_acrn_dm_need_not_say_must_not_be_wrong(tmp_path: Path, more: dict[str, object], ok: bool) -> None:
    run = begun(tmp_path, "acrn-dm")
    run.do("a", AT, [(0x04, 0x13)])
    run.event(DUE + MS, {**run.worded(LAST, LAST + 3600, 3600, 1), **more})
    assert run.only().verdict == (PASS if ok else PRODUCT_FAULT)
