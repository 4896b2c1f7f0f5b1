"""Reports of a run on a bench: uncertainties, what else might have come, acrn-dm's defects, what no witness covers."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.session import KNOWN_DEFECTS
from fixtures.updates import Update
from harness.judge.__main__ import main
from harness.judge.kept import kept_verdicts
from harness.judge.verdict import KNOWN_ACRN_DM_DEFECT, PASS
from harness.known_defects import load_known_defects
from harness.yamlfile import FileProblems
from reports.defects import why_it_counts, why_not_passed
from reports.evidence import bundle
from reports.failure import explain
from reports.lines import verdict_line
from reports.rundir import RunDir, open_run
from reports.summary import summary
from tests.bench_writer import AT, DUE, END, BenchWriter
from tests.judge_registers import utc
from tests.judge_run import MS, RTC0, SECOND

LAST = RTC0 + 5
TODAY = datetime.date(2026, 12, 1)
KNOWN = load_known_defects(KNOWN_DEFECTS).as_json(TODAY)


def judged(run: BenchWriter, **about: Any) -> RunDir:
    """The run as the engine leaves it: verdicts on disk, and a run.json that says what it was about."""
    verdicts = run.final()
    for verdict in verdicts.values():
        run.line("verdicts.jsonl", **verdict.as_json())
    guest = {"vrtc": run.vrtc, "service": run.service, "host": "ssh nuc", "vm_name": "guest-7", **about}
    info = {"seed": 1, "guests": {"vm0": guest}, "known_defects": KNOWN, "window_ns": SECOND}
    (run.dir.parent / "run.json").write_text(json.dumps(info), encoding="utf-8")
    return open_run(run.dir.parent)


def an_update(folder: Path, service: str = "project", *, delta: int = 3600, at_ns: int = DUE + 320_000) -> BenchWriter:
    run = BenchWriter(folder / "run", service=service, uncertainty_ns=400_000)
    run.start()
    run.do("a", AT, [(0x04, 0x13)])
    run.event(at_ns, run.worded(LAST, LAST + delta, delta, 1))
    return run


def a_broken_date(folder: Path, *, right: bool) -> BenchWriter:
    run = BenchWriter(folder / "run", service="acrn-dm")
    run.start(rtc_time=utc(2024, 1, 31, 12))
    last_ns = run.do("a", AT, [(0x08, 0x02), (0x07, 0x29)])
    new, last = utc(2024, 2, 29, 12) + 5, utc(2024, 1, 31, 12) + 5
    run.event(last_ns + SECOND + MS, run.worded(last, new, new - last, 1) if right else run.worded(-1, new, new + 1, 1))
    return run


def test_a_line_says_how_far_the_latency_may_be_wrong(tmp_path: Path) -> None:
    run = judged(an_update(tmp_path))
    (verdict,) = run.verdicts()
    assert verdict_line(verdict).endswith("+0.32 ms +- 0.8 after the window")


def test_the_judges_own_command_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = judged(an_update(tmp_path))
    assert main([str(run.path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "vm0  a  pass  +0.32 ms +- 0.8"


def test_a_kept_verdict_is_the_one_that_was_given(tmp_path: Path) -> None:
    writer = an_update(tmp_path)
    given = writer.final()["a"]
    writer.line("verdicts.jsonl", **given.as_json())
    (kept,) = kept_verdicts(writer.dir / "verdicts.jsonl", SECOND)
    assert kept.as_json() == {**given.as_json(), "expected": [{**given.expected[0].as_json(), "or": []}]}
    assert (kept.uncertainty_ms, kept.expected[0].latest_ns) == (0.8, given.expected[0].latest_ns)


def test_the_summary_counts_what_was_uncertain_and_what_was_not_covered(tmp_path: Path) -> None:
    writer = an_update(tmp_path)
    writer.record("end", END - 9 * SECOND, reason="guest-shutdown")
    writer.event(END - 8 * SECOND, writer.worded(1, 2, 1, 1))
    told = summary(judged(writer))
    assert "1 update judged" in told
    assert "uncertainty      p50 +- 0.80   max +- 0.80 ms" in told
    assert "background       1 events came while no witness told what the guest did" in told
    assert "inconclusive     0 (0.0%)" in told


@pytest.mark.parametrize("service", ["project", "behind-acrn-dm", "acrn-dm"])
def test_an_explanation_compares_what_that_service_has_to_say(tmp_path: Path, service: str) -> None:
    run = judged(an_update(tmp_path, service, delta=3605))
    told = explain(run, run.verdicts()[0])
    assert f"{LAST}  2024-06-15 12:00:05 or {LAST + 1}  2024-06-15 12:00:06" in told
    assert "+3600" in told
    assert "<-- +5 s" in told
    assert ("raw_events" in told) == (service != "acrn-dm")
    assert ("guest-7" in told) == (service != "acrn-dm")
    assert "witness.jsonl" in told
    assert "+- 0.80" in told


def test_the_evidence_shows_the_agents_record_and_the_service(tmp_path: Path) -> None:
    run = judged(an_update(tmp_path, "behind-acrn-dm"))
    body = bundle(run, run.verdicts()[0])[1].decode()
    assert "The agent&#x27;s own record (1)" in body
    assert "&quot;register&quot;: 4" in body
    assert "behind acrn-dm" in body
    assert "ssh nuc" in body


# -- acrn-dm's defects ---------------------------------------------------------------------------------------


def test_a_defect_of_acrn_dm_is_no_failure_while_the_list_has_it(tmp_path: Path) -> None:
    run = judged(a_broken_date(tmp_path, right=False))
    (verdict,) = run.verdicts()
    assert verdict.verdict == KNOWN_ACRN_DM_DEFECT
    assert why_not_passed(run, verdict) is None
    told = summary(run)
    assert "known acrn-dm defects (ACRN's event service, shown and counted, no failure)\n  broken-date-sum 1" in told
    assert f"{KNOWN_ACRN_DM_DEFECT:<21}" in told
    assert "known defect" in verdict_line(verdict)
    assert main([str(run.path)]) == 0


@pytest.mark.parametrize("known", [[], [{**entry, "expired": True} for entry in KNOWN]])
def test_it_is_one_where_the_list_does_not_have_it_or_no_longer(tmp_path: Path, known: list[dict[str, Any]]) -> None:
    run = judged(a_broken_date(tmp_path, right=False))
    info = {**json.loads((run.path / "run.json").read_text()), "known_defects": known}
    (run.path / "run.json").write_text(json.dumps(info), encoding="utf-8")
    run = open_run(run.path)
    (verdict,) = run.verdicts()
    assert why_not_passed(run, verdict) is not None
    assert why_it_counts(run, "broken-date-sum", "vm0") is not None, "it is not the vRTC's"
    assert "acrn-dm defects that are not known, or no longer (product faults)" in summary(run)
    assert main([str(run.path)]) == 1


@pytest.mark.parametrize("rehearsal", [False, True])
def test_one_that_no_longer_occurs_is_a_failure_but_in_a_rehearsal(tmp_path: Path, rehearsal: bool) -> None:
    run = judged(a_broken_date(tmp_path, right=True), rehearsal=rehearsal)
    (verdict,) = run.verdicts()
    assert (verdict.verdict, verdict.spared) == (PASS, "broken-date-sum")
    assert (why_not_passed(run, verdict) is None) == rehearsal
    assert ("did not occur (product faults)" in summary(run)) == (not rehearsal)
    assert main([str(run.path)]) == (0 if rehearsal else 1)


def test_an_item_of_pytest_fails_with_it(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    from types import SimpleNamespace

    from harness.engine import Outcome
    from harness.errors import ProductFault
    from harness.plan import Pause, Plan

    writer = a_broken_date(tmp_path, right=True)
    run = judged(writer)
    plan = Plan(id="a", actions=(Pause(seconds=1),))
    (verdict,) = kept_verdicts(writer.dir / "verdicts.jsonl", SECOND)
    outcome = Outcome(plan, verdict=verdict, final=True)
    engine = SimpleNamespace(rundir=SimpleNamespace(path=run.path), outcome=lambda plan_id, timeout: outcome)
    live = SimpleNamespace(show=lambda timeout=0.0: None)
    update = Update(pytestconfig, plan, engine, live)  # type: ignore[arg-type]
    with pytest.raises(ProductFault, match="the known acrn-dm defect broken-date-sum did not occur"):
        update.judged()


ENTRY = "{of: acrn-dm, name: broken-date-sum, what: sums over -1 it does, since: 2025-08-01, expires: 2026-12-31}"


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (ENTRY.replace("broken-date-sum", "broken-unhalt"), "the judge knows no defect of acrn-dm called"),
        (ENTRY.replace("of: acrn-dm, ", "vrtc: dm, "), "the judge knows no defect called 'broken-date-sum'"),
        (ENTRY.replace("of: acrn-dm", "of: acrn"), "should be vrtc or acrn-dm"),
        (f"{ENTRY}, {ENTRY}", "broken-date-sum of acrn-dm is given more than once"),
        ("{name: broken-unhalt, what: no event though set, since: 2025-08-01, expires: 2026-12-31}", "dm or hv"),
    ],
)
def test_a_wrong_list_is_told(tmp_path: Path, entries: str, said: str) -> None:
    path = tmp_path / "known.yaml"
    path.write_text(f"version: 1\ndefects: [{entries}]\n", encoding="utf-8")
    with pytest.raises(FileProblems, match=said):
        load_known_defects(path)


def test_a_right_list_is_read(tmp_path: Path) -> None:
    path = tmp_path / "known.yaml"
    both = f"{ENTRY}, {ENTRY.replace('name', 'vrtc: dm, name')}"
    path.write_text(f"version: 1\ndefects: [{both}]\n", encoding="utf-8")
    assert [defect.vrtc for defect in load_known_defects(path).defects] == [None, "dm"]
