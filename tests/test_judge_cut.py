"""Updates in whose middle listening began, or was ended on purpose: not judged, said so, and nobody's failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.judge import INCONCLUSIVE, PASS, GuestJudge, Verdict
from harness.judge.__main__ import exit_code, rejudge
from tests.judge_run import MS, RTC0, SECOND, T0, RunWriter, settled

HALT, RUN = 0x82, 0x02
DAY_15, DAY_16 = 0x15, 0x16


def judged(writer: RunWriter) -> dict[str, Verdict]:
    with GuestJudge(writer.dir, background_after_ns=0) as judge:
        judge.refresh()
        return {verdict.item: verdict for verdict in judge.decide(judge.last_known_ns, final=True)}


def update(writer: RunWriter, after_s: float, *, day: int = DAY_16) -> int:
    """One update of one register, to tomorrow, some time after the start; when its event is due."""
    stamp_ns = T0 + int(after_s * SECOND)
    writer.write(stamp_ns, 0x07, day)
    return stamp_ns + SECOND


def listening(writer: RunWriter, from_ns: int) -> None:
    writer.start()
    writer.journal("connected", t_ns=from_ns)
    writer.journal("ack", t_ns=from_ns, object={"ack": 0})


def test_listening_ended_on_purpose_cuts_what_is_not_due_yet(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    listening(writer, T0)
    due_ns = update(writer, 3)
    writer.event(due_ns + MS, settled(RTC0 + 3, RTC0 + 3 + 86_400, 86_400, 1))
    update(writer, 10, day=DAY_15)
    writer.journal("end", t_ns=T0 + int(10.6 * SECOND))
    verdicts = judged(writer)
    first, second = verdicts["background-1"], verdicts["background-2"]
    assert (first.verdict, first.cut) == (PASS, False)
    assert (second.verdict, second.cut) == (INCONCLUSIVE, True)
    assert "nobody was listening when the event was due" in second.diagnosis
    assert second.as_json()["cut"] is True and "cut" not in first.as_json()
    assert exit_code(rejudge(tmp_path)) == 0


def test_listening_that_began_just_after_an_event_was_due_cuts_its_update(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.start()
    due_ns = update(writer, 3)
    writer.journal("connected", t_ns=due_ns + 10 * MS)
    writer.journal("ack", t_ns=due_ns + 10 * MS, object={"ack": 0})
    writer.journal("end", t_ns=T0 + 20 * SECOND)
    verdict = judged(writer)["background-1"]
    assert (verdict.verdict, verdict.cut) == (INCONCLUSIVE, True)


@pytest.mark.parametrize(("reason", "cut"), [("guest-shutdown", True), ("qemu-died", False)])
def test_a_guest_that_is_shut_down_cuts_one_that_dies_does_not(tmp_path: Path, reason: str, cut: bool) -> None:
    writer = RunWriter(tmp_path)
    listening(writer, T0)
    due_ns = update(writer, 3)
    writer.record("end", due_ns - 500 * MS, reason=reason)
    writer.journal("closed", t_ns=due_ns - 499 * MS, reason="closed by the service")
    writer.journal("end", t_ns=due_ns)
    verdict = judged(writer)["background-1"]
    assert (verdict.verdict, verdict.cut) == (INCONCLUSIVE, cut)
    assert exit_code(rejudge(tmp_path)) == (0 if cut else 10)


def test_a_stall_is_no_cut(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    listening(writer, T0)
    due_ns = update(writer, 3)
    writer.journal("stall", from_ns=due_ns - SECOND, to_ns=due_ns + 20 * SECOND)
    writer.journal("end", t_ns=T0 + 60 * SECOND)
    verdict = judged(writer)["background-1"]
    assert (verdict.verdict, verdict.cut) == (INCONCLUSIVE, False)
    assert exit_code(rejudge(tmp_path)) == 10


@pytest.mark.parametrize("vrtc", ["dm", "hv"])
def test_a_halted_update_that_nobody_planned_is_shown_with_all_its_writes(tmp_path: Path, vrtc: str) -> None:
    writer = RunWriter(tmp_path)
    writer.start(vrtc=vrtc, offset_s=0)
    writer.write(T0 + SECOND, 0x0B, RUN)
    for place, write in enumerate([(0x0B, HALT), (0x07, DAY_16), (0x00, 0x09), (0x0B, RUN)]):
        writer.write(T0 + 3 * SECOND + place * MS, *write)
    writer.write(T0 + 6 * SECOND, 0x07, DAY_15)
    writer.journal("ack", t_ns=T0, object={"ack": 0})
    halted, running = judged(writer).values()
    registers = [write[1] for write in json.loads(json.dumps(halted.as_json()))["writes"]]
    assert (halted.mode, registers[:3]) == ("halted", [0x0B, 0x07, 0x00])
    assert (running.mode, [write[1] for write in running.writes]) == ("running", [0x07])
