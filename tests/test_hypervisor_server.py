"""The hypervisor: accesses in, raw events with their stamps on each VM's own ring; one VM's end is only its own."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import ConfigurationError, InfrastructureError
from harness.hypervisor import wire
from harness.hypervisor.client import HypervisorLost, HypervisorVm
from harness.hypervisor.server import Hypervisor
from harness.hypervisor.wire import NewVm
from harness.vm_event import MonitorError
from harness.vm_event.abi import ELEMENT_COUNT
from tests.hypervisor_support import (
    BASE,
    PATIENCE,
    SECOND,
    START_NS,
    Machine,
    descriptors,
    gone,
    serving,
    settled_descriptors,
)

MINUTE, MINUTES_OF_BASE = 0x02, 0x00
YEAR = 0x09
TO_2030 = 189_302_400
"""Seconds from 2024-06-15 to 2030-06-15."""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where a hypervisor listens."""
    with serving(tmp_path / "hypervisor.sock"):
        yield tmp_path / "hypervisor.sock"


# -- accesses and events -------------------------------------------------------------------------------------


def test_a_write_puts_one_event_on_the_ring_with_the_stamp_of_the_access(path: Path) -> None:
    with Machine(path) as machine:
        machine.now = START_NS + 3 * SECOND + 17
        machine.write((YEAR, 0x30))
        # the clock has ticked three times, and the bytes have not been read since
        assert machine.ring() == [(0, BASE + 3, TO_2030 - 3, START_NS + 3 * SECOND + 17)]


def test_the_clock_ticks_where_whole_seconds_have_passed_since_the_creation(path: Path) -> None:
    with Machine(path) as machine:
        for now, ticks in ((SECOND - 1, 0), (SECOND, 1), (2 * SECOND - 1, 1), (2 * SECOND, 2)):
            machine.now = START_NS + now
            machine.read()
            machine.write((MINUTE, MINUTES_OF_BASE))
            assert [element[1:3] for element in machine.ring()] == [(BASE + ticks, 0)]


def test_a_read_brings_the_bytes_up_to_date_and_without_one_a_no_op_takes_the_seconds_back(path: Path) -> None:
    with Machine(path) as machine:
        machine.now += 5 * SECOND
        machine.write((MINUTE, MINUTES_OF_BASE))
        machine.now += 5 * SECOND
        machine.read()
        machine.write((MINUTE, MINUTES_OF_BASE))
        assert [element[1:3] for element in machine.ring()] == [(BASE + 5, -5), (BASE + 5, 0)]


def test_the_accesses_of_a_message_keep_their_order_and_each_its_stamp(path: Path) -> None:
    with Machine(path) as machine:
        for number in range(60):
            machine.vm.read(START_NS + number * SECOND, 0)
            machine.vm.write(START_NS + number * SECOND, MINUTE, 0)
        machine.vm.send()
        expected = [(BASE + number, 0, START_NS + number * SECOND) for number in range(60)]
        assert [element[1:] for element in machine.ring()] == expected


def test_more_accesses_than_fit_into_a_message_go_in_several(path: Path) -> None:
    with Machine(path) as machine:
        for _ in range(3 * wire.MOST_ACCESSES):
            machine.vm.read(START_NS, 0)
        machine.vm.write(START_NS, MINUTE, 1)
        machine.vm.send()
        assert len(machine.ring()) == 1


def test_a_stamp_that_goes_back_counts_as_the_one_before_it(path: Path) -> None:
    with Machine(path) as machine:
        machine.vm.write(START_NS + 2 * SECOND, MINUTE, 0)
        machine.vm.write(START_NS + SECOND, MINUTE, 0)
        machine.vm.send()
        assert {element[3] for element in machine.ring()} == {START_NS + 2 * SECOND}


def test_a_full_ring_refuses_the_newest_and_counts_it_and_the_vm_lives_on(path: Path) -> None:
    room = ELEMENT_COUNT - 1
    with Machine(path) as machine:
        machine.write(*[(MINUTE, 0)] * (room + 5))
        assert len(machine.ring()) == room
        assert machine._reader.take_overrun() == 5
        machine.write((MINUTE, 0))
        assert len(machine.ring()) == 1


def test_two_vms_have_their_own_clocks_and_rings(path: Path) -> None:
    with Machine(path, "vm0") as one, Machine(path, "vm1", rtc_time=BASE + 86_400) as other:
        one.write((YEAR, 0x30))
        other.write((MINUTE, 0))
        assert [element[1:3] for element in one.ring()] == [(BASE, TO_2030)]
        assert [element[1:3] for element in other.ring()] == [(BASE + 86_400, 0)]


# -- slots ---------------------------------------------------------------------------------------------------


def test_a_vm_created_again_inherits_the_offset_of_the_one_before_it(path: Path) -> None:
    with Machine(path) as former:
        former.write((YEAR, 0x30))
    with Machine(path, start_ns=START_NS + 100 * SECOND) as machine:
        assert machine.vm.offset == TO_2030
        machine.write((MINUTE, 0))
        # its bytes are those of the base, as in ACRN: the first write goes back to them
        assert [element[1:3] for element in machine.ring()] == [(BASE + TO_2030, -TO_2030)]
    with Machine(path, "vm1") as another:
        assert another.vm.offset == 0


def test_the_last_words_of_a_vm_that_died_count_for_the_next_one(path: Path) -> None:
    for number in range(20):
        former = Machine(path, f"vm{number}")
        former.vm.write(START_NS, YEAR, 0x30)
        former.vm._written = False  # as one that is killed before it has waited for the answer
        former.vm.send()
        former.close()
        with Machine(path, f"vm{number}") as machine:
            assert machine.vm.offset == TO_2030


def test_a_second_vm_of_the_same_name_is_refused_and_the_first_goes_on(path: Path) -> None:
    with Machine(path) as machine:
        with pytest.raises(HypervisorLost, match="there is such a VM already"):
            HypervisorVm(path, NewVm("vm0", BASE, START_NS))
        machine.write((MINUTE, 0))
        assert len(machine.ring()) == 1


def test_nothing_is_left_of_vms_that_came_and_went(path: Path) -> None:
    with Machine(path) as machine:
        before = settled_descriptors(machine)
        for number in range(20):
            with Machine(path, f"vm{number % 3}x"):
                pass
        with Machine(path, "vm2x"):
            pass  # its predecessor has been put away by now, and so have those before that one
        assert settled_descriptors(machine) == before


# -- the socket ----------------------------------------------------------------------------------------------


def test_the_socket_is_its_owners_only_and_goes_with_the_hypervisor(tmp_path: Path) -> None:
    path = tmp_path / "hypervisor.sock"
    before = descriptors()
    with serving(path):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(MonitorError, match="listening there"):
            Hypervisor(path)
    assert not path.exists()
    assert descriptors() == before


def test_a_socket_in_a_deep_directory_works(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    with serving(folder / "hypervisor.sock"), Machine(folder / "hypervisor.sock") as machine:
        machine.write((MINUTE, 0))
        assert len(machine.ring()) == 1


@pytest.mark.parametrize("kind", ["missing", "file", "stream", "dead"])
def test_without_a_hypervisor_there_the_configuration_is_wrong(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if kind == "dead" else socket.SOCK_STREAM) as other:
        if kind in {"stream", "dead"}:
            other.bind(str(path))
        if kind == "stream":
            other.listen()
        elif kind == "file":
            path.write_text("not a socket")
        before = descriptors()
        with pytest.raises(ConfigurationError, match=str(path)):
            HypervisorVm(path, NewVm("vm0", BASE, START_NS))
        assert descriptors() == before


def test_another_server_than_a_hypervisor_is_told_by_what_it_said(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(str(tmp_path / "socket"))
        other.listen()

        def greet() -> None:
            accepted, _ = other.accept()
            with accepted:
                accepted.recv(4096)
                accepted.send(b"hello")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(InfrastructureError, match="hello"):
            HypervisorVm(tmp_path / "socket", NewVm("vm0", BASE, START_NS))
        thread.join(PATIENCE)


def test_the_end_of_the_hypervisor_is_seen_at_once_by_whoever_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "hypervisor.sock"
    with serving(path):
        machine = Machine(path)
        assert not select.select([machine.vm], [], [], 0)[0]
    with machine:
        assert gone(machine)
        assert "ended" in machine.vm.why_it_went().problem
        with pytest.raises(HypervisorLost):
            machine.write((MINUTE, 0))
