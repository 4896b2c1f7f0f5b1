"""The engine: shares plans out to guests, keeps every outcome, and lets others wait for them."""

from __future__ import annotations

import collections
import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Protocol

from harness.bench import Bench, GuestSpec
from harness.deadline import Deadline
from harness.engine.climb import Climb
from harness.engine.former import Former, read_former
from harness.engine.guests import GuestFactory, guest_for
from harness.engine.hypervisor import CLOSE_TIMEOUT, READY_TIMEOUT, Hypervisor, HypervisorDied
from harness.engine.lane import LINGER_NS, Lane, Slots
from harness.engine.launch import GuestParts
from harness.engine.rundir import RunDirectory
from harness.engine.settings import EngineSettings
from harness.engine.sharing import share_out
from harness.engine.strategy import Root
from harness.engine.work import Outcome, Work
from harness.errors import BenchError, InfrastructureError
from harness.hosts.base import Host
from harness.judge.verdict import Verdict
from harness.listener import ListenerProcess
from harness.plan import Plan

if TYPE_CHECKING:
    from harness.engine.bench_host import BenchUse

log = logging.getLogger(__name__)

IMAGE_TIMEOUT = 600.0

QUICK_BOOTS = 2
"""Bare and restored guests that start at once for each core: most of it is one process waiting for another."""

__all__ = ["Engine", "Outcome"]


class Ground(Protocol):
    """How guests come to be where the bench has them."""

    def is_quick(self, spec: GuestSpec) -> bool:
        """Whether a guest of this kind is there without a boot that takes a core for a second."""

    def parts(self, spec: GuestSpec, number: int) -> GuestParts:
        """What the lane of the `number`th guest of this kind needs."""


class Engine:
    """Runs plans on guests; a context manager. `outcome` waits for what became of a plan.

    on_verdict: called from lanes' threads with each verdict, and each revision of one, once it is on disk. on_error:
    likewise with each guest that is lost, and why.
    """

    def __init__(
        self,
        bench: Bench,
        host: Host | Root[BenchUse],
        settings: EngineSettings,
        *,
        on_verdict: Callable[[Verdict], object] = lambda verdict: None,
        on_error: Callable[[str, BenchError], object] = lambda vm, error: None,
    ) -> None:
        self._bench = bench
        self._host = host
        self._settings = settings
        self._lanes: list[Lane] = []
        self._lanes_lock = threading.Lock()
        self._kinds = {guest.name: guest for guest in bench.guests}
        self._listening: ListenerProcess | None = None
        self._hypervisor: Hypervisor | None = None
        self._ground: Ground | None = None
        self._slots: dict[bool, Slots] = {}
        self._closed = False
        self.rundir = RunDirectory(
            settings.run_dir,
            settings.seed,
            {
                "bench": {"file": str(bench.file), "name": bench.name, **host_details(bench)},
                "rtc_base": bench.rtc.seconds,
                "window_ns": round(bench.service.window * 1e9),
                "estimate_tolerance": 1 if isinstance(host, Root) else 0,
                **settings.details,
            },
            resume=settings.resume,
        )
        self._former = Former()
        self._on_verdict = on_verdict
        self._on_error = on_error
        self._work = self._new_work()

    def _new_work(self) -> Work:
        return Work(
            self.rundir,
            self._former,
            lambda plan: guest_for(self._bench, plan).name,
            self._on_verdict,
            self._lost,
            self._on_error,
        )

    # -- life --------------------------------------------------------------------------------------------

    def start(self, plans: Sequence[Plan]) -> None:
        """Boot as many guests as the plans keep busy, and begin.

        Raises ConfigurationError where the bench has no guest for a plan, or the sockets need `{vm}`.
        """
        if self._settings.resume:
            self._former = read_former(self.rundir.path, {plan.id for plan in plans}, LINGER_NS)
            self._work = self._new_work()
        self._work.plan(plans)
        if not self._work.waiting:
            return
        lanes = self._lanes_wanted()
        cores = os.cpu_count() or 1
        guests = threading.Semaphore(self._settings.guests)
        self._slots = {
            quick: Slots(guests, boots=threading.Semaphore(boots))
            for quick, boots in ((False, cores), (True, QUICK_BOOTS * cores))
        }
        with_ntp = {kind for kind, waiting in self._work.waiting.items() if any(plan.ntp for plan in waiting)}
        self._prepare([self._kinds[kind] for kind, _ in lanes], with_ntp)
        for kind, number in lanes:
            self._new_lane(kind, number)
        for lane in self._lanes:
            lane.start()

    def climb(self, kind: str | None = None) -> Climb:
        """A guest beside those that the plans are carried out on, in the state `off`; None: of the bench's first kind.

        Whoever asks for it closes it before the engine. Raises ConfigurationError as `start`.
        """
        spec = self._kinds[kind] if kind is not None else self._bench.guests[0]
        if self._ground is None:
            self._prepare([spec], ())
        ground = self._ground
        assert ground is not None
        return Climb(lambda: ground.parts(spec, self.rundir.last_number(spec.name) + 1), self.rundir)

    def _prepare(self, guests: Sequence[GuestSpec], with_ntp: Collection[str]) -> None:
        """Have ready what guests are made of and what they stand on."""
        deadline = Deadline(IMAGE_TIMEOUT)
        if isinstance(self._host, Root):
            from harness.engine.bench_guests import BenchFactory  # and nothing of it where guests are on this machine

            bench_factory = BenchFactory(self._bench, self._host, self.rundir)
            bench_factory.prepare(guests, with_ntp, deadline)
            self._ground = bench_factory
            return
        factory = GuestFactory(self._bench, self._host, self._settings, self.rundir, several=len(guests) > 1)
        if any(guest.vrtc == "hv" for guest in guests):
            self._hypervisor = Hypervisor(self._host, self.rundir.path, self._hypervisor_died)
        factory.prepare(guests, with_ntp, deadline)
        self._listening = ListenerProcess()
        if self._hypervisor is not None:
            self._hypervisor.await_ready(Deadline(READY_TIMEOUT))
        self._ground = factory.on(self._listening, self._hypervisor)

    def _new_lane(self, kind: str, number: int) -> Lane:
        assert self._ground is not None
        spec = self._kinds[kind]
        parts = self._ground.parts(spec, number)
        lane = Lane(parts, self._work, self.rundir, self._slots[self._ground.is_quick(spec)])
        self._work.add_lane(parts.name, kind)
        with self._lanes_lock:
            self._lanes.append(lane)
        return lane

    def _lanes_wanted(self) -> list[tuple[str, int]]:
        """Kinds of guests, and which number of its kind each is."""
        alone = {kind for kind, spec in self._kinds.items() if spec.alone}
        count: collections.Counter[str] = collections.Counter()
        lanes = []
        for kind in share_out(self._work.waiting, self._settings.guests, alone):
            count[kind] = (count[kind] or self.rundir.last_number(kind)) + 1
            lanes.append((kind, count[kind]))
        return lanes

    def _lost(self, lane: Lane, error: BenchError) -> tuple[Lane | None, BenchError]:
        """A lane has ended by an error, with work left: on a bench another guest goes on, where there is hope."""
        root = self._host
        if not isinstance(root, Root) or not isinstance(error, InfrastructureError):
            return None, error
        root.fail(error, None)  # where it has not been told yet: what goes wrong again and again must come to an end
        if root.is_broken:
            return None, root.broken()
        kind = self._work.kind(lane.name)
        if kind is None or self._work.aborting:
            return None, error
        return self._new_lane(kind, self.rundir.last_number(kind) + 1), error

    def _hypervisor_died(self, error: HypervisorDied) -> None:
        """At once, and once for all of its guests; from a thread of the hypervisor's."""
        self._work.note_error("infrastructure", None, str(error))

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close(abort=exc_info[0] is not None)

    def close(self, *, abort: bool = False) -> None:
        """End all guests; with `abort` at once, else when the plans are done and listened out."""
        if self._closed:
            return
        self._closed = self._work.closed = True
        try:
            if abort:
                self._stop_lanes()
            self._join_lanes()
        except BaseException:  # Ctrl-C while waiting: the guests have to go all the same
            self._stop_lanes()
            self._join_lanes()
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
                self._work.note_error("infrastructure", None, str(error))

    def _stop_lanes(self) -> None:
        self._work.aborting = True
        with self._lanes_lock:
            lanes = list(self._lanes)
        for lane in lanes:
            lane.stop()

    def _join_lanes(self) -> None:
        """One that ends may have left another one in its place."""
        for lane in self._lanes:
            lane.join()

    # -- what became of it -------------------------------------------------------------------------------

    def outcome(self, plan_id: str, timeout: float) -> Outcome | None:
        """The outcome of a plan once it is final; None when it is not within `timeout` seconds."""
        return self._work.outcome(plan_id, timeout)

    def finished(self, timeout: float) -> bool:
        """Whether every guest is gone, its plans done and listened out; waits up to `timeout` seconds for it."""
        return self._work.finished(timeout)

    def beside(self) -> list[Verdict]:
        """The latest verdict on each update that no plan asked for, and on setting the RTC right at the end."""
        return self._work.beside()

    @property
    def errors(self) -> list[BenchError]:
        """Why guests were lost, in the order in which they were."""
        return self._work.errors

    @property
    def aborting(self) -> bool:
        """Whether the guests are being ended before their plans are done."""
        return self._work.aborting

    def vrtc(self, vm: str) -> str | None:
        """Whose virtual RTC this guest of the run has."""
        kind = self._kinds.get(self._work.kind(vm) or "")
        return None if kind is None else kind.vrtc

    @property
    def former(self) -> Collection[Verdict]:
        """The verdicts on plans that this run had already when it was resumed."""
        return self._former.final.values()

    @property
    def repeated(self) -> int:
        """How many decisions could not be made because something stood still."""
        return self._work.repeated

    @property
    def inconclusive_share(self) -> float:
        """Which part of all decisions could not be made because of the harness's own stalls."""
        return self._work.inconclusive_share


def host_details(bench: Bench) -> dict[str, str]:
    """Of a bench on another host: which."""
    host = bench.host
    if host.kind == "local":
        return {}
    return {"host": f"ssh {host.address}" if host.kind == "ssh" else host.kind}
