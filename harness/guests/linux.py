"""A Linux guest: our agent in it, and its own hwclock."""

from __future__ import annotations

import time

from harness.deadline import Deadline
from harness.guests.agent_guest import AgentGuest
from harness.guests.steps import AgentReport


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

    def set_system_time(self, seconds: int, deadline: Deadline) -> None:
        """Sets the guest's system clock (not the RTC) to `seconds` since 1970 UTC."""
        self.command("clock", deadline, str(seconds))
