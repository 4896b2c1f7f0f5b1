"""What there is to do and what has come of it: plans shared out to lanes, outcomes kept, lost work done again."""

from __future__ import annotations

import collections
import datetime
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.deadline import Deadline
from harness.engine.former import Former
from harness.engine.hypervisor import HypervisorDied
from harness.engine.lane import LINGER_NS, Lane
from harness.engine.rundir import RunDirectory
from harness.engine.sharing import following
from harness.engine.tasks import Task, further_task, plans_before, starting_point, task_for
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.judge.verdict import INCONCLUSIVE, PRODUCT_FAULT, Verdict
from harness.plan import Plan

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often an update is tried whose verdict a stall of the harness made worthless."""

LOST = 2
"""How often an update is tried again that a guest was lost over: one that kills them is not to kill them all."""

FINAL_NS = LINGER_NS + 500_000_000
"""How long after an update is due its verdict is final: what arrived within 6 s has been read by then."""


@dataclass
class Outcome:
    """What has come of one plan; `final` once nothing can change it any more."""

    plan: Plan
    vm: str | None = None
    verdict: Verdict | None = None
    error: BenchError | None = None
    replay: Path | None = None
    attempts: int = 0
    final: bool = False
    due_ns: int = 0
    listened_for: bool = False
    """Whether the present attempt has been judged well, and a late event is still listened for."""

    to_repeat: bool = False
    """Whether another attempt is on its way, because something stood still during this one."""


class Work:
    """The plans of a run by kinds of guests, and what has come of them: the desk of the lanes. For many threads.

    kind_of: the kind of guest that a plan is for. on_verdict: called with each verdict, and each revision of one, once
    it is on disk. lost: called when a lane has ended by an error; returns the lane that takes its place, not yet
    started, and the error that is to be told where none does. on_error: told at once of a lost guest, and why.
    """

    def __init__(
        self,
        rundir: RunDirectory,
        former: Former,
        kind_of: Callable[[Plan], str],
        on_verdict: Callable[[Verdict], object],
        lost: Callable[[Lane, BenchError], tuple[Lane | None, BenchError]],
        on_error: Callable[[str, BenchError], object] = lambda vm, error: None,
    ) -> None:
        self._rundir = rundir
        self._former = former
        self._kind_of = kind_of
        self._on_verdict = on_verdict
        self._lost = lost
        self._on_error = on_error
        self._told: list[BenchError] = []
        self._changed = threading.Condition()
        self._queues: dict[str, collections.deque[Task]] = collections.defaultdict(collections.deque)
        self._again: dict[str, collections.deque[Task]] = collections.defaultdict(collections.deque)
        self._following: set[str] = set()
        self._own: dict[str, collections.deque[Task]] = collections.defaultdict(collections.deque)
        self._shows: dict[str, datetime.datetime | None] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._kinds: dict[str, str] = {}
        self._alive: set[str] = set()
        self._listened_for: dict[str, collections.deque[Outcome]] = collections.defaultdict(collections.deque)
        self._beside = {(verdict.vm, verdict.item): verdict for verdict in former.beside}
        self._decided = 0
        self._inconclusive = 0
        self.closed = False
        """Whether nothing new is to be begun."""

        self.aborting = False
        """Whether the guests are being ended before their plans are done."""

        self.errors: list[BenchError] = []
        """Why guests were lost, in the order in which they were."""

    # -- what there is to do -----------------------------------------------------------------------------

    def plan(self, plans: Sequence[Plan]) -> None:
        """Take plans in: something to do each, or, where the run is resumed, the verdict that there is."""
        for plan in plans:
            known = self._former.final.get(plan.id)
            if known is not None:
                self._outcomes[plan.id] = Outcome(plan, known.vm, known, final=True)
                continue
            self._outcomes[plan.id] = Outcome(plan)
            attempt = self._former.attempts.get(plan.id, 0) + 1
            self._queues[self._kind_of(plan)].append(task_for(plan, attempt))
        for tasks in self._queues.values():
            self._following |= following([task.plan for task in tasks])

    @property
    def waiting(self) -> Mapping[str, Sequence[Plan]]:
        """The plans that wait for a guest, by kind."""
        with self._changed:
            return {kind: [task.plan for task in tasks] for kind, tasks in self._queues.items() if tasks}

    def add_lane(self, name: str, kind: str) -> None:
        """A lane for guests of this kind is there, or will be at once."""
        with self._changed:
            self._kinds[name] = kind
            self._alive.add(name)

    def kind(self, name: str) -> str | None:
        """The kind of a lane's guest."""
        return self._kinds.get(name)

    # -- what became of it -------------------------------------------------------------------------------

    def outcome(self, plan_id: str, timeout: float) -> Outcome | None:
        """The outcome of a plan once it is final; None when it is not within `timeout` seconds."""
        deadline = Deadline(timeout)
        with self._changed:
            outcome = self._outcomes[plan_id]
            while not outcome.final:
                if not self._changed.wait(deadline.remaining) and deadline.expired:
                    return None
            return outcome

    def finished(self, timeout: float) -> bool:
        """Whether every guest is gone, its plans done and listened out; waits up to `timeout` seconds for it."""
        deadline = Deadline(timeout)
        with self._changed:
            while self._alive:
                if not self._changed.wait(deadline.remaining) and deadline.expired:
                    return False
        return True

    def beside(self) -> list[Verdict]:
        """The latest verdict on each update that no plan asked for, and on setting the RTC right at the end."""
        with self._changed:
            return list(self._beside.values())

    @property
    def repeated(self) -> int:
        """How many decisions could not be made because something stood still."""
        return self._inconclusive

    @property
    def inconclusive_share(self) -> float:
        """Which part of all decisions could not be made because of the harness's own stalls."""
        return self._inconclusive / self._decided if self._decided else 0.0

    # -- the desk of the lanes ---------------------------------------------------------------------------

    def wants(self, lane: Lane) -> bool:
        """Whether a task for a guest of the lane's kind waits."""
        with self._changed:
            return bool(self._queues[self._kinds[lane.name]])

    def take(self, lane: Lane) -> Task | None:
        """The next task for a guest of the lane's kind."""
        with self._changed:
            again, own, queue = self._again[lane.name], self._own[lane.name], self._queues[self._kinds[lane.name]]
            tasks = again or own or queue
            if not tasks:
                return None
            # An update is known to have been worth nothing when it is repeated: not when its guest died of it.
            self._inconclusive += bool(again)
            task = tasks.popleft()
            while tasks is queue and queue and queue[0].plan.id in self._following:
                own.append(queue.popleft())
            if task.before is None and task.plan.start not in {None, self._shows.get(lane.name)}:
                task = replace(task, before=starting_point(task.plan))
            self._shows[lane.name] = task.plan.leaves
            outcome = self._outcomes[task.plan.id]
            outcome.vm, outcome.attempts = lane.name, task.attempt
            outcome.verdict = outcome.error = None
            outcome.listened_for = outcome.to_repeat = False
            return task

    def decided(self, lane: Lane, verdict: Verdict) -> None:
        """Keep the verdict; see to a repetition where it is worthless; make the replay where it is bad."""
        plan_id, _, attempt = verdict.item.partition("~")
        with self._changed:
            outcome = self._outcomes.get(plan_id)
            if verdict.revision == 1:
                self._decided += 1
            if outcome is None:
                self._beside[lane.name, verdict.item] = verdict
            elif verdict.verdict == PRODUCT_FAULT:
                self._keep_fault(lane, outcome, verdict)
            elif not outcome.final and int(attempt or 1) == outcome.attempts:
                self._keep(lane, outcome, verdict)
            self._changed.notify_all()
        self._on_verdict(verdict)

    def _keep_fault(self, lane: Lane, outcome: Outcome, verdict: Verdict) -> None:
        """A fault counts whenever it is found, of whatever attempt; one found after the test has passed, beside it."""
        if outcome.final and (outcome.verdict is None or outcome.verdict.verdict != PRODUCT_FAULT):
            self._beside[lane.name, verdict.item] = verdict
            return
        outcome.verdict = verdict
        outcome.replay = self._rundir.save_replay(lane.name, [*plans_before(outcome.plan, lane.done), outcome.plan])
        outcome.final = True

    def _keep(self, lane: Lane, outcome: Outcome, verdict: Verdict) -> None:
        outcome.verdict = verdict
        outcome.due_ns = max((event.due_ns for event in verdict.expected), default=verdict.decided_ns)
        if verdict.verdict != INCONCLUSIVE:
            if not outcome.listened_for:
                outcome.listened_for = True
                self._listened_for[lane.name].append(outcome)
        elif lane.failed or outcome.to_repeat:
            pass  # its guest's end will say why; or it is on its way already
        elif self._attempts_now(outcome) < ATTEMPTS and not self.closed:
            outcome.to_repeat = True
            self._again[lane.name].append(further_task(outcome.plan, outcome.attempts + 1, lane.done, again=True))
        else:
            self._inconclusive += 1
            outcome.error = outcome.error or InfrastructureError(f"{verdict.item}: {verdict.diagnosis}")
            outcome.final = True

    def _attempts_now(self, outcome: Outcome) -> int:
        """How often it was tried in this session: what an earlier one spent on it takes nothing from this one."""
        return outcome.attempts - self._former.attempts.get(outcome.plan.id, 0)

    def final_up_to(self, lane: Lane, now_ns: int) -> None:
        """What was due 6 s ago and more is known for good."""
        waiting = self._listened_for[lane.name]
        if not waiting or now_ns < waiting[0].due_ns + FINAL_NS:
            return
        with self._changed:
            while waiting and now_ns >= waiting[0].due_ns + FINAL_NS:
                outcome = waiting.popleft()
                if outcome.listened_for and not outcome.to_repeat:
                    outcome.final = True
            self._changed.notify_all()

    def failed(self, lane: Lane, error: BenchError) -> None:
        """A guest is lost, and why: told before all that it had is taken back, which may take its time."""
        with self._changed:
            if any(error is known for known in self._told) or isinstance(error, HypervisorDied):
                return
            self._told.append(error)
        family = "configuration" if isinstance(error, ConfigurationError) else "infrastructure"
        self.note_error(family, lane.name, str(error))
        self._on_error(lane.name, error)

    def ended(self, lane: Lane, error: BenchError | None) -> None:
        """A guest is gone: its outcomes are final; its work goes to others of its kind, or fails with the cause.

        What it was at when it was lost is tried again by another one: then the loss costs no update.
        """
        if error is not None:
            self.failed(lane, error)
        heir: Lane | None = None
        told = error
        if error is not None and self._has_more_for(lane):
            heir, told = self._lost(lane, error)
        with self._changed:
            if error is not None:
                self.errors.append(error)
            self._alive.discard(lane.name)
            kind = self._kinds[lane.name]
            alone = not any(self._kinds[name] == kind for name in self._alive)
            lost: list[Task] = []
            for outcome in self._outcomes.values():
                unfinished = outcome.vm == lane.name and not outcome.final
                orphan = alone and outcome.vm is None and self._kind_of(outcome.plan) == kind
                if not (unfinished or orphan):
                    continue
                if outcome.verdict is None or outcome.verdict.verdict == INCONCLUSIVE:
                    cut_short = InfrastructureError(f"{outcome.plan.id}: the run was cut short")
                    outcome.error = told or outcome.error or cut_short
                    by_itself = isinstance(error, InfrastructureError) and not isinstance(error, HypervisorDied)
                    if by_itself and self._attempts_now(outcome) <= LOST and not (alone or self.aborting):
                        outcome.vm, outcome.to_repeat = None, True
                        lost.append(further_task(outcome.plan, outcome.attempts + 1, lane.done))
                        continue
                outcome.final = True
            self._queues[kind].extendleft(reversed([*lost, *self._own.pop(lane.name, ())]))
            if alone:
                self._queues[kind].clear()
            self._changed.notify_all()
        if heir is not None:
            heir.start()

    def note_error(self, family: str, vm: str | None, text: str) -> None:
        """Into the run's record, or, where the disk does not take it, into the log."""
        try:
            self._rundir.add_error(family, vm, text)
        except InfrastructureError:
            log.error("%s", text)

    def _has_more_for(self, lane: Lane) -> bool:
        """Whether anything of what guests of the lane's kind were to do is not known for good."""
        with self._changed:
            kind = self._kinds[lane.name]
            return any(
                not outcome.final and outcome.vm in {None, lane.name} and self._kind_of(outcome.plan) == kind
                for outcome in self._outcomes.values()
            )
