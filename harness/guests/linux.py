"""A Linux guest: our agent in it, and its own hwclock."""

from __future__ import annotations

import time

from harness.deadline import Deadline
from harness.guests.agent_guest import AgentGuest
from harness.guests.steps import AgentReport

NTP_FIRST_WRITE = 20.0
"""Seconds. A client takes 3 of them, and the kernel tries 2 s later; on a busy machine it has to try some times."""

NTP_PERIOD = 661.0
"""Seconds between the kernel's writes, with what it may be late."""


def ntp_seconds(writes: int) -> float:
    """How long so many of the kernel's own writes may take, in seconds."""
    return NTP_FIRST_WRITE + NTP_PERIOD * (writes - 1)


class LinuxGuest(AgentGuest):
    """What an operating system can do besides: set its own clock, and have its own driver write the RTC."""

    def hwclock(self, item: str, deadline: Deadline) -> AgentReport:
        """`hwclock --systohc --utc`: Linux's own driver writes the RTC with the guest's system time.

        It waits for a whole second first. The report is not complete: the kernel made the writes. ok is False
        when hwclock failed; `error` then has its output.
        """
        start_ns = time.monotonic_ns()
        answer = self.command("hwclock", deadline, busy=1.0)
        failed = answer["exit"] != "0"
        error = f"hwclock exited with {answer['exit']}: {answer['output']}" if failed else None
        return AgentReport(item, not failed, error, start_ns, time.monotonic_ns(), complete=False)

    def ntp(self, item: str, seconds: int, deadline: Deadline, *, writes: int = 1) -> AgentReport:
        """An NTP client sets the guest's clock to `seconds` since 1970 UTC; its kernel then writes the RTC by itself.

        Waits until the kernel has done so `writes` times: once within NTP_FIRST_WRITE seconds, then every 11 minutes.
        The report is not complete: the kernel made the writes. ok is False when the client did not get the clock
        right; `error` then has its output. Whether the kernel wrote is for the witness to say. Raises as `command`.
        """
        limit = ntp_seconds(writes)
        start_ns = time.monotonic_ns()
        answer = self.command("ntp", deadline, str(seconds), str(writes), str(round(limit * 1000)), busy=limit)
        failed = answer["synchronised_ns"] == "0" or answer["died"] != "0"
        error = f"the NTP client did not set the clock: {answer['output']}" if failed else None
        return AgentReport(item, not failed, error, start_ns, time.monotonic_ns(), complete=False)

    def set_system_time(self, seconds: int, deadline: Deadline) -> None:
        """Sets the guest's system clock (not the RTC) to `seconds` since 1970 UTC."""
        self.command("clock", deadline, str(seconds))
