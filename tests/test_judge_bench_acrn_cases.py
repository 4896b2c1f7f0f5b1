"""What ACRN's own C was recorded to send, on a bench: right is right, and what is wrong is known by its name."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from harness.judge import PASS
from harness.judge.forms import BROKEN_DATE_SUM
from harness.judge.verdict import KNOWN_ACRN_DM_DEFECT, KNOWN_DEFECT
from tests.bench_writer import BenchWriter
from tests.judge_run import MS, SECOND

CASES = sorted((Path(__file__).parent / "acrn_cases").glob("*.jsonl"))
SERVICES = ("acrn-dm", "behind-acrn-dm", "project")
FEW = 12
"""Of the cases in which ACRN's handler is right, one in so many."""


def cases(path: Path, *, every: int) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return [case for number, case in enumerate(found) if "acrn" in case or number % every == 0]


def written(case: dict[str, Any], folder: Path, service: str, vrtc: str, *, right: bool) -> BenchWriter:
    """The case as a run whose service is ACRN's (right: one that has been mended), on a clock of another phase."""
    rng = random.Random(case["name"])
    off_ns = rng.randrange(SECOND)
    run = BenchWriter(folder, service=service, vrtc=vrtc, uncertainty_ns=200_000)
    start_ns = case["start_ms"] * MS + off_ns
    run.start(start_ns, case["time"])
    stamps, writes = [], []
    for kind, after_ms, *what in case["ops"]:
        stamps.append(start_ns + after_ms * MS + rng.randrange(-100_000, 100_000))
        if kind == "s":
            run.record("system-reset", stamps[-1])
            run.start(stamps[-1], what[0])
        elif kind == "r":
            run.access(stamps[-1], what[0], None)
        else:
            writes.append((what[0], what[1]))
            run.access(stamps[-1], what[0], what[1])
    raws = [stamps[number] for number, _, _ in case["raw"]]
    ends = [one for one, other in itertools.pairwise([*raws, raws[-1] + 9 * SECOND]) if other - one >= SECOND]
    sent = [[last, delta] for last, _, delta, _, _ in case["settled"]] if right else case.get("acrn")
    for number, (last, new, delta, raw, flags) in enumerate(case["settled"]):
        if service == "project":
            more = {"estimated": True} if "e" in flags else {}
            payload = run.worded(last, new, delta, raw, **more, **({"lost": True} if "l" in flags else {}))
        else:
            told_last, told_delta = (last, delta) if sent is None else sent[number]
            unknown = told_last is None
            payload = run.worded(-1 if unknown else told_last, new, new + 1 if unknown else told_delta, raw)
        run.event(ends[number] + SECOND + 2 * MS, payload)
    run.item("all", start_ns, stamps[-1] + MS, writes)
    return run


def check(path: Path, folder: Path, *, every: int) -> None:
    vrtc, spared = path.stem[:2], list[bool]()
    for number, case in enumerate(cases(path, every=every)):
        if not case["raw"] or case["time"] < 0:
            continue
        service = SERVICES[number % 3]
        wrong = "acrn" in case and service != "project"
        for right in {wrong, False}:
            run = written(case, folder / f"{number}-{right}", service, vrtc, right=right)
            spared += judge_one(run, case, service, wrong=wrong, right=right)
    # where a second more or less decides whether a date is one, ACRN's code would be right at another phase of the tick
    assert sum(spared) >= 0.8 * len(spared), f"{sum(spared)} of {len(spared)}"


def judge_one(run: BenchWriter, case: dict[str, Any], service: str, *, wrong: bool, right: bool) -> list[bool]:
    """Whether the judge noted that a known defect did not occur, where that is so."""
    verdicts = run.final(end_ns=case["start_ms"] * MS + 1_000 * SECOND)
    told = f"{case['name']} of {service}, right: {right}: {verdicts}"
    assert run.errors == [], told
    if service != "project" and any(last is None for last, *_ in case["settled"]):
        return []
    found = verdicts["all"]
    if found.verdict == KNOWN_DEFECT:  # of the vRTC, in the same case
        return []
    if wrong and not right:
        assert (found.verdict, found.defect) == (KNOWN_ACRN_DM_DEFECT, BROKEN_DATE_SUM), told
    else:
        assert found.verdict == PASS, told
        assert found.spared in (None, BROKEN_DATE_SUM), told
        return [found.spared is not None] if right else []
    return []


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_payloads_of_the_c_service(path: Path, tmp_path: Path) -> None:
    check(path, tmp_path, every=FEW)


@pytest.mark.soak
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_all_recorded_payloads_of_the_c_service(path: Path, tmp_path: Path) -> None:
    check(path, tmp_path, every=1)


