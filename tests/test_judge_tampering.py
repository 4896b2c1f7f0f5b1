"""A tamperer between service and judge: exactly the updates it touched are blamed, whatever it did."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.judge import PASS, PRODUCT_FAULT, Verdict
from tests.judge_random_runs import FAULT_OF, KINDS, TWOFOLD, RandomRun, Sent, judged, tamper
from tests.judge_run import RTC0


def tampered_with(
    run: RandomRun, rng: random.Random, kinds: list[str], rate: float
) -> tuple[list[Sent], dict[str, set[str]]]:
    events: list[Sent] = []
    touched: dict[str, set[str]] = {}
    for sent in run.events:
        if rng.random() >= rate:
            events.append(sent)
            continue
        results = tamper(rng, rng.choice(kinds), sent)
        what = results[-1].tampered if results else "drop"
        touched.setdefault(sent.item, set()).add(what)
        events += results
    return sorted(events, key=lambda sent: sent.t_ns), touched


def check(verdicts: dict[str, Verdict], run: RandomRun, touched: dict[str, set[str]]) -> None:
    assert set(verdicts) == set(run.steps), "every item has a verdict and nothing else has"
    for name, verdict in verdicts.items():
        told = f"{name} {touched.get(name)}: {verdict.verdict} {verdict.faults} {verdict.diagnosis}"
        if name not in touched:
            assert verdict.verdict == PASS, told
            assert verdict.diagnosis == "", told
            continue
        assert verdict.verdict == PRODUCT_FAULT, told
        assert verdict.diagnosis, told
        wanted = set().union(*(FAULT_OF.get(what, {"payload"}) for what in touched[name]))
        assert set(verdict.faults) == wanted, told


@pytest.mark.parametrize("vrtc", ["dm", "hv"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_of_tampering_now_and_then(tmp_path: Path, kind: str, vrtc: str) -> None:
    for seed in range(8):
        rng = random.Random(f"{kind}-{vrtc}-{seed}")
        run = RandomRun(rng, 24, vrtc)
        events, touched = tampered_with(run, rng, [kind], 0.2)
        check(judged(run.write(tmp_path / str(seed), events)), run, touched)


@pytest.mark.parametrize("vrtc", ["dm", "hv"])
@pytest.mark.parametrize("kind", TWOFOLD)
def test_an_altered_event_is_known_again_wherever_it_comes(tmp_path: Path, kind: str, vrtc: str) -> None:
    for seed in range(8):
        rng = random.Random(f"{kind}-{vrtc}-{seed}")
        run = RandomRun(rng, 24, vrtc)
        events, touched = tampered_with(run, rng, [kind], 0.2)
        check(judged(run.write(tmp_path / str(seed), events)), run, touched)


@pytest.mark.parametrize("vrtc", ["dm", "hv"])
@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_all_kinds_of_tampering_mixed(tmp_path: Path, rate: float, vrtc: str) -> None:
    for seed in range(16):
        rng = random.Random(f"mixed-{vrtc}-{rate}-{seed}")
        run = RandomRun(rng, 24, vrtc)
        events, touched = tampered_with(run, rng, list(KINDS), rate)
        check(judged(run.write(tmp_path / str(seed), events)), run, touched)


HONEST = {
    "dm": ("dm", RTC0, 0),
    "hv": ("hv", RTC0, 0),
    "hv that a former VM moved": ("hv", RTC0, -86_400),
    "hv that never runs": ("hv", 0, 0),
    "hv close to the end of its years": ("hv", 2_145_916_797, 0),
    "hv beyond its years": ("hv", 2_145_916_790, 86_400),
}


@pytest.mark.parametrize("begin", HONEST.values(), ids=HONEST.keys())
def test_an_honest_service_is_not_blamed(tmp_path: Path, begin: tuple[str, int, int]) -> None:
    for seed in range(12):
        run = RandomRun(random.Random(f"honest-{seed}"), 24, *begin)
        check(judged(run.write(tmp_path / str(seed), run.events)), run, {})
