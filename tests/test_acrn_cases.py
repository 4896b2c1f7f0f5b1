"""Recorded cases of ACRN's own C code: the vRTCs answer as it did, and what settles is right where it was not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.vm_event import RtcChange, RtcChangeSettler
from harness.vrtc import DmVrtc, HvVrtc

CASES = Path(__file__).parent / "acrn_cases"
FILES = sorted(path.stem for path in CASES.glob("*.jsonl"))
MILLISECOND = 10**6
SECOND = 10**9


def recorded(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header of a file, which says what it holds and how it came about, and its cases."""
    header, *cases = map(json.loads, (CASES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
    return header, cases


class Replay:
    """One case through our vRTC and settler, in integer nanoseconds."""

    def __init__(self, vrtc: str, case: dict[str, Any]) -> None:
        self.now = self._start = case["start_ms"] * MILLISECOND
        self._settler = RtcChangeSettler(source=vrtc, per_second=SECOND)
        self._number = 0
        self.ops: list[list[Any]] = []
        self.raw: list[list[int]] = []
        self.settled: list[list[Any]] = []
        self._vrtc: DmVrtc | HvVrtc
        if vrtc == "dm":
            self._vrtc = DmVrtc(self._sent, case["time"], lambda: self.now, per_second=SECOND)
            self._settler.set_rtc(case["time"], self.now)
        else:
            self._vrtc = HvVrtc(self._sent, case["time"], lambda: self.now, per_second=SECOND)
        for self._number, op in enumerate(case["ops"]):
            self._do(*op)
        self._take_settled(self.now + 2 * SECOND)

    def _do(self, kind: str, at_ms: int, *operands: int) -> None:
        self.now = self._start + at_ms * MILLISECOND
        self._take_settled(self.now)
        if kind == "r":
            index, _ = operands
            self.ops.append([kind, at_ms, index, self._vrtc.read(index)])
        elif kind == "s":
            assert isinstance(self._vrtc, DmVrtc)
            (time,) = operands
            self._vrtc.reset(time)
            self._settler.set_rtc(time, self.now)
            self.ops.append([kind, at_ms, time])
        else:
            index, value = operands
            self.ops.append(["w" if self._vrtc.write(index, value) else "x", at_ms, index, value])

    def _sent(self, change: RtcChange) -> None:
        self.raw.append([self._number, change.last_time, change.delta_time])
        self._settler.add(change, self.now)

    def _take_settled(self, now: int) -> None:
        while (event := self._settler.expire(now)) is not None:
            flags = "e" * event.estimated + "l" * event.lost
            self.settled.append([event.last_time, event.new_time, event.delta_time, event.raw_events, flags])


@pytest.mark.parametrize("name", FILES)
def test_each_recorded_case_gives_the_same_bytes_and_raw_events_and_settles_right(name: str) -> None:
    header, cases = recorded(name)
    assert len(cases) == header["cases"] > 0
    for case in cases:
        told = f"{name}, case {case['name']!r}"

        replay = Replay(header["vrtc"], case)

        assert replay.ops == case["ops"], f"{told}: bytes read back, or writes refused, differ"
        assert replay.raw == case["raw"], f"{told}: raw events differ"
        assert replay.settled == case["settled"], f"{told}: settled payload differs"


@pytest.mark.parametrize(("vrtc", "wrong_at_least"), [("dm", 150), ("hv", 25)])
def test_several_hundred_cases_of_each_vrtc_and_acrn_wrong_in_some(vrtc: str, wrong_at_least: int) -> None:
    cases = [case for name in FILES if name.startswith(vrtc) for case in recorded(name)[1]]
    assert len(cases) >= 600
    assert sum(bool(case["raw"]) for case in cases) >= 400, "most of them announce something"
    wrong = [case for case in cases if "acrn" in case]
    assert len(wrong) >= wrong_at_least
    for case in wrong:
        right = [[last, delta] for last, _, delta, _, _ in case["settled"]]
        assert case["acrn"] != right
        assert any(last == -1 for _, last, _ in case["raw"]), "ACRN's handler goes wrong where the clock was at -1"
