"""64 VMs in one process: each is told its own, and while nothing happens nothing runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness.vm_event import RtcChange, SettledRtcChange, SharedRing, Tunnel, VmEventService
from tests.vm_event_support import NOON, PATIENCE, Client, eventually, nothing_left_open, open_descriptors

COUNT = 64


class Vm:
    """A VM with both tunnels and a client."""

    def __init__(self, number: int, folder: Path, opened: ExitStack) -> None:
        self.number = number
        self.name = f"vm{number}"
        kick = os.eventfd(0, os.EFD_CLOEXEC)
        opened.callback(os.close, kick)
        ring = opened.enter_context(SharedRing.create(shared=True))
        assert ring.descriptor is not None
        self.service = opened.enter_context(VmEventService(self.name, window=0.01))
        self.service.add_ring("hv", ring.descriptor, kick, stamped=True)
        self.events = self.service.events()
        before = len(open_descriptors())
        self.service.start(folder / self.name)
        self.descriptors = len(open_descriptors()) - before
        self.tunnel = Tunnel.attach(ring.descriptor, kick)
        opened.callback(self.tunnel.close)
        self.client = opened.enter_context(Client(folder / self.name))
        assert self.client.register() == {"ack": 0}


@pytest.fixture
def vms(tmp_path: Path) -> Iterator[list[Vm]]:
    with nothing_left_open(), ExitStack() as opened:
        yield [Vm(number, tmp_path, opened) for number in range(COUNT)]


def test_each_of_64_vms_is_told_its_own_and_sleeps_when_idle(vms: list[Vm]) -> None:
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("vm_event-vm")]
    assert len(threads) == COUNT, "one for each VM, whatever its sources and clients"
    assert max(vm.descriptors for vm in vms) <= 16
    for vm in vms:
        stamp = time.monotonic_ns()
        for step in range(7):
            assert vm.service.send(RtcChange(NOON + step * vm.number, vm.number), stamp_ns=stamp)
            assert vm.tunnel.put(0, NOON - step * vm.number, -vm.number, stamp)
    for vm in vms:
        told: list[dict[str, Any]] = []
        while sum(event["raw_events"] for event in told) < 14:  # a stalled sender makes several updates of it
            told.append(vm.client.receive())
        assert {event["vm"] for event in told} == {vm.name}
        for source, delta in (("dm", 7 * vm.number), ("hv", -7 * vm.number)):
            assert sum(event["delta_time"] for event in told if event["source"] == source) == delta
        assert [vm.events.take(PATIENCE) for _ in told] == [
            SettledRtcChange(**{name: value for name, value in event.items() if name != "vm_event"}) for event in told
        ]
        status = vm.service.status()
        assert (status["raw"], status["settled"], status["lost"]) == (14, len(told), 0)
    ids = [thread.native_id for thread in threads]

    def all_sleep_on() -> bool:
        before = wake_ups(ids)
        threading.Event().wait(0.3)
        return wake_ups(ids) == before

    eventually(all_sleep_on, "a while in which nothing happens and nobody wakes up")


def wake_ups(ids: list[int | None]) -> int:
    """How often these threads have gone to sleep so far."""
    total = 0
    for number in ids:
        status = Path(f"/proc/self/task/{number}/status").read_text(encoding="ascii")
        total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary_ctxt"))
    return total
