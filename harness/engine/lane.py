"""One guest's lane: boot it, feed it plans one after another, and have the judge decide on each."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from harness.deadline import Deadline, Stoppable
from harness.engine.asking import ITEM_TIMEOUT, Asking
from harness.engine.judging import Judging
from harness.engine.launch import GuestParts
from harness.engine.read_back import ReadBacks
from harness.engine.rundir import RunDirectory
from harness.engine.strategy import State, Strategy
from harness.engine.tasks import Task
from harness.errors import BenchError, InfrastructureError
from harness.judge.guest import ItemView
from harness.judge.verdict import Verdict
from harness.plan import Plan, SetClock

log = logging.getLogger(__name__)

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

    def failed(self, lane: Lane, error: BenchError) -> None:
        """The lane's guest is lost, for this reason; its end comes when all is taken back."""

    def ended(self, lane: Lane, error: BenchError | None) -> None:
        """The lane has ended, by itself or by an error; every verdict it could give has been given."""


@dataclass(frozen=True)
class Slots:
    """What lanes share: how many guests may live at once, and how many that boot alike may do so at once."""

    guests: threading.Semaphore
    boots: threading.Semaphore


class Lane:
    """A thread that owns one guest from its boot to its proven end."""

    def __init__(
        self,
        parts: GuestParts,
        desk: Desk,
        rundir: RunDirectory,
        slots: Slots,
    ) -> None:
        self.name = parts.name
        self.parts = parts
        self.done: list[Plan] = []
        self.failed = False
        """Whether the guest was lost: what could not be judged then is not to be tried again here."""

        self._launch = parts.launch
        self._desk = desk
        self._rundir = rundir
        self._slots = slots
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._strategy = Strategy(self._launch.steps(self._changed.set), self._launch.failed)
        self._ripe: dict[str, int] = {}
        self._decided: set[str] = set()
        self._whole = False
        self._judge = Judging(
            rundir, parts.folder, window_ns=parts.window_ns, estimate_tolerance=parts.estimate_tolerance
        )
        read_backs = ReadBacks(parts.folder, on_hv=parts.hypervisor is not None) if parts.read_backs else None
        self._asking = Asking(parts.name, parts.folder, parts.launch, read_backs)
        self._thread = threading.Thread(target=self._run, name=f"lane-{parts.name}", daemon=True)

    def start(self) -> None:
        """Begin to boot."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more work and cut the work at hand; `join` waits for the end."""
        self._stopping.set()
        self._changed.set()
        self._launch.close()

    def join(self) -> None:
        """Wait until the guest is gone."""
        if self._thread.ident:
            self._thread.join()

    # -- the lane's life ---------------------------------------------------------------------------------

    def _run(self) -> None:
        error: BenchError | None = None
        left: BenchError | None = None
        booted = False
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._slots.guests)
                try:
                    booted = self._boot(stack)
                    if booted:
                        self._work()
                except BenchError as problem:
                    self.failed = True
                    error = self._strategy.fail(problem)
                except OSError as problem:
                    self.failed = True
                    error = self._strategy.fail(InfrastructureError(f"{type(problem).__name__}: {problem}"))
                except Exception as problem:  # our own bug; see below
                    self.failed = True
                    error = self._strategy.fail(self._bug(problem))
                finally:
                    if error is not None and not self._stopping.is_set():
                        self._desk.failed(self, error)
                    self._launch.hush()
                    if self._launch.end_is_told():
                        self._decide(final=True)
                if booted and error is None and not self._stopping.is_set():
                    self._launch.give_back(Deadline(ITEM_TIMEOUT))
        except BenchError as problem:  # what a close found still there, or the disk did not take
            left = problem
        except Exception as problem:  # our own bug: who waits for this lane's outcomes must hear of it
            error = error or self._bug(problem)
        self._judge.close()
        self._desk.ended(self, left if self._stopping.is_set() else error or left)

    def _bug(self, problem: Exception) -> InfrastructureError:
        log.exception("lane %s", self.name)
        return InfrastructureError(f"the harness itself failed: {type(problem).__name__}: {problem}")

    def _boot(self, stack: contextlib.ExitStack) -> bool:
        """Whether there is a guest now; none where others were quicker to do all that there was."""
        with self._slots.boots:
            if self._stopping.is_set() or not self._desk.wants(self):
                return False
            self._rundir.add_guest(self.name, self.parts.details)
            stack.callback(self._strategy.close)
            self._strategy.reach(State.QUIET, Stoppable(self.parts.boot_timeout, self._stopping))
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
        self._launch.tend(Deadline(ITEM_TIMEOUT), whole=self._whole)
        self._whole = task.plan.leaves is not None
        self._asking.carry_out(task, role)
        self._await_events(task)

    def _await_events(self, task: Task) -> None:
        """Until the task's events are there and due, or can no longer come in time."""
        asked = time.monotonic_ns()
        while True:
            self._changed.clear()
            self._launch.check()
            self._decide()
            now = time.monotonic_ns()
            view = self._judge.item(task.item)
            if view is None or not view.complete:
                if now - asked > WITNESS_GRACE_NS:
                    raise InfrastructureError(
                        f"{task.item}: the witness of {self.name} lacks writes that the agent says it made",
                        awaited="the witness of every reported write",
                        waited=(now - asked) / 1e9,
                        log=self.parts.folder / self.parts.witness,
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
            self._launch.check()
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
