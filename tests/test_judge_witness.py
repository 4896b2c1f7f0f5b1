"""The trace log as the judge reads it: complete lines only, pairs of index and data, resets, stamps."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judge.tail import LineTail
from harness.judge.witness import Access, ClockStep, Ended, Problem, Record, Started, SystemReset, WitnessParser
from tests.judge_run import MS, RTC0, SECOND, T0, RunWriter


def records(run: RunWriter) -> list[Record]:
    parser, found = WitnessParser(), []
    with LineTail(run.dir / "trace.log") as tail:
        for line in tail.read():
            found += parser.feed(line)
    return found


def accesses(run: RunWriter) -> list[tuple[int, int]]:
    return [(record.register, record.value) for record in records(run) if isinstance(record, Access)]


def test_a_line_being_written_is_not_read_until_it_is_whole(tmp_path: Path) -> None:
    tail = LineTail(tmp_path / "log")
    assert tail.read() == []
    with tail:
        (tmp_path / "log").write_bytes(b"one\ntw")
        assert (tail.read(), tail.unfinished) == (["one"], "tw")
        with (tmp_path / "log").open("ab") as log:
            log.write(b"o\nthr\xff")
        assert tail.read() == ["two"]
        with (tmp_path / "log").open("ab") as log:
            log.write(b"ee\n")
        assert tail.read() == ["thr\ufffdee"]
        assert tail.read() == []


def test_the_index_is_that_of_the_last_index_write_without_the_nmi_bit(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.start()
    run.port(T0 + 1, 0x71, 0x11)
    run.port(T0 + 2, 0x70, 0x84)
    run.port(T0 + 3, 0x71, 0x13)
    run.port(T0 + 4, 0x71, 0x14)
    assert accesses(run) == [(0x0D, 0x11), (0x04, 0x13), (0x04, 0x14)]


def test_other_regions_sizes_and_events_are_passed_over(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.start()
    run.trace(T0 + 1, "memory_region_ops_write cpu 0 mr 0x1 addr 0x71 value 0x2 size 1 name 'serial'")
    run.trace(T0 + 1, "memory_region_ops_write cpu 0 mr 0x1 addr 0x70 value 0x1104 size 2 name 'rtc-index'")
    run.trace(T0 + 1, "something_else entirely")
    run.write(T0 + 2, 0x02, 0x30)
    assert accesses(run) == [(0x02, 0x30)]


def test_reads_are_told_from_writes(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.start()
    run.port(T0 + 1, 0x70, 0x8C)
    run.trace(T0 + 2, "memory_region_ops_read cpu 0 mr 0x1 addr 0x71 value 0x40 size 1 name 'rtc'")
    (read,) = (record for record in records(run) if isinstance(record, Access))
    assert (read.register, read.value, read.is_read) == (0x0C, 0x40, True)


def test_only_the_system_reset_of_the_whole_machine_resets(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.start()
    run.trace(T0 + 1, "resettable_reset obj=0xaaa cold=1")
    run.trace(T0 + 2, "resettable_reset obj=0xbbb cold=1")
    run.trace(T0 + 3, "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)")
    run.trace(T0 + 4, "resettable_reset obj=0xaaa cold=1")
    run.port(T0 + 4, 0x70, 0x04)
    run.trace(T0 + 5, "resettable_reset obj=0xbbb cold=0")
    run.port(T0 + 6, 0x71, 0x55)
    assert [record for record in records(run) if isinstance(record, SystemReset)] == [SystemReset(T0 + 5)]
    assert accesses(run) == [(0x0D, 0x55)]


def test_the_device_models_own_records(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.start(T0, 77)
    run.record("clock-step", T0 + 1, by_ns=5)
    run.record("something-new", T0 + 2)
    run.record("end", T0 + 3, reason="QEMU died")
    assert records(run) == [
        Started(T0, 77, "dm", "vm0", SECOND),
        ClockStep(T0 + 1),
        Ended(T0 + 3, "QEMU died"),
    ]


def test_a_hypervisors_index_register_begins_at_0_and_no_reset_touches_it(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.start(vrtc="hv", offset_s=-7)
    run.port(T0 + 1, 0x71, 0x11)
    run.port(T0 + 2, 0x70, 0x84)
    run.trace(T0 + 3, "resettable_reset obj=0xbbb cold=1")
    run.trace(T0 + 4, "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)")
    run.trace(T0 + 5, "resettable_reset obj=0xbbb cold=0")
    run.port(T0 + 6, 0x71, 0x12)
    run.record("service-restart", T0 + 7)
    run.port(T0 + 8, 0x71, 0x13)
    assert records(run)[0] == Started(T0, RTC0, "hv", "vm0", SECOND, -7)
    assert accesses(run) == [(0x00, 0x11), (0x04, 0x12), (0x04, 0x13)]


def test_a_second_device_model_has_resets_of_its_own(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    for obj in ("0xbbb", "0xccc"):
        run.start()
        run.trace(T0 + 2, f"resettable_reset obj={obj} cold=1")
        run.trace(T0 + 3, "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)")
    run.trace(T0 + 4, "resettable_reset obj=0xbbb cold=0")
    run.trace(T0 + 5, "resettable_reset obj=0xccc cold=0")
    assert [record for record in records(run) if isinstance(record, SystemReset)] == [SystemReset(T0 + 5)]


@pytest.mark.parametrize("prefix", ["7214@1795530423.390194:", "2026-11-24T14:29:36.925420Z ", ""])
def test_every_qemus_lines_are_read(tmp_path: Path, prefix: str) -> None:
    run = RunWriter(tmp_path)
    run.start()
    for address, value, name in ((0x70, 0x84, "rtc-index"), (0x71, 0x13, "rtc")):
        text = f"memory_region_ops_write cpu -1 mr 0x5 addr {address:#x} value {value:#x} size 1 name '{name}'"
        run.append("trace.log", f"{T0 + 2} {T0 + 1} {prefix}{text}\n")
    run.append("trace.log", f"{T0 + 4} {T0 + 3} {prefix}resettable_reset obj=0xbbb cold=1\n")
    run.append("trace.log", f"{T0 + 5} {T0 + 4} {prefix}runstate_set current_run_state 6 new_state 9 (running)\n")
    run.append("trace.log", f"{T0 + 6} {T0 + 5} {prefix}resettable_reset obj=0xbbb cold=0\n")
    assert accesses(run) == [(0x04, 0x13)]
    assert [type(record) for record in records(run)] == [Started, Access, SystemReset]


def test_lines_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.start()
    run.append("trace.log", 'rubbish\n# {not json\n# {"event":"start"}\n1 2 x: addr 0x71 name \'rtc\'\n')
    problems = [record for record in records(run) if isinstance(record, Problem)]
    assert [problem.text.split(":")[0] for problem in problems] == [f"trace.log line {n}" for n in (2, 3, 4, 5)]


@pytest.mark.parametrize("iso_stamps", [False, True], ids=["QEMU 7.2 to 10", "QEMU 11.1"])
def test_stamps_that_move_otherwise_than_qemus_clock_are_suspect(tmp_path: Path, iso_stamps: bool) -> None:
    run = RunWriter(tmp_path, iso_stamps=iso_stamps)
    run.start()
    run.port(T0, 0x70, 0x80, wall_ns=50 * SECOND)
    run.port(T0 + SECOND, 0x71, 0x30, wall_ns=51 * SECOND + 49 * MS)
    run.port(T0 + 2 * SECOND, 0x71, 0x31, wall_ns=52 * SECOND + 100 * MS)
    (problem,) = (record for record in records(run) if isinstance(record, Problem))
    assert problem.suspected
    assert "moved by 1.000 s while QEMU's clock moved by 1.051 s" in problem.text


def test_a_recorded_step_begins_the_comparison_anew(tmp_path: Path) -> None:
    run = RunWriter(tmp_path)
    run.start()
    run.port(T0, 0x70, 0x80, wall_ns=50 * SECOND)
    run.record("clock-step", T0 + 1, by_ns=-SECOND)
    run.port(T0 + SECOND, 0x71, 0x30, wall_ns=9 * SECOND)
    assert not [record for record in records(run) if isinstance(record, Problem)]
