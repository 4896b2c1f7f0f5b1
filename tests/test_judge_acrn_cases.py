"""What ACRN's own C was recorded to do, access by access, is what the judge would have expected of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.judge.models import MODELS, DmModel, HvModel
from harness.judge.outcomes import Announced
from harness.judge.updates import Chronicle, Timing
from harness.judge.witness import Access, Started, SystemReset

CASES = sorted((Path(__file__).parent / "acrn_cases").glob("*.jsonl"))
MS = 1_000_000
INTERRUPTS = (0x0B, 0x0C)
"""What they say of interrupts is not modelled: nothing that must be heard depends on it."""


class ResetToAnyTime(DmModel):
    """For recordings in which the Service VM's clock was set between the start and a reset."""

    def service_vm_shows(self, time: int, stamp_ns: int) -> None:
        self._started = replace(self._started, rtc_time=time, stamp_ns=stamp_ns)


def cases(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def chronicle_of(case: dict[str, Any], vrtc: str) -> tuple[Chronicle, list[Any]]:
    """All that was done, as the judge reads it, and the raw events: [number of the access, last_time, delta_time]."""
    start_ns, chronicle, raws = case["start_ms"] * MS, Chronicle(Timing()), []
    chronicle.start(Started(start_ns, case["time"], vrtc, "vm0", None))
    model = chronicle._model
    assert isinstance(model, (ResetToAnyTime, HvModel))
    write = model.write

    def noting(access: Access) -> Any:
        outcome = write(access)
        if isinstance(outcome, Announced):
            raws.append([access.arrival_ns, outcome.last_time, outcome.new_time - outcome.last_time])
        return outcome

    model.write = noting  # type: ignore[method-assign]
    for number, (kind, after_ms, *what) in enumerate(case["ops"]):
        stamp_ns = start_ns + after_ms * MS
        if kind == "s":
            assert isinstance(model, ResetToAnyTime)
            model.service_vm_shows(what[0], stamp_ns)
            chronicle.system_reset(SystemReset(stamp_ns))
        elif kind == "r":
            chronicle.read(Access(stamp_ns, number, what[0], 0, True))
            if what[0] not in INTERRUPTS:
                told = model._clock.read(what[0], stamp_ns if vrtc == "hv" else stamp_ns // 1_000_000_000)
                assert told == what[1], f"{case['name']}, access {number}"
        else:
            chronicle.write(Access(stamp_ns, number, what[0], what[1], False))
    return chronicle, raws


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_raw_and_settled_events_are_as_recorded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "dm", ResetToAnyTime)
    found = cases(path)
    assert found
    for case in found:
        chronicle, raws = chronicle_of(case, path.stem[:2])
        assert raws == case["raw"], case["name"]
        settled = [
            [e.last_time, e.new_time, e.delta_time, e.raw_events, "e" * e.estimated + "l" * e.lost]
            for update in chronicle.updates
            for e in update.events
        ]
        assert settled == case["settled"], case["name"]
