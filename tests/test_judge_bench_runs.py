"""Random runs on a bench, whatever the phase of the RTC's tick: no honest event is blamed, every tampered one is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.judge import PASS, PRODUCT_FAULT, GuestJudge, Verdict
from harness.judge.verdict import KNOWN_ACRN_DM_DEFECT, KNOWN_DEFECT
from tests.bench_run import FAULT_OF, FORMS, KINDS, BenchRun, tamper, vrtc_of
from tests.judge_random_runs import Sent


def a_run(seed: str, vrtc: str, form: str, items: int = 24) -> BenchRun:
    rng = random.Random(f"{seed}-{form}-{vrtc}")
    uncertainty_ns = rng.choice((0, 50_000, 900_000, 5_000_000))
    return BenchRun(rng, items, vrtc_of(form, vrtc), form=form, uncertainty_ns=uncertainty_ns)


def judged(folder: Path) -> dict[str, Verdict]:
    with GuestJudge(folder) as judge:
        judge.refresh()
        verdicts = judge.decide(judge.last_known_ns, final=True)
        assert judge.errors == []
    return {verdict.item: verdict for verdict in verdicts}


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
        if verdict.verdict != PRODUCT_FAULT or set(verdict.faults) != FAULT_OF.get(kind, {"payload"}):
            unfound.append(f"{seed} {name} {kind}: {verdict.verdict} {verdict.faults} {verdict.diagnosis} {verdict}")
    return len(touched), unfound
