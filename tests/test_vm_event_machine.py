"""Both tunnels through anything that may happen, in virtual time, against a model that keeps lists and reads them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from harness.vm_event import RtcChange, SettledRtcChange, SharedRing, Tunnel, VmEvent, VmEventType
from harness.vm_event.source import TunnelSource
from tests.vm_event_support import NOON, SECOND, UNHURRIED

WINDOW = SECOND
ROOM = 125
START = 10_000 * SECOND

Told = SettledRtcChange | VmEvent


@dataclass(frozen=True)
class Link:
    """A raw event, and the moment that it carries."""

    at: int
    last: int
    delta: int


@dataclass(frozen=True)
class Ending:
    """A power-off or triple fault."""

    at: int
    kind: VmEventType


@dataclass(frozen=True)
class Turn:
    """A set_rtc, or without `rtc` a restart."""

    at: int
    rtc: int | None


@dataclass
class Model:
    """One source: what is in its ring, and what has to come of it. It settles by reading its list of links.

    own: this process fills the ring, so that turns stand where they were taken. stamped: elements are believed.
    """

    name: str
    own: bool
    stamped: bool
    waiting: list[Link | Ending | Turn] = field(default_factory=list)
    in_ring: int = 0
    refused: int = 0
    noted: int = 0
    #: The RTC after the last update, and when; what a set_rtc has said since the last link; links with such.
    known: tuple[int, int] | None = None
    reset: tuple[int, int] | None = None
    links: list[tuple[Link, tuple[int, int] | None]] = field(default_factory=list)
    latest: int = 0
    former_until: int = 0
    told: list[Told] = field(default_factory=list)
    admitted: dict[VmEventType, int] = field(default_factory=dict)
    raw: int = 0
    stale: int = 0
    damaged: bool = False

    def put(self, thing: Link | Ending) -> bool:
        """What a writer does."""
        if self.in_ring == ROOM:
            self.refused += 1
            return False
        self.in_ring += 1
        self.waiting.append(thing)
        return True

    def collect(self, now: int) -> None:
        """What a reader does."""
        for thing in self._in_order(now):
            match thing:
                case Turn(at, None):
                    self.expire(at)
                    self.links, self.known, self.reset, self.noted, self.latest = [], None, None, 0, 0
                    self.admitted.clear()
                    self.former_until = at if self.stamped and not self.own else 0
                case Turn(at, int(rtc)):
                    moments = [moment for moment, _ in filter(None, (self.known, self.reset))]
                    moments += [link.at for link, _ in self.links]
                    if at >= max(moments, default=0):
                        self.reset = (at, rtc)
                        self.latest = max(self.latest, at)
                case Link() | Ending() if (moment := self._moment(thing, now)) < self.former_until:
                    self.stale += 1
                case Link(_, last, delta):
                    self.former_until = 0
                    self._add(Link(max(self.latest, moment), last, delta))
                case Ending(_, kind):
                    self.former_until = 0
                    if kind not in self.admitted or moment - self.admitted[kind] >= SECOND:
                        self.admitted[kind] = moment
                        self.told.append(VmEvent(kind, self.name, "vm0"))
        self.waiting, self.in_ring = [], 0
        if not self.damaged:
            self.noted, self.refused = self.noted + self.refused, 0

    def _in_order(self, now: int) -> list[Link | Ending | Turn]:
        if self.own:
            return self.waiting
        turns = [thing for thing in self.waiting if isinstance(thing, Turn)]
        elements = [] if self.damaged else [thing for thing in self.waiting if not isinstance(thing, Turn)]
        ordered: list[Link | Ending | Turn] = []
        for turn in turns:
            while elements and self._moment(elements[0], now) < turn.at:
                ordered.append(elements.pop(0))
            ordered.append(turn)
        return ordered + elements

    def _moment(self, thing: Link | Ending, now: int) -> int:
        if self.own:
            return thing.at
        return max(min(thing.at, now), now - 300 * SECOND) if self.stamped else now

    def due(self) -> int | None:
        """When silence is complete."""
        return self.links[-1][0].at + WINDOW if self.links else None

    def expire(self, now: int) -> None:
        """Tell what is due."""
        due = self.due()
        if due is not None and now >= due:
            self._settle()
            self.latest = max(self.latest, due)

    def _add(self, link: Link) -> None:
        due = self.due()
        # Without stamps nobody knows how long a link waited: it belongs to what is pending.
        if due is not None and link.at >= due and (self.own or self.stamped):
            self._settle()
        self.links.append((link, self.reset))
        self.reset = None
        self.latest = link.at
        self.raw += 1

    def _settle(self) -> None:
        last: int | None = None
        deltas: list[int | None] = []
        estimated = lost = False
        for number, (link, reset) in enumerate(self.links):
            new = link.last + link.delta
            known = reset or self.known
            if link.last == -1 and (known is None or known[1] != -1):
                estimated = True
                before = None if known is None else known[1] + link.at // SECOND - known[0] // SECOND
            else:
                before = link.last
                if known is not None:
                    gap = link.last - known[1]
                    lost |= gap < 0 or gap * SECOND > link.at - known[0] + SECOND * 5 // 4
            deltas.append(None if before is None else new - before)
            last = before if number == 0 else last
            self.known = (link.at, new)
        total = None if None in deltas else sum(filter(None, deltas))
        overrun, self.noted = self.noted, 0
        self.told.append(
            SettledRtcChange(last, new, total, len(deltas), estimated, lost, overrun, source=self.name, vm="vm0")
        )
        self.links = []


@dataclass(frozen=True)
class Write:
    """`gap` after what was before; `ago`: the stamp is older than the moment, as when a sender was held up."""

    gap: int
    broken: bool
    skew: int
    delta: int
    invalid: bool
    ago: int


names = st.sampled_from(["dm", "hv"])
gaps = st.one_of(
    st.sampled_from([0, 1, SECOND // 2, WINDOW - 1, WINDOW, WINDOW + 1]),
    st.integers(0, 3 * SECOND),
)
writes = st.builds(
    Write,
    gap=gaps,
    broken=st.sampled_from([False, False, True]),
    skew=st.sampled_from([0, 0, 1, 2, -1, 50]),
    delta=st.sampled_from([0, 1, -1, 60, 10**6, -(10**6)]),
    invalid=st.sampled_from([False, False, True]),
    ago=st.sampled_from([0, 0, 0, 1, SECOND // 2, 2 * SECOND]),
)


class BothTunnels(RuleBasedStateMachine):
    """`dm` is filled by this process; `hv` as another process fills it, by its stamps or as it comes."""

    @initialize(stamped=st.booleans())
    def open(self, stamped: bool) -> None:
        self.now = START
        self.rtc = {"dm": NOON, "hv": NOON}
        self.ring = SharedRing.create(shared=True)
        self.kick = os.eventfd(0)
        assert self.ring.descriptor is not None
        self.writer = Tunnel.attach(self.ring.descriptor, self.kick)
        reader = Tunnel.attach(self.ring.descriptor, self.kick)
        self.dm = TunnelSource("dm", Tunnel.create(), vm="vm0", window=1.0, stamped=True, trusted=True)
        self.hv = TunnelSource("hv", reader, vm="vm0", window=1.0, stamped=stamped, trusted=False)
        self.models = {"dm": Model("dm", own=True, stamped=True), "hv": Model("hv", own=False, stamped=stamped)}

    def teardown(self) -> None:
        if hasattr(self, "dm"):
            for name, _ in self._sources():
                self._look(name)
            self.now += 10 * SECOND
            self.what_is_due_is_told()
            self.the_counts_are_right()
            self.dm.close()
            self.hv.close()
            self.writer.close()
            self.ring.close()
            os.close(self.kick)

    @rule(gap=st.one_of(gaps, st.just(3600 * SECOND)))
    def time_passes(self, gap: int) -> None:
        """Also an hour at once: the machine was suspended, or nobody looked."""
        self.now += gap

    @rule(name=names, several=st.lists(writes, min_size=1, max_size=4))
    def an_update_is_written(self, name: str, several: list[Write]) -> None:
        for write in several:
            self.now += write.gap
            last = -1 if write.broken else self.rtc[name] + write.skew
            new = -1 if write.invalid else self.rtc[name] + write.delta
            self.rtc[name] = new
            self._put(name, last, new - last, self.now - write.ago)

    @rule(name=names, count=st.integers(120, 130))
    def the_ring_is_filled(self, name: str, count: int) -> None:
        for _ in range(count):
            self._put(name, self.rtc[name], 1, self.now)
            self.rtc[name] += 1

    @rule(name=names, kind=st.sampled_from([VmEventType.POWER_OFF, VmEventType.TRIPLE_FAULT]), gap=gaps)
    def the_guest_ends(self, name: str, kind: VmEventType, gap: int) -> None:
        model = self.models[name]
        self.now += gap
        if name == "dm":
            assert self.dm.send(kind, self.now) == model.put(Ending(self.now, kind))
        elif not model.damaged:
            assert self.writer.put(kind, 0, 0, self.now) == model.put(Ending(self.now, kind))

    @rule(rtc=st.sampled_from([0, NOON, 2**32]))
    def the_guest_is_reset(self, rtc: int) -> None:
        self.rtc["dm"] = rtc
        self.dm.set_rtc(rtc, self.now)
        self.models["dm"].waiting.append(Turn(self.now, rtc))

    @rule()
    def the_device_model_is_reset(self) -> None:
        """What another process sends at this very moment is sent after it."""
        for name, source in self._sources():
            source.restart(self.now)
            self.models[name].waiting.append(Turn(self.now, None))

    @precondition(lambda self: not self.models["hv"].damaged)
    @rule(
        damage=st.sampled_from(
            [(0, 0), (4, 1), (8, 127), (12, 64), (16, 4064), (20, 1), (20, 2**32 - 32), (24, 2), (36, 4096)]
        )
    )
    def the_header_is_damaged(self, damage: tuple[int, int]) -> None:
        assert self.ring.descriptor is not None
        at, value = damage
        os.pwrite(self.ring.descriptor, struct.pack("<I", value), at)
        self.models["hv"].damaged = True

    @rule(name=names)
    def somebody_looks(self, name: str) -> None:
        """The kick was told."""
        self._look(name)

    @rule()
    def what_is_due_is_told(self) -> None:
        """As the session does after each wait."""
        for name, source in self._sources():
            due = source.deadline_ns()
            assert due == self.models[name].due()
            if due is not None and self.now >= due:
                self._look(name)

    @invariant()
    def the_counts_are_right(self) -> None:
        for name, source in self._sources():
            model, status = self.models[name], source.status()
            settled = sum(isinstance(event, SettledRtcChange) for event in model.told)
            assert (status["raw"], status["settled"], status["stale"]) == (model.raw, settled, model.stale)
            assert source.error is None or model.damaged, "only a damaged ring is given up"

    def _sources(self) -> Iterator[tuple[str, TunnelSource]]:
        if hasattr(self, "dm"):
            yield "dm", self.dm
            yield "hv", self.hv

    def _look(self, name: str) -> None:
        """Reads the ring; tells what passes at once, what a restart ended, and what is due."""
        source, model = dict(self._sources())[name], self.models[name]
        seen = len(model.told)
        model.collect(self.now)
        model.expire(self.now)
        told = [*source.collect(self.now), *iter(lambda: source.expire(self.now), None)]
        # Each kind in order; among each other, what passes at once may overtake what was settled.
        for kind in (SettledRtcChange, VmEvent):
            assert [e for e in told if isinstance(e, kind)] == [e for e in model.told[seen:] if isinstance(e, kind)]

    def _put(self, name: str, last: int, delta: int, stamp: int) -> None:
        model = self.models[name]
        if name == "dm":
            assert self.dm.send(RtcChange(last, delta), stamp) == model.put(Link(stamp, last, delta))
        elif not model.damaged:  # else the writer gives the ring up too, or hides the damage
            assert self.writer.put(0, last, delta, stamp) == model.put(Link(stamp, last, delta))


@pytest.mark.parametrize(
    "effort",
    [
        settings(UNHURRIED, max_examples=300, stateful_step_count=20),
        pytest.param(settings(UNHURRIED, max_examples=10_000, stateful_step_count=30), marks=pytest.mark.soak),
    ],
    ids=["daily", "nightly"],
)
def test_both_tunnels_do_as_the_model_whatever_happens(effort: settings) -> None:
    run_state_machine_as_test(BothTunnels, settings=effort)
