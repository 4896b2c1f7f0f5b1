"""The hypervisor's vRTC behind a guest's ports, fed with trace lines by the test."""

from __future__ import annotations

import json
import queue
import time
from pathlib import Path

from harness.devicemodel.guest_rtc import HvGuestRtc
from harness.devicemodel.trace_worker import TraceLog
from harness.hypervisor.client import HypervisorLost, HypervisorVm
from harness.hypervisor.wire import NewVm
from harness.vm_event import SettledRtcChange, VmEventService
from tests.hypervisor_support import BASE, PATIENCE, serving

RESET = "resettable_reset obj=0xc0 cold=0"
RUNNING = "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)"
MINUTE = 0x02


def out(port: int, value: int, region: str) -> str:
    return f"memory_region_ops_write cpu 0 mr 0x55 addr {port:#x} value {value:#x} size 1 name '{region}'"


def test_what_comes_at_once_with_a_full_reset_is_on_the_ring_before_the_service_begins_anew(tmp_path: Path) -> None:
    heard: queue.SimpleQueue[SettledRtcChange] = queue.SimpleQueue()
    lost: list[HypervisorLost] = []
    log = TraceLog(tmp_path / "trace.log")
    start_ns = time.monotonic_ns()
    with serving(tmp_path / "hypervisor.sock"), VmEventService("vm0", window=0.5) as service:
        vm = HypervisorVm(tmp_path / "hypervisor.sock", NewVm("vm0", BASE, start_ns))
        rtc = HvGuestRtc(service, log, vm, lost.append)
        service.subscribe(heard.put)
        service.start()
        # given a chunk of trace lines with an update, a full reset, and an update after it
        update = [out(0x70, MINUTE, "rtc-index"), out(0x71, 0x10, "rtc"), out(0x71, 0x20, "rtc")]
        for line in (RESET, RUNNING, *update, out(0xCF9, 0x0E, "piix3-reset-control"), RESET, out(0x71, 0x30, "rtc")):
            rtc.feed(time.monotonic_ns(), line.encode())
        rtc.end_of_chunk()
        event = heard.get(timeout=PATIENCE)
        source = service.status()["sources"]["hv"]
        vm.close()
    log.close()
    # then the first update died with the former life, in which it had arrived, and the second one is told
    assert (event.raw_events, event.new_time) == (1, BASE + 30 * 60)
    assert (source["raw"], source["stale"], source["settled"]) == (3, 0, 1)
    assert heard.empty() and not lost
    records = [json.loads(line[2:])["event"] for line in (tmp_path / "trace.log").read_text().splitlines()]
    assert records == ["start", "service-restart"]


def test_a_hypervisor_that_is_gone_is_told_once_and_lines_go_on_being_taken(tmp_path: Path) -> None:
    lost: list[HypervisorLost] = []
    log = TraceLog(None)
    service = VmEventService("vm0")
    with serving(tmp_path / "hypervisor.sock"):
        vm = HypervisorVm(tmp_path / "hypervisor.sock", NewVm("vm0", BASE, 0))
        rtc = HvGuestRtc(service, log, vm, lost.append)
    for _ in range(3):
        rtc.feed(1, out(0x71, 0x10, "rtc").encode())
        rtc.end_of_chunk()
    vm.close()
    assert len(lost) == 1
