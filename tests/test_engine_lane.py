"""A guest's lane: whether it boots at all, and when it may go on to the next update."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.engine.lane import ALIKE_S, CLEAR_NS, LINGER_NS, Lane, Slots, free_ns
from harness.engine.launch import GuestParts, LocalCommand, LocalLaunch
from harness.engine.rundir import RunDirectory
from harness.engine.tasks import Task
from harness.errors import BenchError
from harness.guests.base import Guest
from harness.hosts.base import HostProcess
from harness.hosts.local import LocalHost
from harness.judge import ItemView, Verdict
from harness.judge.journal import SeenEvent
from harness.judge.updates import ExpectedEvent
from harness.listener import ListenerProcess

PATIENCE = 30.0
DUE_NS, LATEST_NS = 10_000_000_000, 10_150_000_000


class IdleDesk:
    """A desk whose work others have done by the time anybody asks."""

    def __init__(self) -> None:
        self.ends: list[BenchError | None] = []

    def wants(self, lane: Lane) -> bool:
        return False

    def take(self, lane: Lane) -> Task | None:
        return None

    def decided(self, lane: Lane, verdict: Verdict) -> None: ...

    def final_up_to(self, lane: Lane, now_ns: int) -> None: ...

    def failed(self, lane: Lane, error: BenchError) -> None: ...

    def ended(self, lane: Lane, error: BenchError | None) -> None:
        self.ends.append(error)


class UntouchedHost(LocalHost):
    """A host on which nothing is to be started."""

    def start(self, command: Sequence[str], *, log: Path, terminal: bool = False) -> Any:
        raise AssertionError(f"{command} was started")


@pytest.fixture
def listening() -> Iterator[ListenerProcess]:
    process = ListenerProcess()
    yield process
    process.close()


def no_guest(process: HostProcess, folder: Path) -> Guest:
    raise AssertionError("a guest was made")


def test_a_guest_whose_work_others_have_done_before_it_could_boot_is_not_booted(
    tmp_path: Path, listening: ListenerProcess
) -> None:
    rundir = RunDirectory(tmp_path / "run", 1, {})
    socket = tmp_path / "monitor.sock"
    folder = rundir.guest("pc-9")
    command = LocalCommand("pc-9", ("/nowhere",), socket, socket, folder, no_guest)
    launch = LocalLaunch(UntouchedHost(), listening, command)
    parts = GuestParts("pc-9", folder, launch, 60.0, 10**9, 0)
    desk = IdleDesk()
    slots = Slots(guests=threading.Semaphore(1), boots=threading.Semaphore(1))
    lane = Lane(parts, desk, rundir, slots)
    lane.start()
    lane.join()
    # then its lane ends all the same, and the run does not speak of it
    assert desk.ends == [None]
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["guests"] == {}


def view(*deltas: int | None, seen: int | None = None) -> ItemView:
    """An item that expects events with these changes, of which so many have come (None: all)."""
    event: Any = {"raw_events": 7, "first_ns": 0, "last_ns": 0, "due_ns": DUE_NS, "last_arrival_ns": 0}
    expected = tuple(
        ExpectedEvent(
            last_time=5, new_time=5, delta_time=delta, estimated=False, lost=False, latest_ns=LATEST_NS, **event
        )
        for delta in deltas
    )
    arrived = tuple(SeenEvent(DUE_NS, number, {}) for number in range(len(deltas) if seen is None else seen))
    due_ns = DUE_NS if deltas else None
    return ItemView("p", (), expected, arrived, due_ns, LATEST_NS, not deltas, complete=True)


@pytest.mark.parametrize(
    ("item", "free"),
    [
        (view(86_400), DUE_NS + CLEAR_NS),
        (view(86_400, seen=0), LATEST_NS),
        (view(), LATEST_NS),
        (view(0), DUE_NS + LINGER_NS),
        (view(-1), DUE_NS + LINGER_NS),
        (view(86_400, ALIKE_S), DUE_NS + LINGER_NS),
        (view(-ALIKE_S - 1), DUE_NS + CLEAR_NS),
        (view(None), DUE_NS + CLEAR_NS),
    ],
)
def test_the_next_update_begins_when_no_event_can_be_taken_for_another_one(item: ItemView, free: int) -> None:
    assert free_ns(item) == free
