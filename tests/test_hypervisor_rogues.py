"""Device models that misbehave towards the hypervisor: each loses its own VM, and no other notices."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.hypervisor import wire
from harness.hypervisor.client import HypervisorLost
from harness.hypervisor.wire import NewVm
from harness.vm_event import SharedRing
from harness.vm_event.sockets import connect
from tests.hypervisor_support import BASE, PATIENCE, START_NS, Machine, gone, serving, settled_descriptors

MINUTE = 0x02

CREATE = wire.create_message(NewVm("rogue", BASE, START_NS))


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where a hypervisor listens."""
    with serving(tmp_path / "hypervisor.sock"):
        yield tmp_path / "hypervisor.sock"


class Rogue:
    """A device model without manners, and all it needs for having some."""

    def __init__(self, path: Path) -> None:
        self.connection = connect(path, kind=socket.SOCK_SEQPACKET)
        self.connection.settimeout(PATIENCE)
        self._ring = SharedRing.create(shared=True)
        self._kick = os.eventfd(0)
        self._others = [os.open("/dev/null", os.O_RDWR), os.memfd_create("short"), self._without_magic()]

    @property
    def good(self) -> list[int]:
        """A ring and its kick."""
        assert self._ring.descriptor is not None
        return [self._ring.descriptor, self._kick]

    def bad(self, case: str) -> list[int]:
        ring, kick = self.good
        null, short, damaged = self._others
        return {
            "none": [],
            "one": [ring],
            "three": [ring, kick, kick],
            "swapped": [kick, ring],
            "no memfd": [null, kick],
            "no eventfd": [ring, null],
            "magic": [damaged, kick],
            "short": [short, kick],
            "many": [kick] * 200,
        }[case]

    def send(self, message: bytes, attached: list[int]) -> None:
        if attached:
            socket.send_fds(self.connection, [message], attached)
        else:
            self.connection.send(message)

    def answer(self) -> bytes:
        try:
            return self.connection.recv(65536)
        except ConnectionResetError:  # it closed with messages of ours unread; what it said comes after that
            return self.connection.recv(65536)

    def __enter__(self) -> Rogue:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self._ring.close()
        for descriptor in (self._kick, *self._others):
            os.close(descriptor)

    @staticmethod
    def _without_magic() -> int:
        descriptor = os.memfd_create("ring", os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, 4096)
        return descriptor


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ([], b"?"),
        ([], b"C"),
        ([], b"C[]"),
        ([], b"C" + b"[" * 40_000),
        ([], b'C{"name":"","rtc_time":0,"stamp_ns":0}'),
        ([], b'C{"name":"a\\nb","rtc_time":0,"stamp_ns":0}'),
        ([], b'C{"name":7,"rtc_time":0,"stamp_ns":0}'),
        ([], b'C{"name":"' + b"x" * 300 + b'","rtc_time":0,"stamp_ns":0}'),
        ([], b'C{"name":"rogue","rtc_time":"0","stamp_ns":0}'),
        ([], b'C{"name":"rogue","rtc_time":0,"stamp_ns":1e99}'),
        ([], b'C{"name":"rogue","rtc_time":1' + b"0" * 30 + b',"stamp_ns":0}'),
        ([], b'C{"name":"rogue","rtc_time":9000000000000000000,"stamp_ns":0}'),
        ([], CREATE),
        ([], wire.SYNC),
        ([], wire.ACCESSES + wire.ACCESS.pack(0, 0, 0, 1)),
        ([], b"\xff" * wire.LONGEST),
        ([], b"\xff" * (wire.LONGEST + 1)),
        ([], b"A" * (wire.LONGEST + 5000)),
        ([CREATE], b"?"),
        ([CREATE], CREATE),
        ([CREATE], wire.create_message(NewVm("rogue2", BASE, START_NS))),
        ([CREATE], wire.ACCESSES + b"x"),
        ([CREATE], wire.ACCESSES + wire.ACCESS.pack(0, 0x80, 0, 1)),
        ([CREATE], wire.ACCESSES + wire.ACCESS.pack(0, 0xFF, 0, 0)),
    ],
)
def test_a_device_model_that_sends_rubbish_loses_its_vm_and_no_other_notices(
    path: Path, before: list[bytes], message: bytes
) -> None:
    with Machine(path) as machine, Rogue(path) as rogue:
        for earlier in before:
            rogue.send(earlier, rogue.good)
            assert rogue.answer() == wire.created_message(0)
        # the good descriptors come along with everything: what matters is the message
        rogue.send(message, rogue.good if before else [])
        assert rogue.answer()[:1] == wire.REFUSED
        assert rogue.answer() == b""
        machine.write((MINUTE, 0))
        assert len(machine.ring()) == 1
        # and the slot is free
        with Machine(path, "rogue"):
            pass


@pytest.mark.parametrize(
    "case", ["none", "one", "three", "swapped", "no memfd", "no eventfd", "magic", "short", "many"]
)
def test_descriptors_that_are_no_ring_and_kick_are_refused_and_closed(path: Path, case: str) -> None:
    with Machine(path) as machine:
        before = settled_descriptors(machine)
        with Rogue(path) as rogue:
            rogue.send(CREATE, rogue.bad(case))
            assert rogue.answer()[:1] == wire.REFUSED
            assert rogue.answer() == b"", "the connection is closed"
        assert settled_descriptors(machine) == before
        machine.write((MINUTE, 0))
        assert len(machine.ring()) == 1


def test_descriptors_that_nobody_asked_for_are_closed(path: Path) -> None:
    with Machine(path) as machine, Rogue(path) as rogue:
        rogue.send(CREATE, rogue.good)
        rogue.answer()
        before = settled_descriptors(machine)
        for _ in range(10):
            rogue.send(wire.SYNC, rogue.good)
            assert rogue.answer() == wire.SYNC
        assert settled_descriptors(machine) == before


def test_a_service_that_damages_its_ring_loses_its_vm_only(path: Path) -> None:
    with Machine(path) as machine, Machine(path, "vm1") as broken:
        broken._reader._ring._words[4] = 12345
        with pytest.raises(HypervisorLost, match="head 12345"):
            broken.write((MINUTE, 0))
        assert gone(broken) and "head 12345" in str(broken.vm.why_it_went())
        machine.write((MINUTE, 0))
        assert len(machine.ring()) == 1


def test_a_client_that_asks_and_never_listens_is_dropped(path: Path) -> None:
    with Machine(path) as machine, Rogue(path) as rogue:
        rogue.send(CREATE, rogue.good)
        with pytest.raises(OSError):
            while True:
                rogue.send(wire.SYNC + b"x" * 40_000, [])
        machine.write((MINUTE, 0))
        assert len(machine.ring()) == 1


def test_one_that_floods_does_not_keep_the_others_waiting(path: Path) -> None:
    # given a device model whose messages are always there
    with Machine(path) as machine, Rogue(path) as rogue:
        rogue.send(CREATE, rogue.good)
        rogue.answer()
        rogue.connection.setblocking(False)
        flood = wire.ACCESSES + wire.ACCESS.pack(START_NS, 0, 0, 0) * 500
        for _ in range(5):
            for _ in range(200):
                try:
                    rogue.connection.send(flood)
                except BlockingIOError:
                    break
            # when another asks, it has its turn
            machine.write((MINUTE, 0))
            assert len(machine.ring()) == 1
