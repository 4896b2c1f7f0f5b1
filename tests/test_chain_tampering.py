"""The whole chain with a dishonest go-between: every tampered update is a fault, and no other update is."""

from __future__ import annotations

import json
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chain import ROOT, Run, running

pytestmark = pytest.mark.qemu

BENCH = """
version: 1
name: tampering
host: {kind: local}
guests:
  - {name: pc, vrtc: dm, system: linux, restore: true}
  - {name: pc-hv, vrtc: hv, system: linux, restore: true}
  - {name: bare, vrtc: dm, system: bare}
  - {name: bare-hv, vrtc: hv, system: bare}
"""


@dataclass(frozen=True)
class Kind:
    """Updates of one kind: which (-k) and how many (--rtc-updates), and what must have been among them at least."""

    selected: str
    updates: int
    guests: int
    judged: int
    tampered: int
    restored: bool = False


RANDOM = Kind("random_order and not kernel", 13, guests=6, judged=52, tampered=5)
SPECIAL = Kind(
    "(test_formats or test_special) and not (seven_writes or full_reset or divider or edge and not noon)",
    4,
    guests=20,
    judged=90,
    tampered=20,
    restored=True,
)
EVERYTHING = Kind(
    "test_formats or test_special or test_windows or random_order and not kernel",
    20,
    guests=24,
    judged=300,
    tampered=80,
    restored=True,
)


@contextmanager
def tampered_with(folder: Path, kind: Kind, seed: int) -> Iterator[Run]:
    """A run behind a go-between that tampers with one event in three."""
    run = folder / "run"
    proxy = [sys.executable, "-m", "tests.tampering_proxy", str(run), "--seed", str(seed), "--one-in", "3"]
    with subprocess.Popen(proxy, cwd=ROOT) as between:
        try:
            options = ["-k", kind.selected, "--rtc-updates", str(kind.updates), "--rtc-guests", str(kind.guests)]
            options += ["--rtc-seed", str(seed), "--event-socket", str(run / "{vm}" / "proxy.sock")]
            with running(folder, *options, bench=BENCH if kind.restored else None) as judged:
                yield judged
        finally:
            between.kill()


@pytest.fixture(scope="module")
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """The runs that are no soak, side by side: they wait most of their time."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(tampered_with(tmp_path_factory.mktemp(name), kind, 5))
            for name, kind in KINDS.items()
        }


KINDS = {"random": RANDOM, "special": SPECIAL}


@pytest.mark.parametrize("name", KINDS)
def test_every_tampered_update_is_a_product_fault_and_no_other(name: str, begun: dict[str, Run]) -> None:
    judge(begun[name], KINDS[name])


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 6))
def test_so_it_is_with_every_kind_of_update(seed: int, tmp_path: Path) -> None:
    with tampered_with(tmp_path, EVERYTHING, seed) as run:
        judge(run, EVERYTHING)


def judge(run: Run, kind: Kind) -> None:
    """Exactly the plans whose events were tampered with must be product faults, on both vRTCs."""
    status = run.wait()
    judged, faulty, tampered, stalled = set(), set(), set(), set()
    for guest in run.guests():
        reports = records(guest / "agent.jsonl")
        plan_of = {report["item"]: (guest.name, report["plan"]) for report in reports}
        for record in {record["item"]: record for record in records(guest / "verdicts.jsonl")}.values():
            plan = plan_of.get(record["item"], (guest.name, record["item"]))
            judged.add(plan)
            faulty |= {plan} if record["verdict"] == "product fault" else set()
            stalled |= {plan} if record["verdict"] == "inconclusive" else set()
        tampered |= {plan_of[item] for item in items_of_deeds(guest, reports)}
    # what a busy machine spoiled is done again, with an event of its own, and the plan before it is, too
    assert faulty - stalled == tampered - stalled, run.said
    assert status == 1, run.said
    for of_hv in (False, True):
        assert len([plan for _, plan in judged if plan.startswith("hv-") == of_hv]) >= kind.judged // 2, run.said
        assert len([plan for _, plan in tampered if plan.startswith("hv-") == of_hv]) >= kind.tampered // 2, run.said
    restored = {vm for vm, about in run.information()["guests"].items() if about.get("restored")}
    assert {vm for vm, _ in judged} & restored or not kind.restored, run.said


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def items_of_deeds(guest: Path, reports: list[dict[str, Any]]) -> list[str]:
    """During which item each deed was done: the next one begins when the event is there, or is not in time."""
    items = sorted((report["start_ns"], report["item"]) for report in reports)
    starts = [start for start, _ in items]
    return [items[bisect_right(starts, deed["t_ns"]) - 1][1] for deed in records(guest / "tampered.jsonl")]
