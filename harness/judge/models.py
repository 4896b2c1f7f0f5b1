"""The vRTCs a guest may have, as the judge sees them: accesses in, what must be heard of them out.

Each model is the judge's own, written from ACRN.md; the product's are others on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from harness.judge.dates import SECOND_NS
from harness.judge.dm_clock import REGISTER_A, REGISTER_B, DmClock
from harness.judge.hv_clock import HvClock
from harness.judge.outcomes import Outcome
from harness.judge.witness import Access, Started


class Model(Protocol):
    """One guest's vRTC, from its start on. Stamps are monotonic nanoseconds."""

    @property
    def source(self) -> str:
        """What its events name as their source."""

    def write(self, access: Access) -> Outcome:
        """A write to the data port, and what is to be heard of it (None: nothing)."""

    def read(self, access: Access) -> None:
        """A read of the data port: nothing is ever to be heard of it, but it may matter to what follows."""

    def system_reset(self, stamp_ns: int) -> bool:
        """The guest was reset. Whether that makes this vRTC begin anew, whatever was done to it before."""

    def told(self, stamp_ns: int) -> int | None:
        """What the event service is told of this RTC when it starts, and at a system reset: the time it then
        shows; None where the device model cannot know it and tells nothing."""


class DmModel:
    """The device model's vRTC: it starts, and after a reset starts again, with the Service VM's time."""

    source = "dm"

    def __init__(self, started: Started) -> None:
        self._started = started
        now_s = started.stamp_ns // SECOND_NS
        self._clock = DmClock(started.rtc_time, now_s)
        for register, held in ((REGISTER_A, started.register_a), (REGISTER_B, started.register_b)):
            if held is not None:
                self._clock.write(register, held, now_s)

    def write(self, access: Access) -> Outcome:
        """The clock ticks on whole seconds of the stamps."""
        return self._clock.write(access.register, access.value, access.stamp_ns // SECOND_NS)

    def read(self, access: Access) -> None:
        """Brings the bytes up to date, as the next write would."""
        self._clock.read(access.register, access.stamp_ns // SECOND_NS)

    def system_reset(self, stamp_ns: int) -> bool:
        """The registers are those of a start, the time is the Service VM's by then."""
        self._clock.reset(self.told(stamp_ns), stamp_ns // SECOND_NS)
        return True

    def told(self, stamp_ns: int) -> int:
        """The Service VM's time: it went on whatever the guest did to its own."""
        return self._started.rtc_time + stamp_ns // SECOND_NS - self._started.stamp_ns // SECOND_NS


class HvModel:
    """The hypervisor's vRTC: it knows nothing of resets, and the device model knows nothing of it."""

    source = "hv"

    def __init__(self, started: Started) -> None:
        self._clock = HvClock(started.rtc_time, started.stamp_ns, started.offset_s)

    def write(self, access: Access) -> Outcome:
        """Whole seconds count from the start."""
        return self._clock.write(access.register, access.value, access.stamp_ns)

    def read(self, access: Access) -> None:
        """The bytes that the next write's outcome is computed from are now those of this moment."""
        self._clock.read(access.register, access.stamp_ns)

    def system_reset(self, stamp_ns: int) -> bool:
        """Leaves this vRTC alone."""
        return False

    def told(self, stamp_ns: int) -> None:
        """Nothing."""


MODELS: dict[str, Callable[[Started], Model]] = {"dm": DmModel, "hv": HvModel}
"""By the name that a start record gives the vRTC."""
