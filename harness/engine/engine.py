"""The engine: shares plans out to guests, keeps every outcome, and lets others wait for them."""

from __future__ import annotations

import collections
import datetime
import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.bench import Bench
from harness.deadline import Deadline
from harness.engine.former import Former, read_former
from harness.engine.guests import GuestFactory, guest_for
from harness.engine.hypervisor import CLOSE_TIMEOUT, READY_TIMEOUT, Hypervisor, HypervisorLost
from harness.engine.lane import LINGER_NS, Lane, Slots
from harness.engine.rundir import RunDirectory
from harness.engine.settings import EngineSettings
from harness.engine.sharing import following, share_out
from harness.engine.tasks import Task, further_task, plans_before, starting_point, task_for
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.hosts.base import Host
from harness.judge.verdict import INCONCLUSIVE, PRODUCT_FAULT, Verdict
from harness.listener import ListenerProcess
from harness.plan import Plan

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often an update is tried whose verdict a stall of the harness made worthless."""

LOST = 2
"""How often an update is tried again that a guest was lost over: one that kills them is not to kill them all."""

FINAL_NS = LINGER_NS + 500_000_000
"""How long after an update is due its verdict is final: what arrived within 6 s has been read by then."""

IMAGE_TIMEOUT = 600.0

QUICK_BOOTS = 2
"""Bare and restored guests that start at once for each core: most of it is one process waiting for another."""


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


class Engine:
    """Runs plans on guests; a context manager. `outcome` waits for what became of a plan.

    on_verdict: called from lanes' threads with each verdict, and each revision of one, once it is on disk.
    """

    def __init__(
        self,
        bench: Bench,
        host: Host,
        settings: EngineSettings,
        *,
        on_verdict: Callable[[Verdict], object] = lambda verdict: None,
    ) -> None:
        self._bench = bench
        self._host = host
        self._settings = settings
        self._on_verdict = on_verdict
        self._changed = threading.Condition()
        self._queues: dict[str, collections.deque[Task]] = collections.defaultdict(collections.deque)
        self._again: dict[str, collections.deque[Task]] = collections.defaultdict(collections.deque)
        self._following: set[str] = set()
        self._own: dict[str, collections.deque[Task]] = collections.defaultdict(collections.deque)
        self._shows: dict[str, datetime.datetime | None] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._lanes: list[Lane] = []
        self._kinds: dict[str, str] = {}
        self._alive: set[str] = set()
        self._listened_for: dict[str, collections.deque[Outcome]] = collections.defaultdict(collections.deque)
        self._listening: ListenerProcess | None = None
        self._hypervisor: Hypervisor | None = None
        self._beside: dict[tuple[str, str], Verdict] = {}
        self._decided = 0
        self._inconclusive = 0
        self._closed = False
        self.aborting = False
        """Whether the guests are being ended before their plans are done."""

        self.errors: list[BenchError] = []
        """Why guests were lost, in the order in which they were."""

        self.rundir = RunDirectory(
            settings.run_dir,
            settings.seed,
            {
                "bench": {"file": str(bench.file), "name": bench.name},
                "rtc_base": bench.rtc.seconds,
                "window_ns": round(bench.service.window * 1e9),
                "estimate_tolerance": 0,
                **settings.details,
            },
            resume=settings.resume,
        )
        self._former = Former()

    # -- life --------------------------------------------------------------------------------------------

    def start(self, plans: Sequence[Plan]) -> None:
        """Boot as many guests as the plans keep busy, and begin.

        Raises ConfigurationError where the bench has no guest for a plan, or the sockets need `{vm}`.
        """
        if self._settings.resume:
            self._former = read_former(self.rundir.path, {plan.id for plan in plans}, LINGER_NS)
            self._beside.update({(verdict.vm, verdict.item): verdict for verdict in self._former.beside})
        for plan in plans:
            self._plan(plan)
        if not any(self._queues.values()):
            return
        for tasks in self._queues.values():
            self._following |= following([task.plan for task in tasks])
        lanes = self._lanes_wanted()
        kinds = {guest.name: guest for guest in self._bench.guests}
        factory = GuestFactory(self._bench, self._host, self._settings, self.rundir, several=len(lanes) > 1)
        cores = os.cpu_count() or 1
        guests = threading.Semaphore(self._settings.guests)
        slots = {
            quick: Slots(guests, boots=threading.Semaphore(boots))
            for quick, boots in ((False, cores), (True, QUICK_BOOTS * cores))
        }
        if any(kinds[kind].vrtc == "hv" for kind, _ in lanes):
            self._hypervisor = Hypervisor(self._host, self.rundir.path, self._hypervisor_died)
        with_ntp = {kind for kind, tasks in self._queues.items() if any(task.plan.ntp for task in tasks)}
        factory.prepare([kinds[kind] for kind, _ in lanes], with_ntp, Deadline(IMAGE_TIMEOUT))
        self._listening = ListenerProcess()
        if self._hypervisor is not None:
            self._hypervisor.await_ready(Deadline(READY_TIMEOUT))
        for kind, number in lanes:
            parts = factory.parts(kinds[kind], number, self._listening, self._hypervisor)
            kind_slots = slots[factory.is_quick(kinds[kind])]
            self._lanes.append(Lane(parts, self, self.rundir, kind_slots))
            self._alive.add(parts.name)
            self._kinds[parts.name] = kind
        for lane in self._lanes:
            lane.start()

    def _plan(self, plan: Plan) -> None:
        """Something to do, or, where the run is resumed, the verdict that there is."""
        guest = guest_for(self._bench, plan)
        known = self._former.final.get(plan.id)
        if known is not None:
            self._outcomes[plan.id] = Outcome(plan, known.vm, known, final=True)
            return
        self._outcomes[plan.id] = Outcome(plan)
        self._queues[guest.name].append(task_for(plan, self._former.attempts.get(plan.id, 0) + 1))

    def _lanes_wanted(self) -> list[tuple[str, int]]:
        """Kinds of guests, and which number of its kind each is."""
        work = {kind: [task.plan for task in tasks] for kind, tasks in self._queues.items()}
        count: collections.Counter[str] = collections.Counter()
        lanes = []
        for kind in share_out(work, self._settings.guests):
            count[kind] = (count[kind] or self.rundir.last_number(kind)) + 1
            lanes.append((kind, count[kind]))
        return lanes

    def _hypervisor_died(self, error: HypervisorLost) -> None:
        """At once, and once for all of its guests; from a thread of the hypervisor's."""
        self._note_error("infrastructure", None, str(error))

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close(abort=exc_info[0] is not None)

    def close(self, *, abort: bool = False) -> None:
        """End all guests; with `abort` at once, else when the plans are done and listened out."""
        if self._closed:
            return
        self._closed = True
        try:
            if abort:
                self._stop_lanes()
            for lane in self._lanes:
                lane.join()
        except BaseException:  # Ctrl-C while waiting: the guests have to go all the same
            self._stop_lanes()
            for lane in self._lanes:
                lane.join()
            raise
        finally:
            self._close_hypervisor()
            if self._listening is not None:
                self._listening.close()
            self.rundir.end()

    def _close_hypervisor(self) -> None:
        """After its guests: to them its end would be a failure."""
        if self._hypervisor is not None:
            try:
                self._hypervisor.close(Deadline(CLOSE_TIMEOUT))
            except InfrastructureError as error:
                self._note_error("infrastructure", None, str(error))

    def _stop_lanes(self) -> None:
        self.aborting = True
        for lane in self._lanes:
            lane.stop()

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

    def vrtc(self, vm: str) -> str | None:
        """Whose virtual RTC this guest of the run has."""
        return next((kind.vrtc for kind in self._bench.guests if kind.name == self._kinds.get(vm)), None)

    @property
    def former(self) -> Collection[Verdict]:
        """The verdicts on plans that this run had already when it was resumed."""
        return self._former.final.values()

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
        outcome.replay = self.rundir.save_replay(lane.name, [*plans_before(outcome.plan, lane.done), outcome.plan])
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
        elif self._attempts_now(outcome) < ATTEMPTS and not self._closed:
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

    def ended(self, lane: Lane, error: BenchError | None) -> None:
        """A guest is gone: its outcomes are final; its work goes to others of its kind, or fails with the cause.

        What it was at when it was lost is tried again by another one: then the loss costs no update.
        """
        if error is not None and not isinstance(error, HypervisorLost):
            family = "configuration" if isinstance(error, ConfigurationError) else "infrastructure"
            self._note_error(family, lane.name, str(error))
        with self._changed:
            if error is not None:
                self.errors.append(error)
            self._alive.discard(lane.name)
            kind = self._kinds[lane.name]
            alone = not any(self._kinds[name] == kind for name in self._alive)
            lost: list[Task] = []
            for outcome in self._outcomes.values():
                unfinished = outcome.vm == lane.name and not outcome.final
                orphan = alone and outcome.vm is None and guest_for(self._bench, outcome.plan).name == kind
                if not (unfinished or orphan):
                    continue
                if outcome.verdict is None or outcome.verdict.verdict == INCONCLUSIVE:
                    cut_short = InfrastructureError(f"{outcome.plan.id}: the run was cut short")
                    outcome.error = error or outcome.error or cut_short
                    by_itself = isinstance(error, InfrastructureError) and not isinstance(error, HypervisorLost)
                    if by_itself and self._attempts_now(outcome) <= LOST and not (alone or self.aborting):
                        outcome.vm, outcome.to_repeat = None, True
                        lost.append(further_task(outcome.plan, outcome.attempts + 1, lane.done))
                        continue
                outcome.final = True
            self._queues[kind].extendleft(reversed([*lost, *self._own.pop(lane.name, ())]))
            if alone:
                self._queues[kind].clear()
            self._changed.notify_all()

    def _note_error(self, family: str, vm: str | None, text: str) -> None:
        try:
            self.rundir.add_error(family, vm, text)
        except InfrastructureError:
            log.error("%s", text)
