"""A guest's vRTC on a bench, of which nobody knows at which fraction of our second it ticks.

It is modelled as worlds: in each the registers and the clock are certain, and the phases of its tick are those arcs in
which it would have come to them. Mostly there is one world. Where it matters whether the clock had ticked before an
access (a minute or a day that ends just then, a halt that keeps the second) a world parts in two; when all registers
have been written they are one again. So the judge accepts exactly what some phase of the tick explains: of two
numbers that a time may be, never a third.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.judge import dates
from harness.judge.chain import SLACK_NS, UNKNOWN
from harness.judge.dates import SECOND_NS
from harness.judge.dm_clock import REGISTER_A, REGISTER_B, DmClock
from harness.judge.hv_clock import HvClock
from harness.judge.outcomes import Announced, Moved, Withheld
from harness.judge.phase import DRIFT_NS_PER_S, EVERY_PHASE, Arcs, Form, Moment, elapsed, join, solutions, widened
from harness.judge.witness import Access, Started

PAUSE_NS = 400_000_000
"""A burst of accesses ends with such a pause."""
MOST_WORLDS = 300
"""So many are kept apart; beyond them what the guest does cannot be judged."""
UNTOLD = Form(UNKNOWN)
FAR_FROM_UNKNOWN = 1_000_000
"""A time so far from -1 is never taken for it."""


class Raw(NamedTuple):
    """One raw event in one world, and its link in the chain.

    trail_no: its place in the trail; number: how many there are up to it; section: how many gaps before it may part
    the update in two. told: its last_time; before: the RTC before it as the service must take it, None where nobody
    knows. total: the sum of the deltas up to here, as far as they are known, and unknown how many are not; c_total: the
    sum of the deltas as told. estimated_so_far, lost_so_far: of any up to it; None where it depends on a second that
    nobody knows.
    """

    trail_no: int
    section: int
    number: int
    moment: Moment
    told: Form
    before: Form | None
    after: Form
    delta: Form
    total: Form
    unknown: int
    c_total: Form
    estimated_so_far: bool
    lost_so_far: bool | None

    @property
    def is_far_from_unknown(self) -> bool:
        """Whether its last_time is a time and not the -1 of a clock that has none, nor near it."""
        return self.told != UNTOLD and self.told.constant > FAR_FROM_UNKNOWN


Trail = tuple[Raw | None, ...]
"""An update's raw events in one world so far; None where only others have one."""


class Way(NamedTuple):
    """One way in which an update can have gone, and at which phases."""

    arcs: Arcs
    trail: Trail


class Possible(NamedTuple):
    """A write that sends a raw event in at least one world."""

    ways: tuple[Way, ...]


class Known(NamedTuple):
    """What the service last knew of the RTC, and since when. sure: not where somebody moved the RTC unseen."""

    time: Form
    moment: Moment
    sure: bool = True


@dataclass(frozen=True)
class World:
    """One possible state. The clock counts seconds from `since` on.

    ticks: how often it has ticked in this burst of accesses so far; a tick that was taken for one access is not there
    for the next one. ahead: how many seconds the clock counted before the burst (negative: so many of the burst's
    ticks came before `since`).
    """

    clock: DmClock | HvClock
    since: Moment
    arcs: Arcs
    known: Known | None
    ended_at_unknown: bool
    trail: Trail
    ahead: int = 0
    ticks: int = 0

    def key(self) -> tuple[object, ...]:
        """Two worlds of the same key are one: they go on alike, and their updates come to the same so far."""
        return (
            self.clock.state(),
            self.since,
            self.known,
            self.ended_at_unknown,
            _come_to(self.trail),
            self.ahead,
            self.ticks,
        )


def _come_to(trail: Trail) -> tuple[object, ...]:
    """What an update's raw events come to, whichever way they went."""
    raised = [raw for raw in trail if raw is not None]
    if not raised:
        return (len(trail),)
    if raised[-1].section == 0:
        return _sum_of(trail, raised)
    sections = itertools.groupby(raised, lambda raw: raw.section)
    return tuple(_sum_of(trail, list(section)) for _, section in sections)


def _sum_of(trail: Trail, raised: Sequence[Raw]) -> tuple[object, ...]:
    told = []
    for raw in raised:
        told.append(raw.told)
        if raw.is_far_from_unknown:
            break
    first, last = raised[0], raised[-1]
    same = (last.number, last.unknown, last.total, last.c_total, last.estimated_so_far, last.lost_so_far)
    return (len(trail), first.before, first.trail_no, last.after, last.trail_no, *same, *told)


class _Step(NamedTuple):
    clock: DmClock | HvClock
    since: Moment
    told: Form | None
    after: Form
    outcome: Announced | Withheld | Moved | None
    moved: bool = False
    ticks: int = 0

    def ahead(self, world: World) -> int:
        """From where the clock counts its seconds now."""
        return -self.ticks if self.moved else world.ahead


class WorldsModel:
    """The vRTC of a guest whose agent is the witness, from where the agent read it on.

    doubts: what cannot be told of it, each with its stamp.
    """

    def __init__(self, started: Started) -> None:
        self.source = started.vrtc
        self.doubts: list[tuple[int, str]] = []
        self._is_dm = started.vrtc == "dm"
        self._worlds: list[World] = []
        self._last_ns = started.stamp_ns
        self._number = 0
        self._begin(started, known=self._is_dm)
        self._burst = self._worlds[0].since

    def _moment(self, record: Access | Started) -> Moment:
        """When it was, told from all others."""
        self._number += 1
        return Moment(record.stamp_ns, self._number, record.uncertainty_ns)

    def _begin(self, started: Started, *, known: bool) -> None:
        moment = self._moment(started)
        clock: DmClock | HvClock
        if self._is_dm:
            clock = DmClock(started.rtc_time, 0)
            for register, held in ((REGISTER_A, started.register_a), (REGISTER_B, started.register_b)):
                if held is not None:
                    clock.write(register, held, 0)
            clock.counted_from(0, same_clock=False)
        else:
            clock = HvClock(started.rtc_time, 0)
            if started.register_b is not None:
                clock.set_format(started.register_b, started.rtc_time)
        told = Known(Form(started.rtc_time), moment) if known else None
        self._worlds = [World(clock, moment, EVERY_PHASE, told, ended_at_unknown=False, trail=())]

    def anchor(self, started: Started) -> bool:
        """The guest has read its RTC again: it goes on from there. Whether that is what it was to show.

        Where it is not, somebody moved it unseen: then only what was read counts.
        """
        moment = self._moment(started)
        before = self._worlds
        if all(isinstance(world.clock, DmClock) and world.clock.halted for world in before):
            return True
        agreeing = [world for world in self._moved_on(moment) if started.rtc_time in self._shows(world, moment)]
        self._begin(started, known=True)
        (fresh,) = self._worlds
        unsure = Known(Form(started.rtc_time), fresh.since, sure=False)
        self._keep(
            [
                replace(fresh, known=world.known if agreeing else unsure, trail=world.trail)
                for world in agreeing or before
            ],
            started.stamp_ns,
        )
        self._burst = fresh.since
        return bool(agreeing)

    def _shows(self, world: World, moment: Moment) -> set[int]:
        """What its RTC may show at that moment."""
        factor = 1 if self._is_dm else SECOND_NS
        return {world.clock.time(second * factor) for second, _, _ in self._seconds(world, moment)}

    def forget_chain(self, stamp_ns: int) -> None:
        """The service begins anew; the device model tells it what the RTC shows."""
        self._number += 1
        moment = Moment(stamp_ns, self._number)
        self._worlds = [
            replace(world, known=self._shown(world, moment) if self._is_dm else None, ended_at_unknown=False)
            for world in self._worlds
        ]

    @staticmethod
    def _shown(world: World, moment: Moment) -> Known:
        value = Form(world.clock.time(0))
        return Known(value.ticked(world.since, moment) if world.clock.ticks else value, moment)

    def read(self, access: Access) -> None:
        """Only the hypervisor's vRTC minds it: its bytes are then those of that moment."""
        if self._is_dm or access.register > dates.CENTURY:
            return
        moment = self._moment(access)
        found: list[World] = []
        for world in self._moved_on(moment):
            for second, ticks, arcs in self._seconds(world, moment):
                clock = world.clock.copy()
                clock.read(access.register, second * SECOND_NS)
                found.append(replace(world, clock=clock, arcs=arcs, ticks=ticks))
        self._keep(found, access.stamp_ns)

    def write(self, access: Access, *, first: bool, cut: bool = False) -> Possible | Withheld | Moved | None:
        """A write, and what may be heard of it. first: one that announces begins an update; cut: or it may do so."""
        moment = self._moment(access)
        grouped: dict[tuple[object, ...], tuple[World, _Step, list[tuple[int, int]]]] = {}
        for world in self._moved_on(moment):
            for second, ticks, arcs in self._seconds(world, moment):
                step = self._step(world, moment, access, second)._replace(ticks=ticks)
                kind = type(step.outcome)
                key = (*world.key(), step.clock.state(), step.since, step.told, step.after, kind, ticks)
                grouped.setdefault(key, (world, step, []))[2].extend(arcs)
        steps = [(world, step, join(arcs)) for world, step, arcs in grouped.values()]
        kinds = {type(step.outcome) for _, step, _ in steps}
        if Announced not in kinds:
            self._keep([_went_on(world, step, arcs) for world, step, arcs in steps], access.stamp_ns)
            outcome = steps[0][1].outcome if len(kinds) == 1 else None  # then nothing comes either way
            return outcome if isinstance(outcome, (Withheld, Moved)) else None
        how = first, cut
        self._keep([self._told(world, step, arcs, moment, how) for world, step, arcs in steps], access.stamp_ns)
        return Possible(tuple(Way(world.arcs, world.trail) for world in self._worlds))

    def _moved_on(self, moment: Moment) -> list[World]:
        """The worlds with the phases that they may have by then: the tick drifts, too."""
        drift_ns = (moment.stamp_ns - self._last_ns) * DRIFT_NS_PER_S // SECOND_NS
        worlds = [replace(world, arcs=widened(world.arcs, drift_ns)) for world in self._worlds]
        if self._is_dm or moment.stamp_ns - self._last_ns < PAUSE_NS:
            return worlds
        self._burst = moment
        self._keep([replace(world, ahead=0, ticks=0) for world in worlds], moment.stamp_ns)
        return [
            replace(world, arcs=arcs, ahead=second)
            for world in self._worlds
            for second, arcs in _counted(world, moment).items()
        ]

    def _seconds(self, world: World, moment: Moment) -> Iterator[tuple[int, int, Arcs]]:
        """What the clock may have counted by then, the ticks of the burst, and the phases at which that is so."""
        if self._is_dm or not world.clock.ticks:
            for second, arcs in _counted(world, moment).items():
                yield second, 0, arcs
        else:
            for ticks, arcs in elapsed(world.arcs, self._burst, moment).items():
                if ticks >= world.ticks:
                    yield world.ahead + ticks, ticks, arcs

    def _keep(self, worlds: Sequence[World], stamp_ns: int) -> None:
        """Worlds that have become the same are one from now on."""
        joined: dict[tuple[object, ...], World] = {}
        for world in worlds:
            key = world.key()
            before = joined.get(key)
            joined[key] = world if before is None else replace(before, arcs=join([*before.arcs, *world.arcs]))
        self._worlds = list(joined.values())
        if len(self._worlds) > MOST_WORLDS:
            text = "too much of what the guest did depends on when its RTC ticked"
            self.doubts.append((stamp_ns, text))
            self._worlds = self._worlds[:MOST_WORLDS]
        self._last_ns = stamp_ns

    def _step(self, world: World, moment: Moment, access: Access, second: int) -> _Step:
        if isinstance(world.clock, HvClock):
            return self._hv_step(world, moment, access, second)
        return self._dm_step(world, world.clock, moment, access, second)

    @staticmethod
    def _dm_step(world: World, old: DmClock, moment: Moment, access: Access, second: int) -> _Step:
        clock = old.copy()
        halted, ticked = old.halted, old.ticks
        outcome = clock.write(access.register, access.value, second)
        same_clock = ticked and clock.ticks and access.register != dates.SECOND
        clock.counted_from(second, same_clock=same_clock)
        since = world.since if same_clock or not clock.ticks else moment
        if not clock.ticks:
            since = Moment(0)
        after = Form(clock.time(0)).ticked(since, moment) if clock.ticks else Form(clock.time(0))
        told = None
        if isinstance(outcome, Announced):
            told = Form(outcome.last_time)
            if not halted and ticked:
                told = Form(old.time(0)).ticked(world.since, moment)
        return _Step(clock, since, told, after, outcome)

    @staticmethod
    def _hv_step(world: World, moment: Moment, access: Access, second: int) -> _Step:
        clock = world.clock.copy()
        outcome = clock.write(access.register, access.value, second * SECOND_NS)
        if outcome is None:
            return _Step(clock, world.since, None, Form(0), None)
        assert isinstance(clock, HvClock)
        clock.counted_from(second)
        if isinstance(outcome, Announced):
            return _Step(clock, moment, Form(outcome.last_time), Form(outcome.new_time), outcome, moved=True)
        return _Step(clock, moment, None, Form(0), outcome, moved=True)

    def _told(self, world: World, step: _Step, arcs: Arcs, moment: Moment, how: tuple[bool, bool]) -> World:
        """The world after a write that sends a raw event in this one or another."""
        first, cut = how
        trail: Trail = () if first else world.trail
        if step.told is None:
            return replace(_went_on(world, step, arcs), trail=(*trail, None))
        estimated = step.told == UNTOLD and not world.ended_at_unknown
        lost: bool | None = False
        before: Form | None = step.told
        if estimated:
            before = None if world.known is None else world.known.time.ticked(world.known.moment, moment)
        elif world.known is not None:
            lost = _is_gap(step.told, world.known, moment, arcs)
        delta = Form(0) if before is None else step.after.plus(before, -1)
        last = next((raw for raw in reversed(trail) if raw is not None), None)
        section = 0 if last is None else last.section + cut
        raw = Raw(
            trail_no=len(trail),
            section=section,
            number=1 if last is None else last.number + 1,
            moment=moment,
            told=step.told,
            before=before,
            after=step.after,
            delta=delta,
            total=delta if last is None else last.total.plus(delta),
            unknown=(before is None) + (0 if last is None else last.unknown),
            c_total=step.after.plus(step.told, -1).plus(Form(0) if last is None else last.c_total),
            estimated_so_far=estimated or (last is not None and last.estimated_so_far),
            lost_so_far=_either(lost, False if last is None else last.lost_so_far),
        )
        known = Known(step.after, moment)
        stands = step.after == UNTOLD
        ahead = step.ahead(world)
        return World(step.clock, step.since, arcs, known, stands, (*trail, raw), ahead, step.ticks)


def _counted(world: World, moment: Moment) -> dict[int, Arcs]:
    """What its clock may have counted by then."""
    return elapsed(world.arcs, world.since, moment) if world.clock.ticks else {0: world.arcs}


def _went_on(world: World, step: _Step, arcs: Arcs) -> World:
    ahead = step.ahead(world)
    return replace(world, clock=step.clock, since=step.since, arcs=arcs, ahead=ahead, ticks=step.ticks)


def _either(one: bool | None, other: bool | None) -> bool | None:
    """Whether one of them is so; None where nobody knows."""
    return True if one or other else None if one is None or other is None else False


def _is_gap(told: Form, known: Known, moment: Moment, arcs: Arcs) -> bool | None:
    """As the chain of raw events has it (chain.py); None where both may be."""
    ahead = told.plus(known.time, -1)
    ticked = Form(0).ticked(known.moment, moment)
    if ahead == ticked:
        return False
    most_ns = moment.stamp_ns - known.moment.stamp_ns + SLACK_NS
    off_ns = known.moment.reach_ns(moment.stamp_ns) + moment.uncertainty_ns
    found = {seconds * SECOND_NS for _, (seconds,) in solutions((ahead,), arcs, moment.stamp_ns)}
    gaps = {ns < 0 or ns > most_ns for ns in found}
    if len(gaps) > 1 or any((abs(ns) < off_ns and ns) or abs(ns - most_ns) < off_ns for ns in found):
        return None
    is_gap = gaps.pop()
    return is_gap if known.sure or not is_gap else None


