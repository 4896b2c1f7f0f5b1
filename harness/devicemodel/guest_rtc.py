"""What is behind a guest's RTC ports: the device model's vRTC in this process, or the hypervisor's in another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from harness.devicemodel.acrn_sums import AcrnSums
from harness.devicemodel.rtc_port import RtcPort
from harness.devicemodel.trace_worker import TraceLog
from harness.hypervisor.client import HypervisorLost, HypervisorVm
from harness.vm_event import RtcChange, VmEventService
from harness.vrtc import DmVrtc
from harness.vrtc.registers import REGISTER_A, REGISTER_B

HV = "hv"
"""The source of the hypervisor's events."""


class GuestRtc(Protocol):
    """A vRTC fed with the lines of a guest's trace, by one thread."""

    def feed(self, stamp_ns: int, line: bytes) -> None:
        """Take one trace line with its monotonic stamp."""

    def end_of_chunk(self) -> None:
        """For the moment no more lines have come."""


class DmGuestRtc:
    """ACRN's device-model vRTC, source "dm". A reset of the guest sets it back to the host's time, which went on.

    A full reset starts the service anew as well.
    """

    def __init__(
        self,
        service: VmEventService,
        log: TraceLog,
        rtc_time: int,
        started_ns: int,
        registers: Sequence[int] | None = None,
        sums: AcrnSums | None = None,
    ) -> None:
        """Its clock shows `rtc_time` at `started_ns`. Says so to the service, and in the log.

        registers: what A and B hold then, of a guest that has been at them in an earlier life. sums: gets the raw
        events, too.
        """
        self._sums = sums
        self._service = service
        self._log = log
        self._rtc_time = rtc_time
        self._started_ns = self._stamp_ns = started_ns
        self._vrtc = DmVrtc(self._send, rtc_time, lambda: self._stamp_ns, per_second=10**9)
        self._port = RtcPort(self._vrtc, self._machine_reset)
        held = {} if registers is None else dict(zip(("register_a", "register_b"), registers, strict=True))
        for register, value in zip((REGISTER_A, REGISTER_B), held.values(), strict=False):
            self._vrtc.write(register, value)
        _log_start(log, service, started_ns, vrtc="dm", rtc_time=rtc_time, **held)
        service.set_rtc(rtc_time, stamp_ns=started_ns)

    def feed(self, stamp_ns: int, line: bytes) -> None:
        """See GuestRtc."""
        self._stamp_ns = stamp_ns
        self._port.feed(line)

    def end_of_chunk(self) -> None:
        """See GuestRtc."""

    def _send(self, change: RtcChange) -> None:
        if self._service.send(change, stamp_ns=self._stamp_ns) and self._sums is not None:
            self._sums.add(change)

    def _machine_reset(self, full: bool) -> None:
        stamp = self._stamp_ns
        if full and self._sums is not None:
            self._sums.clear()
        now = self._rtc_time + stamp // 10**9 - self._started_ns // 10**9
        self._vrtc.reset(now)
        if full:
            self._log.record("service-restart", stamp)
            self._service.restart(stamp_ns=stamp)
        self._service.set_rtc(now, stamp_ns=stamp)


class HvGuestRtc:
    """ACRN's hypervisor vRTC, source "hv": accesses go to the hypervisor process, its events to the service's ring.

    A reset of the guest does not touch it, nor its index register; a full reset starts the service anew. The service
    is not told what the RTC shows: ACRN's cannot know either.
    """

    def __init__(
        self,
        service: VmEventService,
        log: TraceLog,
        vm: HypervisorVm,
        on_lost: Callable[[HypervisorLost], object],
    ) -> None:
        """Gives the service its ring, so the service must not run yet; says in the log how the VM began.

        on_lost: told, by whoever calls, when the hypervisor is found to be lost; nothing is passed on from then.
        """
        self._service = service
        self._log = log
        self._vm = vm
        self._on_lost = on_lost
        self._lost = False
        self._stamp_ns = vm.new.stamp_ns
        self._port = RtcPort(self, self._machine_reset, index=0, index_at_reset=None)
        service.add_ring(HV, vm.ring_descriptor, vm.kick_descriptor, stamped=True)
        _log_start(log, service, vm.new.stamp_ns, vrtc="hv", rtc_time=vm.new.rtc_time, offset_s=vm.offset)

    def feed(self, stamp_ns: int, line: bytes) -> None:
        """See GuestRtc."""
        self._stamp_ns = stamp_ns
        self._port.feed(line)

    def end_of_chunk(self) -> None:
        """All accesses of a chunk go in one message."""
        if not self._lost:
            try:
                self._vm.send()
            except HypervisorLost as lost:
                self._lost = True
                self._on_lost(lost)

    def write(self, index: int, value: int) -> None:
        """The port's: the guest wrote a register."""
        self._vm.write(self._stamp_ns, index, value)

    def read(self, index: int) -> None:
        """The port's: the guest read a register."""
        self._vm.read(self._stamp_ns, index)

    def _machine_reset(self, full: bool) -> None:
        if full:
            self.end_of_chunk()  # what was announced before the reset is on the ring, and dies with the service
            self._log.record("service-restart", self._stamp_ns)
            self._service.restart(stamp_ns=self._stamp_ns)


def _log_start(log: TraceLog, service: VmEventService, stamp_ns: int, **details: object) -> None:
    window_ns = round(service.window * 1e9)
    log.record("start", stamp_ns, format=1, vm=service.vm, **details, window_ns=window_ns)
