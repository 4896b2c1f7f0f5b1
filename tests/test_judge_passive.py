"""Judging a guest that nobody told what to do: no agent.jsonl, every update is background."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.judge import PASS, PRODUCT_FAULT, GuestJudge, Verdict
from tests.judge_random_runs import FAULT_OF, KINDS, RandomRun, Sent, tamper
from tests.judge_run import RunWriter


def watched(folder: Path, run: RandomRun, events: list[Sent]) -> dict[str, Verdict]:
    """Judges as the files grow, and at the end once more from the files alone; both must say the same."""
    writer, last = RunWriter(folder), dict[str, Verdict]()
    with GuestJudge(writer.dir, background_after_ns=0) as judge:
        for t_ns, write in run.lines(events, agent=False):
            write(writer)
            judge.refresh()
            last.update({verdict.item: verdict for verdict in judge.decide(t_ns)})
        told = dict(last)
        last.update({verdict.item: verdict for verdict in judge.decide(run.end_ns, final=True)})
        assert judge.errors == []
    assert {name: verdict.verdict for name, verdict in told.items()} == {
        name: verdict.verdict for name, verdict in last.items() if name in told
    }
    with GuestJudge(writer.dir) as again:
        again.refresh()
        afterwards = {verdict.item: verdict for verdict in again.decide(again.last_known_ns, final=True)}
    assert afterwards.keys() == last.keys()
    assert all(verdict.same_finding(last[name]) for name, verdict in afterwards.items())
    return last


@pytest.mark.parametrize("vrtc", ["dm", "hv"])
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_every_update_of_a_guest_that_is_only_watched_is_judged(tmp_path: Path, vrtc: str, rate: float) -> None:
    for seed in range(6):
        rng = random.Random(f"passive-{vrtc}-{rate}-{seed}")
        run, faults = RandomRun(rng, 16, vrtc), dict[int, set[str]]()
        events: list[Sent] = []
        for place, sent in enumerate(run.events):
            if rng.random() < rate:
                results = tamper(rng, rng.choice(KINDS), sent)
                faults[place] = FAULT_OF.get(results[-1].tampered if results else "drop", {"payload"})
                events += results
            else:
                events.append(sent)
        verdicts = watched(tmp_path / str(seed), run, sorted(events, key=lambda sent: sent.t_ns))
        assert set(verdicts) == {f"background-{place + 1}" for place in range(len(run.events))}
        for place in range(len(run.events)):
            verdict = verdicts[f"background-{place + 1}"]
            assert verdict.verdict == (PRODUCT_FAULT if place in faults else PASS), verdict.diagnosis
            assert set(verdict.faults) == faults.get(place, set()), verdict.diagnosis
            assert verdict.role == "background"
