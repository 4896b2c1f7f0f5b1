"""Exactly once, settled and right: a hundred thousand updates in virtual time, and every order over ACRN's own device.

Nothing here waits: the sources are given the moments at which things happen and at which somebody looks.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from heapq import merge
from itertools import islice, permutations
from typing import NamedTuple

import pytest

from harness.vm_event import RtcChange, SettledRtcChange, SharedRing, Tunnel, VmEventService
from harness.vm_event.source import TunnelSource
from harness.vrtc import DmVrtc
from tests.test_vm_event_settler_orders import TRAPS, fields
from tests.vm_event_support import NOON, PATIENCE, SECOND, nothing_left_open

WINDOW = SECOND
REGISTERS = (0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32)


class Sent(NamedTuple):
    """A raw event of a source at a moment."""

    at: int
    source: str
    last: int
    delta: int


def stream(name: str, updates: int, chance: random.Random, expected: list[SettledRtcChange]) -> Iterator[Sent]:
    """Updates of a halted clock's links: up to the last nanosecond of a window apart, and from the window's end on."""
    now, rtc = 1000 * SECOND + chance.randrange(SECOND), NOON
    for _ in range(updates):
        first, links = rtc, chance.choice((1, 1, 1, 2, 3, 7))
        for link in range(links):
            if link:
                now += chance.choice((0, 1, WINDOW // 2, WINDOW - 1))
            delta = chance.randrange(-1000, 1000)
            yield Sent(now, name, rtc, delta)
            rtc += delta
        expected.append(SettledRtcChange(first, rtc, rtc - first, links, source=name, vm="vm0"))
        now += chance.choice((WINDOW, WINDOW, WINDOW + 1, 3 * WINDOW))


def test_a_hundred_thousand_updates_of_two_busy_tunnels_and_not_a_miss() -> None:
    """Read by someone who is late, early, or exactly on time; never by someone who lets the ring overflow."""
    chance = random.Random(8547)
    kick = os.eventfd(0)
    with nothing_left_open(), SharedRing.create(shared=True) as ring:
        assert ring.descriptor is not None
        writer = Tunnel.attach(ring.descriptor, kick)
        sources = {
            "dm": TunnelSource("dm", Tunnel.create(), vm="vm0", window=1.0, stamped=True, trusted=True),
            "hv": TunnelSource(
                "hv", Tunnel.attach(ring.descriptor, kick), vm="vm0", window=1.0, stamped=True, trusted=False
            ),
        }
        told: dict[str, list[SettledRtcChange]] = {"dm": [], "hv": []}
        expected: dict[str, list[SettledRtcChange]] = {"dm": [], "hv": []}

        def look(now: int) -> None:
            for name, source in sources.items():
                due = source.deadline_ns()
                source.collect(now)
                told[name] += iter(lambda source=source: source.expire(now), None)  # type: ignore[misc]
                assert due is None or due > now or told[name], "what is due is told by the next look"

        unread = 0
        for sent in merge(*(stream(name, 50_000, random.Random(name), expected[name]) for name in sources)):
            if sent.source == "dm":
                assert sources["dm"].send(RtcChange(sent.last, sent.delta), sent.at)
            else:
                assert writer.put(0, sent.last, sent.delta, sent.at)
            unread += 1
            if unread == 120 or chance.random() < 0.2:
                look(sent.at + chance.choice((0, 0, 1)))
                unread = 0
        look(sent.at)
        look(sent.at + 10 * SECOND)
        for name, source in sources.items():
            assert told[name] == expected[name]
            assert source.status()["overrun"] == 0
            source.close()
        writer.close()
    os.close(kick)


def every_order(every: int) -> None:
    """All transitions of ACRN's traps, each through every `every`th order of its seven writes, 0.15 s apart.

    The clock ticks meanwhile, and may be broken meanwhile: the true change is what the RTC shows after the last
    announcing write, less what it would show by then without the update.
    """
    now = 1000 * SECOND
    source = TunnelSource("dm", Tunnel.create(), vm="vm0", window=1.0, stamped=True, trusted=True)
    announced: list[int] = []

    def send(change: RtcChange) -> None:
        announced.append(now)
        assert source.send(change, now)

    vrtc = DmVrtc(send, NOON, lambda: now, per_second=SECOND)
    for start_text, end_text, *_ in TRAPS:
        start = fields(start_text)[1]
        values = [value // 10 * 16 + value % 10 for value in fields(end_text)[0]]
        for number, order in enumerate(islice(permutations(range(7)), 0, None, every)):
            vrtc.reset(start)
            source.set_rtc(start, now)
            began = now // SECOND
            announced.clear()
            for place in order:
                now += 150_000_000
                vrtc.write(REGISTERS[place], values[place])
            new = vrtc.time
            assert new is not None
            last = start + announced[0] // SECOND - began
            ticks = announced[-1] // SECOND - announced[0] // SECOND
            if number % 3 == 0:
                source.collect(now + WINDOW - 1)
                assert source.expire(now + WINDOW - 1) is None
            now += WINDOW
            source.collect(now)
            settled = source.expire(now)
            assert settled is not None
            assert (settled.last_time, settled.new_time, settled.delta_time, settled.raw_events, settled.lost) == (
                last, new, new - last - ticks, len(announced), False), (start_text, end_text, order)  # fmt: skip
            assert source.expire(now) is None
    source.close()


def test_orders_with_a_broken_date_in_the_middle_settle_to_the_true_change() -> None:
    every_order(11)


@pytest.mark.exhaustive
def test_all_orders_with_a_broken_date_in_the_middle_settle_to_the_true_change() -> None:
    every_order(1)


def test_a_step_of_the_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes back and forth by years, as seen from this process, while updates settle."""
    chance = random.Random(1)

    def stepped(real: Callable[[], float]) -> Callable[[], float]:
        return lambda: real() + chance.choice((-1, 1)) * chance.randrange(10**9)

    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, stepped(getattr(time, name)))
    told: list[tuple[int, SettledRtcChange]] = []
    with VmEventService("vm0", window=0.05) as service:
        service.subscribe(lambda event: told.append((time.monotonic_ns(), event)))
        service.start()
        for number in range(5):
            stamp = time.monotonic_ns()
            assert service.send(RtcChange(NOON + number, 1), stamp_ns=stamp)
            until = time.monotonic() + PATIENCE
            while len(told) <= number:
                assert time.monotonic() < until
                time.sleep(0.001)
            at, event = told[-1]
            assert at >= stamp + 50_000_000
            assert event.last_time == NOON + number
