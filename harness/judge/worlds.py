"""A guest's vRTC on a bench, of which nobody knows at which fraction of our second it ticks.

It is modelled as worlds: in each the registers, the clock and the number of ticks so far are certain, and the phases of
the tick are those arcs in which it would have come to them. Mostly there are two worlds, of which the clock has ticked
once more in one. Where it matters whether it had ticked before an access (a minute or a day that ends just then, a halt
that keeps the second) there are more; when all registers have been written they are two again. So the judge accepts
exactly what some phase of the tick explains: of two numbers that a time may be, never a third.
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
from harness.judge.phase import EVERY_PHASE, Arcs, counts, drift_ns, join, widened
from harness.judge.witness import Access, Started

MOST_WORLDS = 300
"""So many are kept apart; beyond them what the guest does cannot be judged."""
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
    stamp_ns: int
    told: int
    before: int | None
    after: int
    delta: int
    total: int
    unknown: int
    c_total: int
    estimated_so_far: bool
    lost_so_far: bool | None


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
    """What the service last knew of the RTC, and since when: at n ticks, ticking on, it shows n + ahead.

    sure: not where somebody moved the RTC unseen.
    """

    ahead: int
    stamp_ns: int
    sure: bool = True


@dataclass(frozen=True)
class World:
    """One possible state. The clock counts seconds from `zero` ticks on; there have been `count` of them."""

    clock: DmClock | HvClock
    zero: int
    count: int
    arcs: Arcs
    known: Known | None
    ended_at_unknown: bool
    trail: Trail

    @property
    def second(self) -> int:
        """What the clock has counted; one that does not tick counts nothing."""
        return self.count - self.zero if self.clock.ticks else 0

    def time(self) -> int:
        """What the RTC shows."""
        factor = SECOND_NS if isinstance(self.clock, HvClock) else 1
        return self.clock.copy().time(self.second * factor)

    def key(self) -> tuple[object, ...]:
        """Two worlds of the same key are one: they go on alike, and their updates come to the same so far."""
        state = self.clock.state(), self.zero, self.count
        return *state, self.known, self.ended_at_unknown, _come_to(self.trail)


def _come_to(trail: Trail) -> tuple[object, ...]:
    """What an update's raw events come to, whichever way they went."""
    raised = [raw for raw in trail if raw is not None]
    if not raised:
        return (len(trail),)
    if raised[-1].section == 0:
        return len(trail), *_sum_of(raised)
    sections = itertools.groupby(raised, lambda raw: raw.section)
    return len(trail), *(_sum_of(list(section)) for _, section in sections)


def _sum_of(raised: Sequence[Raw]) -> tuple[object, ...]:
    told = tuple(told_until_known(raised))
    first, last = raised[0], raised[-1]
    ends = first.before, first.trail_no, last.after, last.trail_no, last.number, last.unknown
    return *ends, last.total, last.c_total, last.estimated_so_far, last.lost_so_far, told


def told_until_known(raised: Sequence[Raw]) -> Iterator[int]:
    """The last times told, up to one that certainly is a time."""
    for raw in raised:
        yield raw.told
        if raw.told > FAR_FROM_UNKNOWN:
            return


class WorldsModel:
    """The vRTC of a guest whose agent is the witness, from where the agent read it on.

    doubts: what cannot be told of it, each with its stamp.
    """

    def __init__(self, started: Started) -> None:
        self.doubts: list[tuple[int, str]] = []
        self._is_dm = started.vrtc == "dm"
        self._last_ns = started.stamp_ns
        self._worlds = self._fresh(started)
        if self._is_dm:  # the service has been told what its RTC shows
            self.forget_chain(started.stamp_ns)

    def _fresh(self, started: Started) -> list[World]:
        """The worlds of an RTC that shows what the guest read."""
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
        return [
            World(clock, count, count, arcs, known=None, ended_at_unknown=False, trail=())
            for count, arcs in counts(EVERY_PHASE, started.stamp_ns, started.uncertainty_ns, 0).items()
        ]

    def anchor(self, started: Started) -> bool:
        """The guest has read its RTC again: it goes on from there. Whether that is what it was to show.

        Where it is not, somebody moved it unseen: then only what was read counts.
        """
        before = self._at(started)
        if all(isinstance(world.clock, DmClock) and world.clock.halted for world in before):
            return True
        agreeing = [world for world in before if world.time() == started.rtc_time]
        found = []
        for fresh in self._fresh(started):
            unsure = Known(started.rtc_time - fresh.count, started.stamp_ns, sure=False)
            for world in agreeing or before:
                found.append(replace(fresh, known=world.known if agreeing else unsure, trail=world.trail))
        self._keep(found, started.stamp_ns)
        return bool(agreeing)

    def forget_chain(self, stamp_ns: int) -> None:
        """The service begins anew; the device model tells it what the RTC shows."""
        self._worlds = [
            replace(
                world,
                known=Known(world.time() - world.count, stamp_ns) if self._is_dm else None,
                ended_at_unknown=False,
            )
            for world in self._worlds
        ]

    def read(self, access: Access) -> None:
        """Only the hypervisor's vRTC minds it: its bytes are then those of that moment."""
        if self._is_dm or access.register > dates.CENTURY:
            return
        found: list[World] = []
        for world in self._at(access):
            clock = world.clock.copy()
            clock.read(access.register, world.second * SECOND_NS)
            found.append(replace(world, clock=clock))
        self._keep(found, access.stamp_ns)

    def write(self, access: Access, *, first: bool, cut: bool = False) -> Possible | Withheld | Moved | None:
        """A write, and what may be heard of it. first: one that announces begins an update; cut: or it may do so."""
        steps = [(world, *_step(world, access)) for world in self._at(access)]
        kinds = {type(outcome) for _, _, outcome in steps}
        if Announced in kinds:
            found = [_told(before, after, outcome, access.stamp_ns, (first, cut)) for before, after, outcome in steps]
            self._keep(found, access.stamp_ns)
            return Possible(tuple(Way(world.arcs, world.trail) for world in self._worlds))
        self._keep([after for _, after, _ in steps], access.stamp_ns)
        outcome = steps[0][2] if len(kinds) == 1 else None  # else nothing comes either way
        return outcome if isinstance(outcome, (Withheld, Moved)) else None

    def _at(self, record: Access | Started) -> list[World]:
        """The worlds at that moment: the clock has ticked on, and drifted."""
        by_ns = drift_ns(self._last_ns, record.stamp_ns)
        found = []
        for world in self._worlds:
            for turn, arcs in widened(world.arcs, by_ns):
                options = counts(arcs, record.stamp_ns, record.uncertainty_ns, world.count - turn)
                known = world.known if world.known is None else world.known._replace(ahead=world.known.ahead + turn)
                for count, those in options.items():
                    found.append(replace(world, zero=world.zero - turn, count=count, arcs=those, known=known))
        return found

    def _keep(self, worlds: Sequence[World], stamp_ns: int) -> None:
        """Worlds that have become the same are one from now on."""
        joined: dict[tuple[object, ...], tuple[World, list[tuple[int, int]]]] = {}
        for world in worlds:
            joined.setdefault(world.key(), (world, []))[1].extend(world.arcs)
        self._worlds = [replace(world, arcs=join(arcs)) for world, arcs in joined.values()]
        if len(self._worlds) > MOST_WORLDS:
            text = "too much of what the guest did depends on when its RTC ticked"
            self.doubts.append((stamp_ns, text))
            self._worlds = self._worlds[:MOST_WORLDS]
        self._last_ns = stamp_ns


def _step(world: World, access: Access) -> tuple[World, Announced | Withheld | Moved | None]:
    """The world after a write, but for what the service makes of it."""
    clock, second = world.clock.copy(), world.second
    if isinstance(clock, HvClock):
        outcome = clock.write(access.register, access.value, second * SECOND_NS)
        if outcome is None:
            return replace(world, clock=clock), None
        clock.counted_from(second)
        return replace(world, clock=clock, zero=world.count), outcome
    ticked = clock.ticks
    outcome = clock.write(access.register, access.value, second)
    same_clock = ticked and clock.ticks and access.register != dates.SECOND
    clock.counted_from(second, same_clock=same_clock)
    zero = world.zero if same_clock else world.count if clock.ticks else 0
    return replace(world, clock=clock, zero=zero), outcome


def _told(
    old: World, world: World, outcome: Announced | Withheld | Moved | None, stamp_ns: int, how: tuple[bool, bool]
) -> World:
    """The world after a write that sends a raw event in this one or another."""
    first, cut = how
    trail: Trail = () if first else world.trail
    if not isinstance(outcome, Announced):
        return replace(world, trail=(*trail, None))
    told, after = outcome.last_time, outcome.new_time
    estimated = told == UNKNOWN and not old.ended_at_unknown
    lost: bool | None = False
    before: int | None = told
    if estimated:
        before = None if old.known is None else old.known.ahead + world.count
    elif old.known is not None:
        lost = _is_gap(told - old.known.ahead - world.count, old.known, stamp_ns)
    delta = 0 if before is None else after - before
    last = next((raw for raw in reversed(trail) if raw is not None), None)
    raw = Raw(
        trail_no=len(trail),
        section=0 if last is None else last.section + cut,
        number=1 if last is None else last.number + 1,
        stamp_ns=stamp_ns,
        told=told,
        before=before,
        after=after,
        delta=delta,
        total=delta if last is None else last.total + delta,
        unknown=(before is None) + (0 if last is None else last.unknown),
        c_total=after - told + (0 if last is None else last.c_total),
        estimated_so_far=estimated or (last is not None and last.estimated_so_far),
        lost_so_far=_either(lost, False if last is None else last.lost_so_far),
    )
    known = Known(after - world.count, stamp_ns)
    return replace(world, known=known, ended_at_unknown=after == UNKNOWN, trail=(*trail, raw))


def _either(one: bool | None, other: bool | None) -> bool | None:
    """Whether one of them is so; None where nobody knows."""
    return True if one or other else None if one is None or other is None else False


def _is_gap(excess: int, known: Known, stamp_ns: int) -> bool | None:
    """Whether the chain of raw events has a gap (chain.py); None where both may be.

    excess: by how much more the RTC moved than it ticked. It may have ticked once more or less than time has passed.
    """
    if excess == 0:
        return False
    passed_ns = stamp_ns - known.stamp_ns
    off_ns = drift_ns(known.stamp_ns, stamp_ns)
    least, most = (passed_ns - off_ns) // SECOND_NS, (passed_ns + off_ns) // SECOND_NS + 1
    gaps = {
        (excess + ticks) * SECOND_NS < 0 or (excess + ticks) * SECOND_NS > passed_ns + SLACK_NS
        for ticks in range(least, most + 1)
    }
    is_gap = gaps.pop() if len(gaps) == 1 else None
    return is_gap if known.sure or not is_gap else None
