"""Known vRTC defects: which are no failure, until when, and what becomes of the others."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fixtures.expectations import expect_known_defect
from fixtures.session import KNOWN_DEFECTS
from fixtures.updates import Update
from harness.engine import Outcome
from harness.errors import ProductFault
from harness.judge.findings import KNOWN_DEFECTS as OF_THE_JUDGE
from harness.judge.verdict import KNOWN_DEFECT, PASS, Verdict
from harness.known_defects import load_known_defects
from harness.plan import Pause, Plan
from harness.yamlfile import FileProblems
from reports.defects import why_it_counts
from reports.rundir import open_run
from reports.summary import summary
from tests.chain import running
from tests.synthetic_run import SyntheticRun

LAST_DAY = datetime.date(2026, 12, 31)
ENTRY = "{name: broken-unhalt, vrtc: dm, what: no event though set, since: 2025-08-01, expires: 2026-12-31}"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_file_that_comes_with_the_project_has_every_defect_that_the_judge_knows() -> None:
    known = load_known_defects(KNOWN_DEFECTS)
    assert {defect.name for defect in known.defects} == set(OF_THE_JUDGE)


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("broken-unhalt", "brokn-unhalt"), 4, "defects[0].name: the judge knows no defect called 'brokn-unhalt'"),
        (("vrtc: dm", "vrtc: kvm"), 5, "defects[0].vrtc: is the text 'kvm'; should be dm or hv"),
        (("2026-12-31", "soon"), 8, "defects[0].expires: is the text 'soon'; should be a date (YYYY-MM-DD)"),
        (("2026-12-31", "2025-07-31"), 4, "defects[0]: expires on 2025-07-31, before it was found on 2025-08-01"),
        (("expires", "expire"), 8, "defects[0].expire: unknown key; did you mean 'expires'?"),
        (("version: 1", "version: 2"), 1, "version: is 2; this harness reads version 1"),
    ],
)
def test_a_wrong_file_is_told_by_line(change: tuple[str, str], line: int, said: str, tmp_path: Path) -> None:
    lines = [
        *("version: 1", "defects:", "  -", "    name: broken-unhalt", "    vrtc: dm", "    what: no event though set"),
        *("    since: 2025-08-01", "    expires: 2026-12-31", ""),
    ]
    path = write(tmp_path / "known.yaml", "\n".join(lines).replace(*change))
    with pytest.raises(FileProblems) as caught:
        load_known_defects(path)
    assert f"{path}:{line}: {said}" in str(caught.value)


def test_a_defect_stands_once_for_each_vrtc(tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.yaml", f"version: 1\ndefects: [{ENTRY}, {ENTRY}]\n")
    with pytest.raises(FileProblems, match="broken-unhalt of dm is given more than once"):
        load_known_defects(twice)
    both = write(tmp_path / "both.yaml", f"version: 1\ndefects: [{ENTRY}, {ENTRY.replace('dm', 'hv')}]\n")
    assert len(load_known_defects(both).defects) == 2


# -- what a run makes of it ----------------------------------------------------------------------------------


@pytest.fixture
def run_knowing(tmp_path: Path) -> Callable[[str, datetime.date], SyntheticRun]:
    """A run that had that text for its list of defects, on that day: two of them were found, on a guest each."""

    def make(entries: str, today: datetime.date) -> SyntheticRun:
        run = SyntheticRun(tmp_path / "run", guests=("on-dm", "on-hv"), on_hv=("on-hv",))
        known = load_known_defects(write(tmp_path / "known.yaml", f"version: 1\ndefects: [{entries}]\n"))
        run.info["known_defects"] = known.as_json(today)
        for number, vm in enumerate(run.guests):
            run.update(vm, vm=vm, number=number, verdict=KNOWN_DEFECT, defect="broken-unhalt", latency_ms=None)
        run.end()
        return run

    return make


@pytest.mark.parametrize(
    ("today", "reason"),
    [
        (LAST_DAY, None),
        (LAST_DAY + datetime.timedelta(days=1), "known since 2025-08-01, had to be mended by 2026-12-31"),
    ],
)
def test_a_defect_is_no_failure_up_to_its_last_day(
    run_knowing: Callable[[str, datetime.date], SyntheticRun], today: datetime.date, reason: str | None
) -> None:
    run = open_run(run_knowing(ENTRY, today).path)
    found = why_it_counts(run, "broken-unhalt", "on-dm")
    assert found is None if reason is None else reason in str(found)
    told = summary(run)
    assert ("known until 2026-12-31: no event though set" in told) == (reason is None)
    assert (f"broken-unhalt 1   {found}" in told) == (reason is not None)


def test_what_is_known_of_one_vrtc_counts_on_the_other(
    run_knowing: Callable[[str, datetime.date], SyntheticRun],
) -> None:
    run = open_run(run_knowing(ENTRY, LAST_DAY).path)
    assert why_it_counts(run, "broken-unhalt", "on-dm") is None
    counts = "the vRTC defect broken-unhalt is not among the known ones of hv"
    assert why_it_counts(run, "broken-unhalt", "on-hv") == counts
    told = summary(run)
    assert "vRTC defects that are not known, or no longer (product faults)\n  broken-unhalt 1   " + counts in told
    assert "(ACRN's vRTC, shown and counted, no failure)\n  broken-unhalt 1   known until" in told


def test_where_nothing_is_known_every_defect_counts_and_a_run_without_a_list_does_not_say(
    run_knowing: Callable[[str, datetime.date], SyntheticRun],
) -> None:
    made = run_knowing("", LAST_DAY)
    assert why_it_counts(open_run(made.path), "broken-unhalt", "on-dm") is not None
    document = json.loads((made.path / "run.json").read_text(encoding="utf-8"))
    del document["known_defects"]
    write(made.path / "run.json", json.dumps(document))
    assert why_it_counts(open_run(made.path), "broken-unhalt", "on-dm") is None


@pytest.mark.parametrize(("verdict", "defect"), [(PASS, None), (KNOWN_DEFECT, "another")])
def test_a_defect_that_no_longer_occurs_is_a_failure(verdict: str, defect: str | None) -> None:
    found = Verdict(item="i", vm="vm0", verdict=verdict, role="update", defect=defect)
    with pytest.raises(ProductFault, match="the known vRTC defect broken-unhalt did not occur"):
        expect_known_defect(found, "broken-unhalt")
    expect_known_defect(Verdict("i", "vm0", KNOWN_DEFECT, "update", defect="broken-unhalt"), "broken-unhalt")


class Judged:
    """An engine that has this outcome of every plan."""

    def __init__(self, run: SyntheticRun, verdict: Verdict) -> None:
        self.rundir = SimpleNamespace(path=run.path)
        self._verdict = verdict

    def outcome(self, plan_id: str, timeout: float) -> Outcome:
        return Outcome(Plan(id=plan_id, actions=(Pause(seconds=1),)), verdict=self._verdict, final=True)


@pytest.mark.parametrize(("known", "fails"), [(ENTRY, False), ("", True)])
def test_an_item_with_a_defect_fails_where_it_is_not_known(
    run_knowing: Callable[[str, datetime.date], SyntheticRun], pytestconfig: pytest.Config, known: str, fails: bool
) -> None:
    found = Verdict("on-dm", "on-dm", KNOWN_DEFECT, "update", defect="broken-unhalt")
    engine, live = Judged(run_knowing(known, LAST_DAY), found), SimpleNamespace(show=lambda timeout=0.0: None)
    plan = Plan(id="on-dm", actions=(Pause(seconds=1),))
    update = Update(pytestconfig, plan, engine, live)  # type: ignore[arg-type]
    if fails:
        with pytest.raises(ProductFault, match="on-dm: the vRTC defect broken-unhalt is not among the known ones"):
            update.judged()
    else:
        assert update.judged() == found


@pytest.mark.qemu
@pytest.mark.soak
def test_a_run_with_a_defect_that_is_not_known_fails_and_says_why(tmp_path: Path) -> None:
    options = ("-k", "broken-unhalt-after-running and dm", "--rtc-guests", "1")
    none = write(tmp_path / "none.yaml", "version: 1\ndefects: []\n")
    with running(tmp_path, *options, "--known-defects", str(none)) as run:
        assert run.wait() == 1, run.said
    assert "broken-unhalt is not among the known ones of dm" in run.said
    assert "vRTC defects that are not known, or no longer (product faults)" in run.said
    assert [line["verdict"] for line in run.records("verdicts.jsonl") if line["role"] == "update"] == [KNOWN_DEFECT]


def test_a_file_of_known_defects_that_is_not_there_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    with running(tmp_path, "--known-defects", str(tmp_path / "missing.yaml"), "--collect-only") as run:
        assert run.wait() == 11
    assert "missing.yaml:1: no such file" in run.said
