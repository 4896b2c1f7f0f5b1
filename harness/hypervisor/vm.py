"""A VM as the hypervisor sees it: its virtual RTC, and the ring on which that tells of changes."""

from __future__ import annotations

from harness.hypervisor.wire import ACCESS, NewVm
from harness.vm_event import RtcChange, Tunnel, VmEventType
from harness.vrtc import HvVrtc

NANOSECONDS = 1_000_000_000


class Vm:
    """Owns the tunnel, and closes it. The clock is that of the accesses: their stamps, in monotonic nanoseconds."""

    def __init__(self, new: NewVm, tunnel: Tunnel, offset: int) -> None:
        """`offset`: what a former VM in this slot has moved its clock by, in seconds."""
        self.name = new.name
        self._tunnel = tunnel
        self._stamp_ns = new.stamp_ns
        self._vrtc = HvVrtc(
            self._send, new.rtc_time, lambda: self._stamp_ns, per_second=NANOSECONDS, offset=offset
        )
        self.accesses = self.events = self.dropped = 0

    @property
    def offset(self) -> int:
        """Seconds that the next VM in this slot begins with."""
        return self._vrtc.offset

    def access(self, accesses: bytes) -> None:
        """Carry out port accesses, in order. A stamp that goes back counts as the one before it.

        Raises struct.error for bytes that are no accesses, ValueError for a register that there is not, RingError
        when the service damaged the ring.
        """
        for stamp_ns, register, value, written in ACCESS.iter_unpack(accesses):
            self._stamp_ns = max(self._stamp_ns, stamp_ns)
            if written:
                self._vrtc.write(register, value)
            else:
                self._vrtc.read(register)
        self.accesses += len(accesses) // ACCESS.size

    def close(self) -> None:
        """Let go of the ring and its kick."""
        self._tunnel.close()

    def _send(self, change: RtcChange) -> None:
        if self._tunnel.put(VmEventType.RTC_CHANGE, change.last_time, change.delta_time, self._stamp_ns):
            self.events += 1
        else:
            self.dropped += 1  # a full ring refuses the newest, as ACRN's does; the ring counts it too
