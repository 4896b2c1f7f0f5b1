"""Random runs on a bench, whatever the phase of the RTC's tick: no honest event is blamed, every tampered one is."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from harness.judge import PASS, PRODUCT_FAULT, GuestJudge, Verdict
from harness.judge.verdict import KNOWN_ACRN_DM_DEFECT, KNOWN_DEFECT
from tests.bench_run import FORMS, KINDS, BenchRun, tamper, vrtc_of
from tests.judge_random_runs import FAULT_OF_TIMES, Sent, judged
from tests.judge_run import MS


def a_run(seed: str, vrtc: str, form: str, items: int = 24) -> BenchRun:
    rng = random.Random(f"{seed}-{form}-{vrtc}")
    uncertainty_ns = rng.choice((0, 50_000, 900_000, 5_000_000))
    return BenchRun(rng, items, vrtc_of(form, vrtc), form=form, uncertainty_ns=uncertainty_ns)


CANNOT_BE_TOLD = "whether it is one update or two depends on when the RTC ticked"
"""A write at the end of a month, with a pause of a window before and after: with no other is nothing decided."""


def check_honest(
    verdicts: dict[str, Verdict], run: BenchRun, touched: dict[str, set[str]], blamed: list[str] | None = None
) -> int:
    """How many of the updates could not be judged. blamed: takes those that are blamed for nothing; else it fails."""
    inconclusive = 0
    assert set(verdicts) == set(run.steps), "every item has a verdict and nothing else has"
    for name, verdict in verdicts.items():
        if name in touched:
            continue
        told = f"{name}: {verdict.verdict} {verdict.faults} {verdict.diagnosis} {verdict}"
        wanted = {PASS} | ({KNOWN_DEFECT} if name in run.withheld else set())
        if name in run.defects:
            # the hypervisor's clock passes through -1, and what is wrong of it at one phase may be right at another
            wanted = {KNOWN_ACRN_DM_DEFECT} | (wanted if run.vrtc == "hv" else set())
        if name in run.unknown or verdict.ambiguous:  # or it shares its update with one that is wrong
            wanted |= {KNOWN_ACRN_DM_DEFECT}
        if verdict.diagnosis == CANNOT_BE_TOLD:
            inconclusive += 1
            continue
        if blamed is not None and verdict.verdict not in wanted:
            blamed.append(told)
        else:
            assert verdict.verdict in wanted, told
    return inconclusive


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("vrtc", ["dm", "hv"])
def test_an_honest_service_is_not_blamed_on_a_bench(tmp_path: Path, vrtc: str, form: str) -> None:
    for seed in range(5):
        run = a_run(f"bench-honest-{seed}", vrtc, form)
        assert check_honest(judged(run.write(tmp_path / str(seed), run.events)), run, {}) == 0


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("vrtc", ["dm", "hv"])
def test_an_honest_service_is_not_blamed_in_thousands_of_updates(tmp_path: Path, vrtc: str, form: str) -> None:
    untold = 0
    for seed in range(150):
        run = a_run(f"bench-soak-{seed}", vrtc, form, items=40)
        untold += check_honest(judged(run.write(tmp_path / str(seed), run.events)), run, {})
    assert untold <= 0.002 * 150 * 40


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("vrtc", ["dm", "hv"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_tampering_is_found_in_hundreds_of_updates(
    tmp_path: Path, kind: str, vrtc: str, form: str
) -> None:
    found = [tampered_run(tmp_path / str(n), f"bench-soak-{kind}-{n}", kind, vrtc, form) for n in range(25)]
    unfound = [told for _, those in found for told in those]
    # an event may be what another phase of the tick, or a neighbour that need not have one, would have sent
    assert len(unfound) <= 0.015 * sum(tampered for tampered, _ in found), unfound


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("vrtc", ["dm", "hv"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_tampering_is_found_on_a_bench(tmp_path: Path, kind: str, vrtc: str, form: str) -> None:
    tampered, unfound = tampered_run(tmp_path, f"bench-{kind}", kind, vrtc, form)
    assert tampered > 0
    assert unfound == []


def tampered_run(folder: Path, seed: str, kind: str, vrtc: str, form: str) -> tuple[int, list[str]]:
    """How many events were tampered with, and those that were not called what they are."""
    run = a_run(seed, vrtc, form)
    events: list[Sent] = []
    touched: dict[str, set[str]] = {}
    for sent in run.events:
        if run.rng.random() < 0.3 and sent.item not in run.defects:
            touched.setdefault(sent.item, set()).add(kind)
            events += tamper(run, kind, sent)
        else:
            events.append(sent)
    verdicts = judged(run.write(folder, sorted(events, key=lambda sent: sent.t_ns)))
    unfound: list[str] = []
    check_honest(verdicts, run, touched, unfound)
    for name in touched:
        verdict = verdicts[name]
        if kind == "drop" and any(event.optional for event in verdict.expected):
            continue  # the clock may have ticked to what was written: then nothing comes
        if verdict.verdict != PRODUCT_FAULT or set(verdict.faults) != FAULT_OF_TIMES.get(kind, {"payload"}):
            unfound.append(f"{seed} {name} {kind}: {verdict.verdict} {verdict.faults} {verdict.diagnosis} {verdict}")
    return len(touched), unfound


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("vrtc", ["dm", "hv"])
def test_judged_while_it_grows_or_afterwards(tmp_path: Path, vrtc: str, form: str) -> None:
    """As the engine writes: what the agent reports of an item stands there when it is done, maybe after its event."""
    run = a_run("bench-growing", vrtc, form, items=16)
    some = {id(sent) for sent in run.events if run.rng.random() < 0.2}
    events = [each for sent in run.events for each in (tamper(run, "times", sent) if id(sent) in some else [sent])]
    whole = run.write(tmp_path / "whole", sorted(events, key=lambda sent: sent.t_ns))
    items = [json.loads(line) for line in (whole / "agent.jsonl").read_text().splitlines()]
    ends_ns = [item["end_ns"] for item in items]
    lines: list[tuple[int, int, str, str]] = []
    keys = {"witness.jsonl": "stamp_ns", "agent.jsonl": "end_ns", "events.jsonl": "t_ns"}
    for place, (name, key) in enumerate(keys.items()):
        for line in (whole / name).read_text().splitlines(keepends=True):
            at_ns = json.loads(line)[key]
            if name == "witness.jsonl" and '"guest_ns"' in line:
                at_ns = min(end_ns for end_ns in ends_ns if end_ns + 6 * MS >= at_ns)
            lines.append((at_ns, place, name, line))
    last: dict[str, Verdict] = {}
    (tmp_path / "grows").mkdir()
    with GuestJudge(tmp_path / "grows") as judge:
        for at_ns, _, name, line in sorted(lines, key=lambda each: each[:2]):
            with (tmp_path / "grows" / name).open("a", encoding="utf-8") as out:
                out.write(line)
            if run.rng.random() < 0.3:
                judge.refresh()
                last.update({verdict.item: verdict for verdict in judge.decide(at_ns + run.rng.choice((0, 100 * MS)))})
        told = len(last)
        judge.refresh()
        last.update({verdict.item: verdict for verdict in judge.decide(judge.last_known_ns, final=True)})
        assert judge.errors == []
    afterwards = judged(whole)
    assert told > 10, "most are told before the end"
    assert set(last) == set(afterwards)
    for name, verdict in afterwards.items():
        assert replace(last[name], vm=verdict.vm).same_finding(verdict), (last[name], verdict)
