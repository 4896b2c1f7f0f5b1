"""One guest's lane: boot it, feed it plans one after another, and have the judge decide on each."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.deadline import Deadline
from harness.engine.cause import end_is_told, true_cause
from harness.engine.hypervisor import Hypervisor
from harness.engine.judging import Judging
from harness.engine.read_back import ReadBacks
from harness.engine.rundir import RunDirectory, append_line
from harness.engine.tasks import Task
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.guests.base import Guest
from harness.guests.disk import DiskGuest
from harness.guests.linux import LinuxGuest
from harness.guests.steps import AgentReport, Pause, Read, Step, Write
from harness.hosts.base import Host, HostProcess
from harness.judge.guest import ItemView
from harness.judge.verdict import Verdict
from harness.listener import EventListener, ListenerProcess
from harness.plan import Access, Plan, SetClock

log = logging.getLogger(__name__)

ITEM_TIMEOUT = 30.0
CLOSE_TIMEOUT = 10.0
WITNESS_GRACE_NS = 5_000_000_000
WITNESS_LOOK_NS = 5_000_000
"""The trace log is a file of another process: that a line has come can only be looked for."""

CLEAR_NS = 75_000_000
"""How long after an update is due the next may begin: gaps within 50 ms of the window prove nothing."""

ALIKE_S = 10
"""Payloads that are not further apart than this may be those of neighbouring updates as well."""

LINGER_NS = 6_000_000_000
"""How long after an update a late or second event is still listened for (the judge's rule 3)."""


class Desk(Protocol):
    """Where a lane gets its work and leaves its results; called from the lane's thread."""

    def wants(self, lane: Lane) -> bool:
        """Whether there is work for this lane, so that it is worth a boot."""

    def take(self, lane: Lane) -> Task | None:
        """The next task for this lane; None when there is no more."""

    def decided(self, lane: Lane, verdict: Verdict) -> None:
        """A verdict, already on disk."""

    def final_up_to(self, lane: Lane, now_ns: int) -> None:
        """Whatever happened to updates due 6 s before `now_ns` is known for good."""

    def ended(self, lane: Lane, error: BenchError | None) -> None:
        """The lane has ended, by itself or by an error; every verdict it could give has been given."""


@dataclass(frozen=True)
class Slots:
    """What lanes share: how many guests may live at once, and how many that boot alike may do so at once."""

    guests: threading.Semaphore
    boots: threading.Semaphore


@dataclass(frozen=True)
class GuestParts:
    """What the lane needs to run its guest: built by the engine from the bench."""

    name: str
    command: Sequence[str]
    service_socket: Path
    event_socket: Path
    make_guest: Callable[[HostProcess, Path], Guest]
    folder: Path
    boot_timeout: float
    window_ns: int
    estimate_tolerance: int
    details: Mapping[str, Any] = field(default_factory=dict)
    """What run.json says of the guest."""

    hypervisor: Hypervisor | None = None
    """The process that this guest's vRTC is in, if it is not the device model."""


class Lane:
    """A thread that owns one guest from its boot to its proven end."""

    def __init__(
        self,
        parts: GuestParts,
        host: Host,
        listening: ListenerProcess,
        desk: Desk,
        rundir: RunDirectory,
        slots: Slots,
    ) -> None:
        self.name = parts.name
        self.parts = parts
        self.done: list[Plan] = []
        self.failed = False
        """Whether the guest was lost: what could not be judged then is not to be tried again here."""

        self._host = host
        self._listening = listening
        self._desk = desk
        self._rundir = rundir
        self._slots = slots
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._ripe: dict[str, int] = {}
        self._decided: set[str] = set()
        self._process: HostProcess | None = None
        self._listener: EventListener | None = None
        self._guest: Guest | None = None
        self._judge = Judging(
            rundir, parts.folder, window_ns=parts.window_ns, estimate_tolerance=parts.estimate_tolerance
        )
        self._read_backs = ReadBacks(parts.folder, on_hv=parts.hypervisor is not None)
        self._thread = threading.Thread(target=self._run, name=f"lane-{parts.name}", daemon=True)

    def start(self) -> None:
        """Begin to boot."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more work and cut the work at hand; `join` waits for the end."""
        self._stopping.set()
        self._changed.set()
        guest = self._guest
        if guest is not None:
            guest.close()

    def join(self) -> None:
        """Wait until the guest is gone."""
        if self._thread.ident:
            self._thread.join()

    # -- the lane's life ---------------------------------------------------------------------------------

    def _run(self) -> None:
        error: BenchError | None = None
        left: BenchError | None = None
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._slots.guests)
                try:
                    if self._boot(stack):
                        self._work()
                except BenchError as problem:
                    self.failed = True
                    error = self._cause_of(problem)
                except OSError as problem:
                    self.failed = True
                    error = self._cause_of(InfrastructureError(f"{type(problem).__name__}: {problem}"))
                finally:
                    if self._listener is not None:
                        self._listener.close()
                    if self._end_is_told():
                        self._decide(final=True)
                if error is None:
                    self._give_back()
        except BenchError as problem:  # what a close found still there, or the disk did not take
            left = problem
        except Exception as problem:  # our own bug: who waits for this lane's outcomes must hear of it
            log.exception("lane %s", self.name)
            error = error or InfrastructureError(f"the harness itself failed: {type(problem).__name__}: {problem}")
        self._judge.close()
        self._desk.ended(self, left if self._stopping.is_set() else error or left)

    def _give_back(self) -> None:
        """A system of the user's gets its RTC back, and its time daemons, whose writes nobody judges any more."""
        if isinstance(self._guest, DiskGuest) and not self._stopping.is_set():
            self._guest.leave(Deadline(ITEM_TIMEOUT))

    def _boot(self, stack: contextlib.ExitStack) -> bool:
        """Whether there is a guest now; none where others were quicker to do all that there was."""
        with self._slots.boots:
            if self._stopping.is_set() or not self._desk.wants(self):
                return False
            self._rundir.add_guest(self.name, self.parts.details)
            deadline = Deadline(self.parts.boot_timeout)
            if self.parts.hypervisor is not None:
                self.parts.hypervisor.on_death(self._changed.set)
                self._check_hypervisor()
            process = self._host.start(self.parts.command, log=self.parts.folder / "device-model.log")
            self._process = process
            stack.callback(self.parts.service_socket.unlink, missing_ok=True)  # a killed device model leaves it
            stack.callback(lambda: process.close(Deadline(CLOSE_TIMEOUT)))
            process.on_exit(self._changed.set)
            self._listener = self._listening.listener(
                self.parts.event_socket, self.parts.folder / "events.jsonl", self._changed.set
            )
            self._listener.connect(deadline, lambda: process.exit_status() is not None or self._stopping.is_set())
            self._guest = self.parts.make_guest(process, self.parts.folder)
            stack.callback(self._guest.close)
            if not self._stopping.is_set():  # else whoever stopped us found no guest to close
                self._guest.boot(deadline)
        return True

    def _work(self) -> None:
        """All there is to do; what lingering shows to be worth repeating, too."""
        for turn in itertools.count(1):
            if not self._work_off() or self._stopping.is_set():
                return
            item = "rtc-set-right" if turn == 1 else f"rtc-set-right~{turn}"
            now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0, tzinfo=None)
            # All seven registers: on the hypervisor's vRTC those left out would bring back what they were last read as.
            set_right = Plan(id=item, actions=(SetClock(mode="halted", value=now),))
            self._carry_out(Task(set_right, item), role="restore")
            self._linger()

    def _work_off(self) -> bool:
        """Carry out the tasks there are; whether there were any."""
        worked = False
        while not self._stopping.is_set() and (task := self._desk.take(self)) is not None:
            worked = True
            if not task.again:
                self.done.append(task.plan)
                self._rundir.append_plan(self.name, task.plan)
            if task.before is not None:
                self._carry_out(Task(task.before, f"before-{task.item}"), role="setup")
            self._carry_out(task)
        return worked

    # -- one task ----------------------------------------------------------------------------------------

    def _carry_out(self, task: Task, role: str = "update") -> None:
        assert self._guest is not None
        deadline = Deadline(ITEM_TIMEOUT + 2 * task.plan.seconds)
        if task.plan.ntp is not None and role == "update":
            role = "background"  # the guest does it on its own, whenever it likes
        started = time.monotonic_ns()
        try:
            report = self._report(task, role, deadline)
        except BenchError as error:
            self._journal(task, role, started, None, str(error))
            raise
        self._journal(task, role, started, report, report.error)
        if not report.ok:
            raise InfrastructureError(
                f"the agent in {self.name} refused {task.item}: {report.error}", log=self.parts.folder / "console.log"
            )
        if task.plan.reset is not None:
            self._guest.command("full-reset" if task.plan.reset.full else "reboot", deadline)
            self._guest.boot(deadline)
        self._await_events(task)

    def _report(self, task: Task, role: str, deadline: Deadline) -> AgentReport:
        assert self._guest is not None
        hwclock, ntp = task.plan.hwclock, task.plan.ntp
        if hwclock is None and ntp is None:
            asked = self._read_backs.before(role)
            return self._read_backs.take(self._guest.run(task.item, [*asked, *steps_of(task.plan)], deadline), asked)
        if not isinstance(self._guest, LinuxGuest):
            raise ConfigurationError(f"the guest {self.name} has no {task.plan.mode}")
        if ntp is not None:
            return self._guest.ntp(task.item, _seconds(ntp.value), deadline, writes=ntp.writes)
        assert hwclock is not None
        self._guest.set_system_time(_seconds(hwclock.value), deadline)
        return self._guest.hwclock(task.item, deadline)

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
        append_line(self.parts.folder / "agent.jsonl", record)

    def _await_events(self, task: Task) -> None:
        """Until the task's events are there and due, or can no longer come in time."""
        asked = time.monotonic_ns()
        while True:
            self._changed.clear()
            self._check_alive()
            self._decide()
            now = time.monotonic_ns()
            view = self._judge.item(task.item)
            if view is None or not view.complete:
                if now - asked > WITNESS_GRACE_NS:
                    raise InfrastructureError(
                        f"{task.item}: the trace of {self.name} lacks writes that the agent says it made",
                        awaited="the witness of every reported write",
                        waited=(now - asked) / 1e9,
                        log=self.parts.folder / "trace.log",
                    )
                self._sleep_until(now + WITNESS_LOOK_NS)
                continue
            if task.item not in self._decided:
                self._ripe[task.item] = view.latest_ns
            until = free_ns(view)
            if now >= until or self._stopping.is_set():
                return
            self._sleep_until(until)

    def _linger(self) -> None:
        """Listen on after the last update: a second event may still come."""
        until = time.monotonic_ns() + LINGER_NS
        while time.monotonic_ns() < until and not self._stopping.is_set() and not self._desk.wants(self):
            self._changed.clear()
            self._check_alive()
            self._decide()
            self._sleep_until(until)

    def _sleep_until(self, moment_ns: int) -> None:
        """Until then, or until a verdict ripens, or until something happens."""
        now = time.monotonic_ns()
        ripe = [t for latest in self._ripe.values() for t in (latest, latest + LINGER_NS) if t > now]
        self._changed.wait(max(0, min([moment_ns, *ripe]) - now) / 1e9)

    def _decide(self, *, final: bool = False) -> None:
        """Have the judge look at what is new; verdicts go to disk, then to the desk."""
        now = time.monotonic_ns()
        for verdict in self._judge.decide(now, final=final):
            self._decided.add(verdict.item)
            self._ripe.pop(verdict.item, None)
            self._desk.decided(self, verdict)
        self._desk.final_up_to(self, now)

    # -- failures ----------------------------------------------------------------------------------------

    def _cause_of(self, problem: BenchError) -> BenchError:
        if self._process is None:
            return problem
        return true_cause(problem, self._process, self.name, self.parts.folder, self.parts.hypervisor)

    def _end_is_told(self) -> bool:
        """Whether what is to be judged is on disk: else the end of a device model would be the service's fault."""
        ended = self._process is not None and self._process.exit_status() is not None
        return not ended or end_is_told(self.parts.folder)

    def _check_alive(self) -> None:
        """Raises InfrastructureError when the hypervisor, the device model, the guest or the listener has died."""
        assert self._process is not None and self._guest is not None and self._listener is not None
        self._check_hypervisor()
        if self._listener.failure is not None:
            raise InfrastructureError(f"{self.name}: {self._listener.failure}")
        if self._process.exit_status() is not None:
            raise InfrastructureError(f"the device model of {self.name} has ended")
        self._guest.check()

    def _check_hypervisor(self) -> None:
        if self.parts.hypervisor is not None and self.parts.hypervisor.failure is not None:
            raise self.parts.hypervisor.failure


def free_ns(view: ItemView) -> int:
    """When the guest may begin something new: its events are there and due, or can no longer come in time.

    Updates that change next to nothing are not overlapped with listening for a second event: the next one could be
    just like it (no-ops; dates beyond the hypervisor's years one after another, which are all -1 to it).
    """
    if view.due_ns is None or len(view.seen) < len(view.expected):
        return view.latest_ns
    if any(event.delta_time is not None and abs(event.delta_time) <= ALIKE_S for event in view.expected):
        return view.due_ns + LINGER_NS
    return view.due_ns + CLEAR_NS


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
