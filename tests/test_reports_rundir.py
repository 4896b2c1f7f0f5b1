"""Reading a run directory: whole, unfinished, damaged, or none at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import ConfigurationError, InfrastructureError
from reports.rundir import open_run
from reports.slices import arrival_of, lines_between
from tests.synthetic_run import BOOT, SyntheticRun


@pytest.fixture
def run(tmp_path: Path) -> SyntheticRun:
    return SyntheticRun(tmp_path / "run", guests=("vm0", "vm1"))


def test_a_whole_run_reads_without_problems(run: SyntheticRun) -> None:
    run.update("a-000", vm="vm1", number=1)
    run.update("a-001", vm="vm0", number=0)
    run.end()

    read = open_run(run.path)

    assert [(v.vm, v.item) for v in read.verdicts()] == [("vm0", "a-001"), ("vm1", "a-000")]
    assert (read.seed, read.bench, read.finished, read.problems) == ("42", "qemu-only", True, [])


def test_a_later_revision_replaces_the_earlier_one_wherever_it_stands(run: SyntheticRun) -> None:
    run.update("a-000", verdict="inconclusive", revision=2)
    run.update("a-000", verdict="pass", revision=1)

    assert [v.verdict for v in open_run(run.path).verdicts()] == ["inconclusive"]


def test_an_unfinished_last_line_is_not_a_problem_while_the_run_goes_on(run: SyntheticRun) -> None:
    run.update("a-000")
    run.append("vm0", "verdicts.jsonl", '{"item":"a-001","verd')

    read = open_run(run.path)

    assert [v.item for v in read.verdicts()] == ["a-000"]
    assert read.problems == []


def test_damaged_lines_are_named_and_the_rest_is_read(run: SyntheticRun) -> None:
    run.update("a-000", number=0)
    run.append("vm0", "verdicts.jsonl", "\x00\x1b[2J rubbish\n[1, 2]\n" + "[" * 100_000 + "\n")
    run.update("a-001", number=1)

    read = open_run(run.path)

    assert [v.item for v in read.verdicts()] == ["a-000", "a-001"]
    assert [problem.split(": not a")[0][-2:] for problem in read.problems] == [":2", ":3", ":4"]
    assert "\x1b" not in "".join(read.problems)


def test_fields_of_wrong_types_read_as_empty(run: SyntheticRun) -> None:
    odd: dict[str, object] = {"item": 7, "verdict": None, "order": "x", "expected": [3, {"due_ns": "x"}]}
    odd |= {
        "seen": [{"event": 1}],
        "writes": [[1], "no", [1, 2, 3]],
        "latency_ms": "fast",
        "faults": 5,
        "decided_ns": True,
    }
    run.append("vm0", "verdicts.jsonl", json.dumps(odd) + "\n")

    (verdict,) = open_run(run.path).verdicts()

    assert (verdict.item, verdict.order, verdict.latency_ms, verdict.faults) == ("7", (2,), None, ())
    assert [(w.index, w.value, w.announced) for w in verdict.writes] == [(2, 3, False)]
    assert verdict.expected[0].due_ns is None


def test_a_damaged_run_json_loses_no_verdicts(run: SyntheticRun) -> None:
    run.update("a-000")
    (run.path / "run.json").write_text('{"seed": 4')

    read = open_run(run.path)

    assert [v.item for v in read.verdicts()] == ["a-000"]
    assert "run.json: damaged" in read.problems[0]
    assert read.seed == "?"


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_no_run_directory_is_a_configuration_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "file":
        path.write_text("")
    elif kind == "empty":
        path.mkdir()

    with pytest.raises(ConfigurationError, match=str(path)):
        open_run(path)


def test_the_error_names_the_runs_that_were_kept(run: SyntheticRun) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_run(run.path.parent / "rum")

    assert str(run.path) in str(caught.value)


def test_an_unreadable_run_is_an_infrastructure_error(run: SyntheticRun) -> None:
    (run.path / "run.json").unlink()
    (run.path / "run.json").symlink_to("run.json")

    with pytest.raises(InfrastructureError, match="cannot read the run directory"):
        open_run(run.path)


def test_finding_an_item_that_is_not_there_names_what_resembles_it(run: SyntheticRun) -> None:
    run.update("a-000", vm="vm0")
    run.update("a-000", vm="vm1")
    run.update("halted-001", vm="vm1")
    read = open_run(run.path)

    assert read.find("vm1/a-000").vm == "vm1"
    with pytest.raises(ConfigurationError, match="vm0/a-000, vm1/a-000"):
        read.find("a-000")
    with pytest.raises(ConfigurationError, match="items of this run: halted-001"):
        read.find("HALTED")


def test_the_raw_records_of_one_update_are_its_own_and_untouched(run: SyntheticRun) -> None:
    for number in range(20):
        run.update(f"a-{number:03d}", number=number)
    read = open_run(run.path)
    verdict = read.find("a-007")

    trace = read.trace_lines(verdict)

    stamps = {int(line.split()[1]) for line in trace}
    assert stamps == {write.stamp_ns for write in verdict.writes}
    assert len(trace) == 14
    assert set(trace) <= set((run.path / "vm0" / "trace.log").read_text().splitlines())
    assert json.loads(read.event_lines(verdict)[0])["event"] == verdict.seen[0].event
    assert "item: a-007" in read.plan_text(verdict)
    assert "a-008" not in read.plan_text(verdict)


@pytest.mark.parametrize("wanted", range(0, 60, 7))
def test_bisection_finds_what_a_plain_reading_finds(tmp_path: Path, wanted: int) -> None:
    path = tmp_path / "trace.log"
    lines = ['# {"event":"start","stamp_ns":0}']
    lines += [
        f"{10 * (i // 3)} {i} line {i}" + "x" * (i % 5) if i % 4 else f"garbage {i}" for i in range(1, 18)
    ]
    path.write_text("\n".join(lines) + "\n9")

    found = lines_between(path, arrival_of, wanted, wanted + 20)

    keys = [arrival_of(line.encode()) for line in lines]
    inside = [
        line
        for line, key in zip(lines, keys, strict=True)
        if key is not None and wanted <= key <= wanted + 20
    ]
    assert [line for line in found if not line.startswith("garbage")] == inside


def test_an_update_without_records_has_no_lines(run: SyntheticRun) -> None:
    run.append("vm0", "verdicts.jsonl", '{"item":"a-000","verdict":"inconclusive"}\n')
    read = open_run(run.path)
    verdict = read.find("a-000")

    assert (read.trace_lines(verdict), read.event_lines(verdict), read.plan_text(verdict)) == ([], [], "")


def test_wall_clock_follows_the_mapping_of_the_run(run: SyntheticRun) -> None:
    assert open_run(run.path).wall_ns(BOOT + 5) == 1_795_000_000_000_000_005
