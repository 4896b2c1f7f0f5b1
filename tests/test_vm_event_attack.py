"""Rings that another process attacks as fast as it can, beside a tunnel whose updates must all be told, right."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

import pytest

from harness.vm_event import RtcChange, SettledRtcChange, SharedRing, VmEventService
from tests.vm_event_support import NOON, PATIENCE, SECOND, Client, eventually, nothing_left_open

ROOT = Path(__file__).parent.parent
WINDOW = 0.001


class Attacked:
    """Rings with their kicks, and the process that shares them."""

    def __init__(self, harmless: int, others: int, seed: int) -> None:
        self._owned = ExitStack()
        self.rings: dict[str, tuple[int, int]] = {}
        arguments = []
        for number in range(harmless + others):
            ring = self._owned.enter_context(SharedRing.create(shared=True))
            kick = os.eventfd(0)
            self._owned.callback(os.close, kick)
            assert ring.descriptor is not None
            name = f"spared{number}" if number < harmless else f"hv{number}"
            self.rings[name] = (ring.descriptor, kick)
            arguments.append(f"{ring.descriptor}:{kick}" + ":harmless" * (number < harmless))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ring_attacker", str(seed), *arguments],
            cwd=ROOT,
            pass_fds=[descriptor for pair in self.rings.values() for descriptor in pair],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def begin(self, attacks: int, word: str = "attack") -> None:
        """Have each ring attacked so many times from now on, or only kicked."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word} {attacks}\n")

    def end(self) -> int:
        """Wait until the attacks asked for were made; how many there were in all."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)
        self._owned.close()
        assert self._process.returncode == 0


@contextmanager
def attacked(harmless: int, others: int, seed: int) -> Iterator[Attacked]:
    rings = Attacked(harmless, others, seed)
    try:
        yield rings
    finally:
        rings.close()


def update(number: int, begin_ns: int) -> list[tuple[RtcChange, int]]:
    """1 to 7 raw events 0.1 ms apart."""
    rtc = NOON + number * 1000
    return [(RtcChange(rtc + link * 10, 10), begin_ns + link * 100_000) for link in range(number % 7 + 1)]


def settled(number: int) -> SettledRtcChange:
    rtc, raw = NOON + number * 1000, number % 7 + 1
    # The RTC jumps by 1000 s from one update to the next within milliseconds: a gap, except before the first.
    return SettledRtcChange(rtc, rtc + raw * 10, raw * 10, raw, lost=number > 0, source="dm", vm="vm0")


def errors_of(service: VmEventService, names: list[str]) -> list[str]:
    sources = service.status()["sources"]
    return [sources[name]["error"] for name in names]


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 32))])
def test_attacked_rings_are_given_up_or_read_on_and_the_good_tunnel_loses_nothing(tmp_path: Path, seed: int) -> None:
    told: queue.SimpleQueue[SettledRtcChange] = queue.SimpleQueue()
    with (
        nothing_left_open(),
        attacked(harmless=3, others=12, seed=seed) as attack,
        VmEventService("vm0", window=WINDOW) as service,
    ):
        service.subscribe(lambda event: told.put(event) if event.source == "dm" else None)
        for number, (name, (ring, kick)) in enumerate(attack.rings.items()):
            service.add_ring(name, ring, kick, stamped=number % 2 == 0)
        service.start(tmp_path / "monitor")
        attack.begin(2000)
        number = good = sent = 0
        while good < 3:
            # Ten windows apart, and none of them is due before all are sent.
            begin = time.monotonic_ns() + SECOND // 5
            updates = [update(number + each, begin + each * 10_000_000) for each in range(30)]
            for change, stamp_ns in chain.from_iterable(updates):
                assert service.send(change, stamp_ns=stamp_ns)
            in_time = time.monotonic_ns() < begin
            raw = sum(map(len, updates))
            sent += raw
            events = []
            while raw > 0:
                events.append(told.get(timeout=PATIENCE))
                raw -= events[-1].raw_events or 0
            if in_time:  # else this machine let the test stand still for so long that updates were due in mid-sending
                assert events == [settled(number + each) for each in range(30)]
                good += 1
            assert raw == 0
            number += 30
            with Client(tmp_path / "monitor") as client:
                assert client.ask("status")["ack"] == 0
        assert attack.end() == 30_000
        assert service.running
        assert told.empty()
        service.send(RtcChange(NOON, 1))
        assert told.get(timeout=PATIENCE).new_time == NOON + 1
        disabled = [name for name in attack.rings if name.startswith("hv")]
        eventually(lambda: all(errors_of(service, disabled)), "each of the others to be given up")
        for error in errors_of(service, disabled):
            assert any(word in error for word in ("magic", "ele_num", "head", "tail", "overwrites")), error
        sources = service.status()["sources"]
    assert (sources["dm"]["error"], sources["dm"]["raw"]) == (None, sent + 1)
    for name in attack.rings.keys() - disabled:
        assert sources[name]["error"] is None, "nothing that a writer may do disables its ring"
        assert sources[name]["raw"] > 0 and sources[name]["skipped"] > 0


@contextmanager
def one_attacked() -> Iterator[tuple[Attacked, VmEventService, int, int, int]]:
    """The attack, the service, its thread, and the ring with its kick."""
    with attacked(harmless=1, others=0, seed=3) as attack, VmEventService("vm0", window=WINDOW) as service:
        ((name, (ring, kick)),) = attack.rings.items()
        service.add_ring(name, ring, kick)
        service.start()
        (thread,) = [thread.native_id for thread in threading.enumerate() if thread.name == "vm_event-vm0"]
        assert thread is not None
        yield attack, service, thread, ring, kick


def test_a_ring_that_was_given_up_costs_nothing_any_more() -> None:
    """Kicks go on for ever; nobody looks."""
    with one_attacked() as (attack, service, thread, ring, kick):
        os.pwrite(ring, b"\0" * 8, 0)
        os.eventfd_write(kick, 1)
        eventually(lambda: service.status()["sources"]["spared0"]["error"], "the damage to be noticed")
        before = processor_time(thread)
        attack.begin(100_000, "kick")
        attack.end()
        assert processor_time(thread) - before < 2_000_000


def test_kicks_without_end_cost_a_small_part_of_the_time_they_take() -> None:
    with one_attacked() as (attack, service, thread, _, _):
        attack.begin(1, "kick")
        attack.end()
        before, began = processor_time(thread), time.monotonic_ns()
        attack.begin(500_000, "kick")
        attack.end()
        taken = time.monotonic_ns() - began
        assert processor_time(thread) - before < taken // 4
        assert service.status()["sources"]["spared0"]["error"] is None


def processor_time(thread: int) -> int:
    """Of a thread of this process, in nanoseconds."""
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_text(encoding="ascii").split()[0])
