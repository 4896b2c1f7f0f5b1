"""The service with rings that other processes fill: settled apart from its own, and never brought down by one."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from harness.vm_event import RingError, RtcChange, ServiceError, SharedRing, VmEventService
from harness.vm_event.abi import ELEMENT
from tests.vm_event_support import INSTANT, NOON, Heard, eventually, nothing_left_open

ROOT = Path(__file__).parent.parent


PRODUCER = """
import os, sys, time
from harness.vm_event import Tunnel
tunnel = Tunnel.attach(int(sys.argv[1]), int(sys.argv[2]))
for number in range(7):
    assert tunnel.put(0, 1718452800 + number * 60, 60)
"""


@pytest.mark.parametrize("stamped", [True, False])
def test_a_ring_filled_by_another_process_settles_as_its_own_source(path: Path, stamped: bool) -> None:
    kick = os.eventfd(0)
    with (
        nothing_left_open(),
        SharedRing.create(shared=True) as ring,
        VmEventService("vm0", window=0.2) as service,
    ):
        assert ring.descriptor is not None
        service.add_ring("hv", ring.descriptor, kick, stamped=stamped)
        with pytest.raises(ServiceError, match="already"):
            service.add_ring("dm", ring.descriptor, kick)
        heard = Heard(service)
        service.start(path)
        descriptors = (ring.descriptor, kick)
        subprocess.run(
            [sys.executable, "-c", PRODUCER, *map(str, descriptors)],
            pass_fds=descriptors,
            cwd=ROOT,
            check=True,
            timeout=60,
        )
        raw = 0
        while raw < 7:  # on a machine that stalls the producer, unstamped elements may settle apart
            event = heard.next()
            assert (event.source, event.vm, event.overrun) == ("hv", "vm0", 0)
            assert event.raw_events is not None
            raw += event.raw_events
        assert event.new_time == NOON + 420
        assert service.status()["sources"]["hv"]["raw"] == 7
        assert service.status()["sources"]["dm"]["raw"] == 0
    os.close(kick)


def test_elements_without_a_kick_are_found_when_an_update_is_due() -> None:
    kick = os.eventfd(0)
    with SharedRing.create(shared=True) as ring, VmEventService(window=0.2, dm=False) as service:
        assert ring.descriptor is not None
        service.add_ring("hv", ring.descriptor, kick)
        heard = Heard(service)
        service.start()
        ring.put(ELEMENT.pack(0, NOON, 5, 0))
        os.eventfd_write(kick, 1)
        eventually(lambda: service.status()["raw"] == 1, "the first element")
        ring.put(ELEMENT.pack(0, NOON + 5, 7, 0))
        event = heard.next()
        assert (event.delta_time, event.raw_events) == (12, 2), "nobody knows when it was put: before the end, perhaps"
    os.close(kick)


def test_a_source_that_is_attacked_is_disabled_and_the_other_goes_on() -> None:
    kick = os.eventfd(0)
    with (
        nothing_left_open(),
        SharedRing.create(shared=True) as ring,
        VmEventService(window=INSTANT) as service,
    ):
        assert ring.descriptor is not None
        service.add_ring("hv", ring.descriptor, kick)
        heard = Heard(service)
        service.start()
        ring.put(ELEMENT.pack(0, NOON, 5, 0))
        os.eventfd_write(kick, 1)
        assert heard.next().source == "hv"
        os.pwrite(ring.descriptor, struct.pack("<Q", 0), 0)
        os.eventfd_write(kick, 1)
        eventually(lambda: service.status()["sources"]["hv"]["error"], "the damage to be noticed")
        assert "magic" in service.status()["sources"]["hv"]["error"]
        service.send(RtcChange(NOON, 7))
        assert heard.next().source == "dm"
        assert service.running
        service.stop()
        with pytest.raises(RingError, match="magic"):
            service.start()
    os.close(kick)
