"""Has a guest carry out one task, and keeps what its agent says of it."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.engine.launch import Launch
from harness.engine.read_back import ReadBacks
from harness.engine.rundir import append_line
from harness.engine.tasks import Task
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.guests.linux import LinuxGuest
from harness.guests.steps import AgentReport, Pause, Read, Step, Write
from harness.plan import Access, Plan

ITEM_TIMEOUT = 30.0


class Asking:
    """One guest's tasks, one after another; what it reports is in `agent.jsonl` before anybody judges it."""

    def __init__(self, name: str, folder: Path, launch: Launch, read_backs: ReadBacks | None) -> None:
        self._name = name
        self._folder = folder
        self._launch = launch
        self._read_backs = read_backs

    def carry_out(self, task: Task, role: str) -> None:
        """Have the guest do it, a reset at its end included.

        Raises InfrastructureError where the agent refuses, and as the guest's commands.
        """
        deadline = Deadline(ITEM_TIMEOUT + 2 * task.plan.seconds)
        guest = self._launch.guest
        if task.plan.ntp is not None and role == "update":
            role = "background"  # the guest does it on its own, whenever it likes
        started = time.monotonic_ns()
        try:
            report = self._report(task, role, deadline)
            self._launch.reported(report)
        except BenchError as error:
            self._journal(task, role, started, None, str(error))
            raise
        self._journal(task, role, started, report, report.error)
        if not report.ok:
            raise InfrastructureError(
                f"the agent in {self._name} refused {task.item}: {report.error}", log=self._folder / "console.log"
            )
        if task.plan.reset is not None:
            guest.command("full-reset" if task.plan.reset.full else "reboot", deadline)
            guest.boot(deadline)

    def _report(self, task: Task, role: str, deadline: Deadline) -> AgentReport:
        guest = self._launch.guest
        hwclock, ntp = task.plan.hwclock, task.plan.ntp
        if hwclock is None and ntp is None:
            steps = steps_of(task.plan)
            if self._read_backs is None:
                return guest.run(task.item, steps, deadline)
            asked = self._read_backs.before(role)
            return self._read_backs.take(guest.run(task.item, [*asked, *steps], deadline), asked)
        if not isinstance(guest, LinuxGuest):
            raise ConfigurationError(f"the guest {self._name} has no {task.plan.mode}")
        if ntp is not None:
            return guest.ntp(task.item, _seconds(ntp.value), deadline, writes=ntp.writes)
        assert hwclock is not None
        guest.set_system_time(_seconds(hwclock.value), deadline)
        return guest.hwclock(task.item, deadline)

    def _journal(
        self, task: Task, role: str, started_ns: int, report: AgentReport | None, error: str | None
    ) -> None:
        record: dict[str, Any] = {
            "item": task.item,
            "plan": task.plan.id,
            "role": role,
            "mode": task.plan.mode,
            "order": task.plan.order,
            "start_ns": report.start_ns if report else started_ns,
            "end_ns": report.end_ns if report else time.monotonic_ns(),
            "writes": [list(write) for write in report.writes] if report and report.complete else None,
            "ok": report is not None and report.ok,
            "error": error,
        }
        append_line(self._folder / "agent.jsonl", record)


def _seconds(value: datetime.datetime) -> int:
    """A plan's time as seconds since 1970; without a zone it is UTC."""
    return int((value if value.tzinfo else value.replace(tzinfo=datetime.timezone.utc)).timestamp())


def steps_of(plan: Plan) -> list[Step]:
    """A plan in the agent's words."""
    return list(map(_step_of, plan.accesses()))


def _step_of(access: Access) -> Step:
    if isinstance(access, float):
        return Pause(access)
    index, value = access
    return Read(index) if value is None else Write(index, value)
