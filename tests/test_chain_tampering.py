"""The whole chain with a dishonest go-between: every tampered update is a fault, and no other update is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.qemu


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def test_every_tampered_update_is_a_product_fault_and_no_other(tmp_path: Path) -> None:
    # given a go-between that tampers with one event in three
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tests.tampering_proxy", str(run), "--seed", "5", "--one-in", "3"]
    with subprocess.Popen(command, cwd=ROOT) as proxy:
        try:
            # when random updates are judged through it
            options = ["-m", "qemu", "-k", "random_order and not kernel", "-p", "no:cacheprovider", "--no-html", "-q"]
            options += ["--rtc-updates", "13", "--rtc-guests", "6", "--rtc-seed", "11", "--run-dir", str(run)]
            options += ["--event-socket", str(run / "{vm}" / "proxy.sock")]
            command = [sys.executable, "-m", "pytest", "scenarios", *options]
            done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
        finally:
            proxy.kill()
    # then exactly the updates whose events were tampered with are product faults
    tampered, faulty, judged = set(), set(), set()
    said = done.stdout + done.stderr
    for guest in (entry for entry in run.iterdir() if (entry / "trace.log").exists()):
        verdicts = {str(record["item"]): record for record in records(guest / "verdicts.jsonl")}
        judged |= set(verdicts)
        faulty |= {item for item, record in verdicts.items() if record["verdict"] == "product fault"}
        for deed in records(guest / "tampered.jsonl"):
            tampered.add(_item_of(deed["event"], verdicts))
    assert len(tampered) >= 5, said
    assert faulty == tampered, said
    assert done.returncode == 1, said
    assert len([item for item in judged if item.startswith("hv-")]) == 26, said
    assert len(judged) >= 52, said


def _item_of(event: object, verdicts: dict[str, dict[str, object]]) -> str:
    assert isinstance(event, dict)
    for item, record in verdicts.items():
        expected = record["expected"]
        assert isinstance(expected, list)
        if any(all(e[key] == event[key] for key in ("last_time", "new_time", "raw_events")) for e in expected):
            return item  # several may end at the same time: no date at all
    raise AssertionError(f"no update expects {event}")
