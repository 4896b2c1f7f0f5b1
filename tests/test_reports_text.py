"""What a person reads on the terminal: live lines, the summary, an explained failure."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from reports.failure import explain
from reports.lines import colour_wanted, verdict_line
from reports.rundir import open_run
from reports.summary import percentile, summary
from tests.synthetic_run import SyntheticRun


@pytest.fixture
def run(tmp_path: Path) -> SyntheticRun:
    return SyntheticRun(tmp_path / "run")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def late(verdict: dict[str, Any], at_ms: float, **event: Any) -> dict[str, Any]:
    """A further event of an update, `at_ms` after due."""
    due = verdict["expected"][0]["due_ns"]
    seen = {**verdict["seen"][0]["event"], **event}
    return {"t_ns": due + int(at_ms * 1e6), "event": seen, "after_due_ms": at_ms, "faults": ["duplicate"]}


def test_a_pass_is_told_on_one_line(run: SyntheticRun) -> None:
    line = verdict_line(run.update("random_order_running-007"))

    assert " ".join(line.split()) == (
        "pass vm0 random_order_running-007 running order 32 09 08 07 04 02 00 "
        "delta +86400 s 1 event +0.31 ms after the window"
    )


def test_columns_line_up_whatever_the_verdict(run: SyntheticRun) -> None:
    verdicts = [
        run.update("a-000", number=0),
        run.update("random_order_halted-001", number=1, mode="halted", delta=-2_000_000_000),
        run.update("b-002", number=2, verdict="product fault", diagnosis="no event", latency_ms=None),
        run.update("b-003", number=3, verdict="known vRTC defect", defect="broken-unhalt", expected=[]),
        run.update("b-004", number=4, verdict="inconclusive", diagnosis="stall", order=[0, 50]),
    ]

    lines = [verdict_line(verdict) for verdict in verdicts]

    assert len({line.index("order ") for line in lines}) == 1
    outcomes = ["+0.31 ms", "+0.31 ms", "no event", "broken-unhalt", "stall"]
    assert len({line.index(outcome) for line, outcome in zip(lines, outcomes, strict=True)}) == 1


def test_a_fault_line_carries_the_diagnosis_and_stays_one_harmless_line(run: SyntheticRun) -> None:
    nasty = "the event \x1b[2J came\ntwice"

    line = verdict_line(run.update("a-000", verdict="product fault", diagnosis=nasty))

    assert line.endswith("the event ?[2J came twice")


def test_colour_only_for_a_terminal_that_wants_it() -> None:
    assert colour_wanted(Terminal(), {})
    assert not colour_wanted(Terminal(), {"NO_COLOR": "1"})
    assert not colour_wanted(Terminal(), {"TERM": "dumb"})
    assert not colour_wanted(io.StringIO(), {})


def test_colour_changes_no_column(run: SyntheticRun) -> None:
    verdict = run.update("a-000")

    coloured = verdict_line(verdict, colour=True)

    assert coloured.replace("\x1b[32m", "").replace("\x1b[0m", "") == verdict_line(verdict)
    assert coloured != verdict_line(verdict)


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(i) for i in range(1, 201)]

    assert [percentile(values, p) for p in (50, 90, 99, 100)] == [100.0, 180.0, 198.0, 200.0]
    assert percentile([0.3], 99) == 0.3


def test_the_summary_counts_by_verdict_and_mode(run: SyntheticRun) -> None:
    for number in range(6):
        run.update(
            f"r-{number}", number=number, mode="running" if number % 3 else "halted", latency_ms=number + 1.0
        )
    run.update(
        "d-0", number=6, mode="halted", verdict="known vRTC defect", defect="broken-unhalt", latency_ms=None
    )
    run.update("f-0", number=7, verdict="product fault", diagnosis="no event came", latency_ms=None)
    run.update("restore", number=8, role="restore", mode="halted")
    run.end({"class": "infrastructure", "vm": "vm0", "text": "QEMU was killed\n  by signal 9"})

    told = summary(run.path)

    rows = {tuple(line.split()) for line in told.splitlines()}
    assert ("verdict", "halted", "running", "all") in rows
    assert ("pass", "2", "4", "6") in rows
    assert ("known", "vRTC", "defect", "1", "0", "1") in rows
    assert "p50 3.00   p90 6.00   p99 6.00   max 6.00 ms   (6 events)" in told
    assert "8 updates judged" in told
    assert "raw events       42 in 6 settled events" in told
    assert "broken-unhalt 1" in told
    assert "vm0: QEMU was killed" in told
    assert "f-0: no event came" in told
    assert f"--rtc-plan {run.path}/vm0/replay/f-0.yaml" in told
    assert "seed 42" in told
    assert "took 90.0 s" in told


def test_an_event_that_two_verdicts_name_counts_once_and_ambiguity_is_counted(run: SyntheticRun) -> None:
    first = run.update("a-000", number=0)
    run.update("a-001", number=1, seen=first["seen"], ambiguous=True)

    told = summary(run.path)

    assert "raw events       7 in 1 settled events" in told
    assert "ambiguous        1 " in told


def test_raw_events_that_nobody_told_are_not_none_at_all(run: SyntheticRun) -> None:
    first = run.update("a-000", number=0)
    only = SyntheticRun(run.path.parent / "other")
    only.update("a-001", number=0, seen=[{**s, "event": {**s["event"], "raw_events": None}} for s in first["seen"]])

    assert "raw events       not told in 1 settled events" in summary(only.path)


STALLED: dict[str, Any] = {"verdict": "inconclusive", "diagnosis": "this machine stood still"}


def test_a_repetition_that_passes_hides_no_event_that_was_wrong(run: SyntheticRun) -> None:
    # given attempts that a stall kept from being judged: a wrong payload, one event too many, nothing wrong, no event
    first = run.update("a-000", number=0)
    wrong = {**first["seen"][0], "faults": ["payload"]}
    run.update("b-000", number=1, seen=[wrong], **STALLED)
    run.update("b-000~2", number=2)
    run.update("c-000", number=3, seen=[first["seen"][0], late(first, 300.0)], **STALLED)
    run.update("c-000~2", number=4, seen=[wrong], **STALLED)
    run.update("c-000~3", number=5, verdict="known vRTC defect", defect="broken-unhalt")
    run.update("d-000", number=6, **STALLED)
    run.update("d-000~2", number=7)
    run.update("e-000", number=8, latency_ms=None, **STALLED)
    run.update("e-000~2", number=9)
    run.update("f-000", number=10, seen=[wrong], **STALLED)
    run.update("g-000", number=11, seen=[wrong], cut=True, **STALLED)
    # then the summary tells of those with wrong events, and of nothing else
    told = summary(run.path)
    told = told[told.index("not judged, though the events were wrong: 4 ") :]
    lines = [line.strip() for line in told.splitlines()]
    assert lines[1:9] == [
        "vm0 b-000: wrong payload; b-000~2 passed",
        "this machine stood still",
        "vm0 c-000: 2 events where 1 had to come, duplicate; c-000~3 was a known vRTC defect",
        "this machine stood still",
        "vm0 c-000~2: wrong payload; c-000~3 was a known vRTC defect",
        "this machine stood still",
        "vm0 f-000: wrong payload; not repeated",
        "this machine stood still",
    ]


def test_where_nothing_was_wrong_the_summary_does_not_speak_of_it(run: SyntheticRun) -> None:
    run.update("d-000", number=6, **STALLED)
    run.update("d-000~2", number=7)
    assert "though" not in summary(run.path)


def test_the_summary_says_where_the_reports_are(run: SyntheticRun) -> None:
    run.update("a-000")
    run.end()

    assert "HTML report      none: node is missing" in summary(
        run.path, html_reason="node is missing\nget: x"
    )

    (run.path / "junit.xml").touch()
    told = summary(run.path, html=run.path / "other.html")
    assert f"HTML report      {run.path}/other.html" in told
    assert f"JUnit            {run.path}/junit.xml" in told


def test_a_run_that_was_cut_short_is_summed_up_as_far_as_it_got(run: SyntheticRun) -> None:
    run.update("a-000")
    run.append("vm0", "verdicts.jsonl", "rubbish\n")

    told = summary(run.path)

    assert "NOT FINISHED" in told
    assert "verdicts.jsonl:2" in told


def test_a_run_without_any_verdict_has_a_summary(run: SyntheticRun) -> None:
    run.end({"class": "infrastructure", "vm": "", "text": "no QEMU"})

    told = summary(run.path)

    assert "0 updates judged" in told
    assert "no QEMU" in told


def test_too_many_inconclusive_updates_are_called_an_infrastructure_error(run: SyntheticRun) -> None:
    run.update("a-000", number=0)
    run.update("a-001", number=1, verdict="inconclusive", diagnosis="stall", latency_ms=None)

    assert "more than 1 %" in summary(run.path)


def test_a_wrong_payload_is_shown_field_by_field(run: SyntheticRun) -> None:
    verdict = run.update(
        "a-000", verdict="product fault", faults=["payload"], diagnosis="new_time is 1 s too high"
    )
    verdict["seen"][0]["event"].update(
        new_time=verdict["seen"][0]["event"]["new_time"] + 1, vm="vm9", lost=True
    )

    told = explain(run.path, verdict)

    rows = {line.split()[0]: line for line in told.splitlines() if line.startswith("  ") and line.split()}
    assert rows["new_time"].endswith("<-- +1 s")
    assert "2024-06-16 12:00:00" in rows["new_time"]
    assert rows["vm"].endswith("<-- differs")
    assert rows["lost"].endswith("<-- not expected")
    assert "<--" not in rows["delta_time"]
    assert "new_time is 1 s too high" in told
    assert f"replay:   ./lab qemu --rtc-plan {run.path}/vm0/replay/a-000.yaml" in told


def test_a_replay_names_the_bench_and_the_sockets_of_its_run(run: SyntheticRun) -> None:
    run.info["options"] = {"bench": "/b e.yaml", "event_socket": "/x/{vm}", "service_socket": None, "rtc_seed": 4}
    verdict = run.update("a-000", verdict="product fault", faults=["late"], diagnosis="late")
    run.save()
    options = "--bench '/b e.yaml' --event-socket '/x/{vm}'"
    assert f"/vm0/replay/a-000.yaml {options}\n" in explain(run.path, verdict) + "\n"


def test_an_expected_gap_in_the_chain_is_no_difference_and_a_missing_mark_is(run: SyntheticRun) -> None:
    verdict = run.update("a-000", verdict="product fault", faults=["payload"])
    verdict["expected"][0]["lost"] = True

    without = explain(run.path, verdict)
    verdict["seen"][0]["event"]["lost"] = True

    assert "<-- not in the event" in without
    assert "<--" not in explain(run.path, verdict)


def test_a_missing_event_is_called_missing(run: SyntheticRun) -> None:
    told = explain(
        run.path, run.update("a-000", verdict="product fault", faults=["missing"], latency_ms=None)
    )

    assert "expected 1 event, seen 0 events" in told
    assert "event 1: missing" in told
    assert "no event arrived" in told


def test_a_second_event_is_one_too_many_and_stands_in_the_timeline(run: SyntheticRun) -> None:
    verdict = run.update("a-000", verdict="product fault", faults=["duplicate"])
    verdict["seen"].insert(0, late(verdict, -300.0, new_time=5))

    told = explain(run.path, verdict).splitlines()

    assert "event 2: one too many" in told
    arrivals = [line for line in told if "event arrives" in line]
    assert arrivals[0].split()[0] == "700.186"
    assert arrivals[0].endswith("<-- duplicate")
    assert arrivals[1].split()[0] == "1000.496"


def test_the_timeline_says_which_writes_announced(run: SyntheticRun) -> None:
    verdict = run.update("a-000")
    verdict["writes"][0][3] = False
    verdict["writes"][6][0] += 1_200_000_000

    told = [line for line in explain(run.path, verdict).splitlines() if " write " in line]

    assert "says nothing" in told[0]
    assert told[1].endswith("announces           starts")
    assert told[2].endswith("starts again")
    assert told[6].endswith("announces           starts")


def test_an_update_of_which_nothing_is_known_is_explained_as_that(run: SyntheticRun) -> None:
    run.append("vm0", "verdicts.jsonl", '{"item":"a-000","verdict":"inconclusive","diagnosis":"QEMU died"}\n')
    read = open_run(run.path)

    told = explain(read, read.find("a-000"))

    assert "QEMU died" in told
    assert "nothing was written and nothing arrived" in told


def test_a_run_that_only_watched_counts_what_nobody_planned_and_leaves_out_what_was_cut_off(run: SyntheticRun) -> None:
    run.update("background-1", number=0, role="background")
    run.update("background-2", number=1, role="background", verdict="product fault", faults=["missing"])
    run.update("background-3", number=2, role="background", verdict="inconclusive", cut=True)
    run.info["attached"] = {"socket": "/tmp/vm0.sock"}
    run.end()

    text = summary(run.path)

    assert "3 updates judged" in text
    assert "inconclusive     0 (0.0%)\nnot judged       1 (listening began, or was ended, in the middle of it)" in text
    assert "--rtc-plan" not in text + explain(run.path, open_run(run.path).find("background-2"))
