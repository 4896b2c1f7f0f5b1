"""A device model whose guest has the hypervisor's vRTC: real QEMU, real sockets and rings, ports worked by the test."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.hypervisor.client import HypervisorVm
from harness.hypervisor.wire import NewVm
from harness.vm_event import SettledRtcChange
from tests.driven_machine import BASE, SECOND, Driven, driven
from tests.hypervisor_support import await_log, hypervisor_process
from tests.test_devicemodel_process import device_model, record_of, traced, until

NEW_YEAR_2030 = 1_893_456_000
TO_NEW_YEAR = ((0x32, 0x20), (0x09, 0x30), (0x08, 0x01), (0x07, 0x01), (0x04, 0x00), (0x02, 0x00), (0x00, 0x00))
"""2030-01-01T00:00:00, the seconds last."""

MINUTE, SECONDS = 0x02, 0x00

pytestmark = pytest.mark.qemu


@pytest.fixture
def hypervisor(tmp_path: Path) -> Iterator[Path]:
    """Where a hypervisor process listens."""
    with hypervisor_process(tmp_path / "hypervisor.sock"):
        yield tmp_path / "hypervisor.sock"


def to_new_year(machine: Driven, before: int = BASE, *, writes_before: int = 0) -> SettledRtcChange:
    """The event that an update to NEW_YEAR_2030 had to give, now that it has been given.

    before: what the RTC showed at its first write, without ticks. writes_before: in the trace, before the update.
    """
    stamps = [stamp for stamp, _ in machine.accesses("rtc")[writes_before : writes_before + len(TO_NEW_YEAR)]]
    first, last = machine.ticks(stamps[0]), machine.ticks(stamps[-1])
    return SettledRtcChange(
        last_time=before + first,
        new_time=NEW_YEAR_2030,
        delta_time=NEW_YEAR_2030 - before - last,
        raw_events=len(TO_NEW_YEAR),
        source="hv",
        vm=machine.model._settings.name,
    )


def test_an_update_gives_one_settled_event_of_the_hypervisors(tmp_path: Path, hypervisor: Path) -> None:
    with driven(tmp_path / "vm0", hypervisor=hypervisor) as machine:
        machine.write(*TO_NEW_YEAR)
        event = machine.next_event()
    assert event == to_new_year(machine)
    assert machine.heard.empty()
    (start,) = machine.said("start")
    assert (start["vrtc"], start["rtc_time"], start["offset_s"], start["format"]) == ("hv", BASE, 0, 1)
    assert machine.model._service.status()["sources"]["dm"]["raw"] == 0


def test_the_set_bit_makes_no_difference(tmp_path: Path, hypervisor: Path) -> None:
    with driven(tmp_path / "vm0", hypervisor=hypervisor) as machine:
        machine.write((0x0B, 0x82), *TO_NEW_YEAR, (0x0B, 0x02))
        assert machine.next_event() == to_new_year(machine, writes_before=1)
    assert machine.heard.empty()


def test_reads_bring_the_bytes_up_to_date_and_only_those_of_the_rtc_are_in_the_log(
    tmp_path: Path, hypervisor: Path
) -> None:
    with driven(tmp_path / "vm0", hypervisor=hypervisor) as machine:
        # given a clock that has ticked at least once since its bytes were written
        machine.write((MINUTE, 0))
        first = machine.next_event()
        begun = machine.accesses("rtc")[0][0]
        while machine.ticks(begun) == machine.ticks(machine.accesses("rtc-index")[-1][0]):
            select.select([], [], [], 0.02)
            machine.out(0x70, MINUTE)
        # when a no-op is written without a read before it, and then one with it
        machine.out(0x71, 0)
        second = machine.next_event()
        machine.read(SECONDS)
        machine.write((MINUTE, 0))
        third = machine.next_event()
        machine.inp(0x61)
        machine.inp(0x71)
        until(lambda: len(machine.accesses("rtc", "read")) == 2, "second read of the RTC in the log")
    # then the one takes back the ticks since the bytes were fresh, and the other what lies between read and write
    stamps = [machine.ticks(stamp) for stamp, _ in machine.accesses("rtc")]
    (read, _), *_ = machine.accesses("rtc", "read")
    assert (first.last_time, first.delta_time) == (BASE + stamps[0], -stamps[0])
    assert (second.last_time, second.delta_time) == (BASE + stamps[1] - stamps[0], stamps[0] - stamps[1])
    assert third.delta_time == machine.ticks(read) - stamps[2]
    text = (machine.folder / "trace.log").read_text(encoding="utf-8")
    assert {line.rsplit("name ")[-1] for line in text.splitlines() if "_ops_read" in line} <= {"'rtc'", "'rtc-index'"}


def test_two_guests_of_one_hypervisor_hear_of_their_own_updates_only(tmp_path: Path, hypervisor: Path) -> None:
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(driven(tmp_path / name, name=name, hypervisor=hypervisor)) for name in ("vm0", "vm1")
        )
        one.write(*TO_NEW_YEAR)
        two.write((MINUTE, 0x15), (MINUTE, 0x30))
        assert one.next_event() == to_new_year(one)
        event = two.next_event()
        assert (event.vm, event.raw_events, event.new_time) == ("vm1", 2, BASE + 30 * 60)
        # and the end of one is not the other's
        one.model._post(None, "closed", "enough")
        assert one.await_end().reason == "closed"
        two.write((MINUTE, 0x45))
        assert two.next_event().new_time == BASE + 45 * 60
    assert one.heard.empty() and two.heard.empty()


def test_a_vm_created_again_begins_where_the_one_before_it_had_moved_its_clock(
    tmp_path: Path, hypervisor: Path
) -> None:
    with driven(tmp_path / "former", hypervisor=hypervisor) as former:
        former.write(*TO_NEW_YEAR)
        event = former.next_event()
        assert event.delta_time is not None
    with driven(tmp_path / "vm0", hypervisor=hypervisor) as machine:
        machine.read(SECONDS)
        machine.write(*TO_NEW_YEAR)
        second = machine.next_event()
    assert machine.said("start")[0]["offset_s"] == event.delta_time
    assert second == to_new_year(machine, BASE + event.delta_time)


def test_a_full_reset_takes_the_pending_update_exactly_and_leaves_clock_and_index_alone(
    tmp_path: Path, hypervisor: Path
) -> None:
    # given a machine that has run, so that its resets are told from those of its start
    with driven(tmp_path / "vm0", hypervisor=hypervisor, window=1.0) as machine:
        machine.let_run()
        # when it is fully reset within the window of an update
        machine.write(*TO_NEW_YEAR, (MINUTE, 0x10), then_out=(0xCF9, 0x0E))
        until(lambda: machine.said("service-restart"), "restart of the service")
        # and sets its clock after that, by the index that it wrote before
        machine.out(0x71, 0x20)
        event = machine.next_event()
        before, after = machine.accesses("rtc")[-2:]
        assert machine.model._service.status()["sources"]["hv"]["stale"] == 0, "all was on the ring before the restart"
    # then the only event is that of the new life, and the clock had gone on where the old one left it
    ticks = machine.ticks(after[0]) - machine.ticks(before[0])
    assert (event.last_time, event.new_time) == (NEW_YEAR_2030 + 600 + ticks, NEW_YEAR_2030 + 1200)
    assert (event.raw_events, event.lost, event.estimated) == (1, False, False)
    assert machine.heard.empty()
    (restart,) = machine.said("service-restart")
    assert before[0] < restart["stamp_ns"] < min(after[0], before[0] + SECOND)


def test_a_system_reset_takes_nothing(tmp_path: Path, hypervisor: Path) -> None:
    with driven(tmp_path / "vm0", hypervisor=hypervisor) as machine:
        machine.let_run()
        machine.write(*TO_NEW_YEAR, then_out=(0xCF9, 0x06))
        event = machine.next_event()
        assert (event.new_time, event.raw_events) == (NEW_YEAR_2030, len(TO_NEW_YEAR))
        assert not machine.said("service-restart")


def options(path: Path) -> tuple[str, ...]:
    """What a device model is told for a guest with the hypervisor's vRTC."""
    return "--vrtc", "hv", "--hypervisor", str(path)


# -- ends ----------------------------------------------------------------------------------------------------


def test_a_device_model_that_is_killed_frees_its_vm(tmp_path: Path) -> None:
    path = tmp_path / "hypervisor.sock"
    with hypervisor_process(path) as process:
        with device_model(tmp_path, *options(path)) as killed:
            until(lambda: traced(tmp_path), "trace of the firmware")
            os.kill(killed.pid, signal.SIGKILL)
            assert "vm0: ended" in await_log(process, "ended")
        with device_model(tmp_path, *options(path)) as again:
            assert "vm0: created" in await_log(process, "created")
            assert again.exit_status() is None


def test_a_hypervisor_that_is_killed_is_told_by_name_and_ends_its_guests(tmp_path: Path) -> None:
    path = tmp_path / "hypervisor.sock"
    with hypervisor_process(path) as process, device_model(tmp_path, *options(path)) as victim:
        until(lambda: traced(tmp_path), "trace of the firmware")
        process.kill()
        record = record_of(victim, tmp_path)
    assert (record.fault, record.reason) == ("infrastructure", "hypervisor-lost")
    assert record.problem.startswith("vm0: the hypervisor is lost")


def test_a_hypervisor_that_is_killed_is_told_although_the_guest_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "hypervisor.sock"
    with hypervisor_process(path) as process, driven(tmp_path / "vm0", hypervisor=path) as machine:
        process.kill()
        record = machine.await_end()
    assert (record.fault, record.reason) == ("infrastructure", "hypervisor-lost")


def test_a_hypervisor_that_hangs_is_told_by_name_as_soon_as_there_is_a_write(tmp_path: Path) -> None:
    with hypervisor_process(tmp_path / "hypervisor.sock") as process:
        with driven(tmp_path / "vm0", hypervisor=tmp_path / "hypervisor.sock") as machine:
            process.send_signal(signal.SIGSTOP)
            assert machine.model._hypervisor is not None
            machine.model._hypervisor._socket.settimeout(0.1)  # nobody here has the patience of 4 s
            machine.write((MINUTE, 0))
            record = machine.await_end()
        process.kill()
    assert (record.fault, record.reason) == ("infrastructure", "hypervisor-lost")
    assert "not answered" in record.problem
    assert machine.heard.empty()


def test_a_hypervisor_that_refuses_is_told_by_its_words(tmp_path: Path, hypervisor: Path) -> None:
    other = HypervisorVm(hypervisor, NewVm("vm0", BASE, 0))
    with device_model(tmp_path, *options(hypervisor)) as second:
        record = record_of(second, tmp_path)
    other.close()
    assert (record.fault, record.reason) == ("infrastructure", "hypervisor-lost")
    assert "there is such a VM already" in record.problem


@pytest.mark.parametrize("socket", [None, "nowhere.sock", "file"])
def test_without_a_hypervisor_the_configuration_is_wrong(tmp_path: Path, socket: str | None) -> None:
    (tmp_path / "file").touch()
    named = ("--vrtc", "hv") if socket is None else options(tmp_path / socket)
    with device_model(tmp_path, *named) as process:
        record = record_of(process, tmp_path)
    assert (record.fault, record.reason) == ("configuration", "not-started")
    assert "--hypervisor" in record.problem and (socket or "") in record.problem


def test_nothing_is_left_of_a_guest_with_the_hypervisors_vrtc(tmp_path: Path, hypervisor: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with driven(tmp_path / "vm0", hypervisor=hypervisor) as machine:
        machine.write((MINUTE, 0))
        machine.next_event()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not (tmp_path / "vm0" / "monitor.sock").exists()
