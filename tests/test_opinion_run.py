"""The second opinion on a whole run: a real QEMU's RTC_CHANGEs agree, and what was tampered with is found."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fixtures import second_opinion
from fixtures.session import _FAMILIES, ENGINE
from harness.deadline import Deadline
from harness.errors import EXIT_CONFIGURATION, EXIT_INFRASTRUCTURE
from harness.opinion.__main__ import main
from harness.opinion.run import contradictions, opinions_of_run
from reports.summary import summary
from tests.driven_machine import PATIENCE, driven
from tests.opinion_run import BASE, Records, at, bcd
from tests.synthetic_run import SyntheticRun

Lines = list[dict[str, Any]]
TIMES = [at("2031-01-31T23:58:57"), at("1999-12-31T10:20:30"), at("2024-02-29T00:00:01")]
SAFE_FIRST = [0x07, 0x32, 0x08, 0x09]
"""In this order no date on the way is invalid, whatever day it was; the rest is random."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory: a real QEMU, our device model, and what its service settled; no guest boots."""
    run = tmp_path_factory.mktemp("run")
    choice = random.Random(5)
    events = []
    with driven(run / "vm0", window=1.0) as machine:
        for number, seconds in enumerate(TIMES):
            fields = bcd(seconds)
            order = [0x00, 0x02, 0x04]
            choice.shuffle(order)
            writes = [(register, fields[register]) for register in [*SAFE_FIRST, *order]]
            if number % 2:
                machine.write((0x0B, 0x82), *writes, (0x0B, 0x02))
            else:
                machine.write((0x0B, 0x02), (0x07, 0x01), *writes[1:], (0x07, fields[0x07]))
            record = machine.next_event().as_json()
            events.append({"t_ns": time.monotonic_ns(), "kind": "object", "event": record})
            await_change(run / "vm0" / "rtc-change.jsonl", seconds - BASE)
    save(run / "vm0" / "events.jsonl", events)
    return run


@pytest.fixture
def run(real: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it, to be tampered with."""
    ignored = shutil.ignore_patterns("*.sock")
    yield Path(shutil.copytree(real, tmp_path / "run", ignore=ignored))


def await_change(path: Path, offset: int) -> None:
    """QEMU tells a second after the first write what the last one did; a write before that would supersede it."""
    deadline = Deadline(PATIENCE)
    told = None
    while told is None or abs(told - offset) > 30:
        assert not deadline.expired
        lines = path.read_text().split("\n")[:-1]
        told = next((json.loads(line)["event"]["data"]["offset"] for line in lines[::-1] if "RTC_CHANGE" in line), None)


def save(path: Path, lines: Lines) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def tamper(path: Path, change: Callable[[Lines], Lines | None]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    save(path, change(lines) or lines)


def test_a_real_qemu_agrees_with_every_settled_event(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == "3 of 3 settled events consistent by QMP, 0 by read-back\n"
    assert [json.loads(line)["qmp"]["opinion"] for line in (run / "vm0" / "second-opinion.jsonl").open()] == [
        "consistent"
    ] * 3


def test_as_json_each_opinion_stands_with_its_evidence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["new_time"] for line in lines] == TIMES
    assert all(line["vm"] == "vm0" and abs(line["qmp"]["qemu_time"] - line["new_time"]) <= 7 for line in lines)


@pytest.mark.parametrize(
    ("which", "key"), [(0, "new_time"), (1, "new_time"), (2, "new_time"), (1, "delta_time"), (2, "delta_time")]
)
def test_a_settled_event_altered_by_an_hour_is_found(
    run: Path, which: int, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def alter(lines: Lines) -> None:
        lines[which]["event"][key] += 3600

    tamper(run / "vm0" / "events.jsonl", alter)
    assert main([str(run)]) == EXIT_INFRASTRUCTURE
    said = capsys.readouterr()
    assert key in said.err and "QEMU" in said.err and f"{lines_of(run)[which]['t_ns']} ns of vm0" in said.err
    assert "1 INCONSISTENT" in said.out


def test_an_rtc_change_altered_by_an_hour_is_found(run: Path) -> None:
    def alter(lines: Lines) -> None:
        [line for line in lines if line["kind"] == "rtc-change"][-1]["event"]["data"]["offset"] += 3600

    tamper(run / "vm0" / "rtc-change.jsonl", alter)
    assert len(contradictions(opinions_of_run(run))) == 1


def test_a_missing_rtc_change_is_found(run: Path) -> None:
    def last_writes(lines: Lines) -> Lines:
        changes = [line for line in lines if line["kind"] == "rtc-change"]
        lines.remove(changes[-1])
        # The machine lived on for long enough that it would have come.
        lines[-1]["t_ns"] += 10**9
        return lines

    tamper(run / "vm0" / "rtc-change.jsonl", last_writes)
    (found,) = contradictions(opinions_of_run(run))
    assert "no RTC_CHANGE" in str(found)


@pytest.mark.parametrize("off", [0, 3600])
def test_a_contradiction_at_the_end_of_a_run_is_an_infrastructure_error_of_it(run: Path, off: int) -> None:
    def alter(lines: Lines) -> None:
        lines[1]["event"]["new_time"] += off

    tamper(run / "vm0" / "events.jsonl", alter)
    errors: list[tuple[str, str | None, str]] = []
    config = SimpleNamespace(stash=pytest.Stash())
    config.stash[_FAMILIES] = set()
    rundir = SimpleNamespace(path=run, add_error=lambda *error: errors.append(error))
    config.stash[ENGINE] = SimpleNamespace(rundir=rundir)

    second_opinion.pytest_sessionfinish(cast(pytest.Session, SimpleNamespace(config=config)))

    assert config.stash[_FAMILIES] == ({EXIT_INFRASTRUCTURE} if off else set())
    assert [(family, "contradicts the settled event" in text) for family, _, text in errors] == (
        [("infrastructure", True)] if off else []
    )


def test_what_the_judge_found_wrong_too_contradicts_nobody(run: Path) -> None:
    def alter(lines: Lines) -> None:
        lines[1]["event"]["new_time"] += 3600

    tamper(run / "vm0" / "events.jsonl", alter)
    seen = [{"t_ns": lines_of(run)[1]["t_ns"], "faults": ["payload"]}]
    save(run / "vm0" / "verdicts.jsonl", [{"item": "x", "seen": seen}])
    opinions = opinions_of_run(run)
    assert opinions[1].contradictions and opinions[1].faulted
    assert contradictions(opinions) == []


def test_a_recording_that_is_not_there_is_no_contradiction(run: Path) -> None:
    (run / "vm0" / "rtc-change.jsonl").unlink()
    assert opinions_of_run(run) == []
    (run / "vm0" / "read-back.jsonl").write_text("")
    assert {opinion.qmp.why for opinion in opinions_of_run(run)} == {"RTC_CHANGE was not recorded"}


def test_damaged_lines_are_left_out(run: Path) -> None:
    for name in ("events.jsonl", "rtc-change.jsonl", "trace.log"):
        with (run / "vm0" / name).open("ab") as file:
            file.write(b'\xff{"kind": "object", "event": 7}\n[1]\n')
            file.write(b'{"t_ns": "x", "kind": "rtc-change", "event": {}}\n{"t_n')
    assert contradictions(opinions_of_run(run)) == []


def test_no_run_directory_is_a_configuration_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == EXIT_CONFIGURATION
    assert "not a run directory" in capsys.readouterr().err


@pytest.mark.parametrize("witness", ["trace.log", "witness.jsonl"])
def test_where_qemus_rtc_was_not_recorded_there_is_none_and_no_line_of_nothing(
    witness: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic = SyntheticRun(tmp_path)
    synthetic.update("a-000")
    synthetic.end()
    (tmp_path / "vm0" / "trace.log").rename(tmp_path / "vm0" / witness)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "none: there is no settled event beside which QEMU's RTC was recorded\n"
    assert "second opinion" not in summary(tmp_path)


def test_the_summary_of_a_run_tells_it_and_the_reasons_for_no_opinion(tmp_path: Path) -> None:
    synthetic = SyntheticRun(tmp_path)
    synthetic.end()
    records = Records(tmp_path / "vm0")
    for number in range(3):
        last = records.update(10.2 + 20 * number, BASE + number * 1000)
        records.change(last, BASE + number * 1000)
        records.event(last, BASE + number * 1000 if number else -1)
        records.read_back(13.2 + 20 * number, BASE + number * 1000 + 3)
    records.save()
    opinions_of_run(tmp_path)
    assert (
        "second opinion   2 of 3 settled events consistent by QMP, 2 by read-back\n"
        "                 no opinion on 1 (a time that QEMU's RTC cannot have 1)\n"
    ) in summary(tmp_path)
    (tmp_path / "second-opinion.json").write_text("{")
    assert "second opinion" not in summary(tmp_path)


def lines_of(run: Path) -> Lines:
    return [json.loads(line) for line in (run / "vm0" / "events.jsonl").read_text().splitlines()]
