"""The loop: on time, woken by any thread, and never telling a descriptor what was meant for its predecessor."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from harness.vm_event import loop as loop_module
from harness.vm_event.loop import ROUND_LIMIT, Loop, sharpen_timers
from tests.vm_event_support import SECOND, nothing_left_open


@pytest.fixture
def loop() -> Iterator[Loop]:
    with nothing_left_open():
        loop = Loop()
        yield loop
        loop.close()
        loop.close()


def kicked() -> int:
    return os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


@pytest.mark.parametrize("largest", [1024, 0], ids=["select", "beyond select's descriptors"])
def test_a_wait_ends_with_its_deadline_and_not_before(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    monkeypatch.setattr(loop_module, "FD_SETSIZE", largest)
    deadline = time.monotonic_ns() + 5_700_000
    while time.monotonic_ns() < deadline:
        assert loop.wait(deadline) == []
    assert loop.wait(deadline) == [], "a deadline that has passed does not wait"


def test_a_long_wait_is_not_late_by_a_share_of_its_length(loop: Loop) -> None:
    """A busy machine makes some waits late; where all are, it is the loop."""
    sharpen_timers()
    late: list[int] = []
    while len(late) < 40 and min(late, default=SECOND) > 600_000:
        deadline = time.monotonic_ns() + 100_000_000
        while (now := time.monotonic_ns()) < deadline:
            assert loop.wait(deadline) == []
        late.append(now - deadline)
    assert min(late) <= 600_000


def test_any_thread_ends_a_wait(loop: Loop) -> None:
    called = []
    thread = threading.Thread(target=lambda: loop.post(lambda: called.append(threading.current_thread())))
    thread.start()
    while not called:
        loop.dispatch(loop.wait(None))
    thread.join()
    assert called == [threading.current_thread()]
    assert loop.wait(time.monotonic_ns()) == [], "the wake-up was taken back"


def test_a_closed_loop_is_woken_in_vain() -> None:
    loop = Loop()
    loop.close()
    loop.wake()


def test_what_was_to_be_told_to_a_removed_descriptor_is_not_told_to_its_successor(loop: Loop) -> None:
    first, second = kicked(), kicked()
    told: list[str] = []

    def replace_the_other(gone: int) -> None:
        loop.remove(gone)
        os.close(gone)
        assert kicked() == gone, "the lowest free number is taken again"
        loop.add(gone, select.EPOLLIN, lambda events: told.append("successor"))

    loop.add(first, select.EPOLLIN, lambda events: replace_the_other(second))
    loop.add(second, select.EPOLLIN, lambda events: replace_the_other(first))
    loop.dispatch(loop.wait(time.monotonic_ns() + 10 * SECOND))
    assert told == []
    for descriptor in (first, second):
        loop.remove(descriptor)
        os.close(descriptor)


def test_a_handler_that_fails_is_told_in_the_log_and_no_longer_called(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = kicked(), kicked()
    told: list[str] = []

    def fail(events: int) -> None:
        told.append("bad")
        raise RuntimeError("a bug")

    loop.add(bad, select.EPOLLIN, fail)
    loop.add(good, select.EPOLLIN, lambda events: told.append("good"))
    for _ in range(3):
        loop.dispatch(loop.wait(None))
    assert told.count("bad") == 1
    assert told.count("good") == 3
    assert "a bug" in caplog.text
    loop.modify(bad, select.EPOLLOUT)
    loop.remove(bad)
    for descriptor in (bad, good):
        os.close(descriptor)


def test_many_that_are_always_ready_take_turns(loop: Loop) -> None:
    descriptors = [kicked() for _ in range(3 * ROUND_LIMIT)]
    told: list[int] = []

    def tell(descriptor: int, events: int) -> None:
        told.append(descriptor)

    for descriptor in descriptors:
        loop.add(descriptor, select.EPOLLIN, partial(tell, descriptor))
    for _ in range(3):
        ready = loop.wait(None)
        assert len(ready) <= ROUND_LIMIT
        loop.dispatch(ready)
    assert sorted(told) == sorted(descriptors), "each once before any of them twice"
    for descriptor in descriptors:
        loop.remove(descriptor)
        os.close(descriptor)


def test_a_call_that_posts_itself_again_holds_up_nobody_and_one_that_fails_stops_nothing(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    def again() -> None:
        called.append("again")
        loop.post(again)

    def fail() -> None:
        raise RuntimeError("a bug")

    loop.post(again)
    loop.post(fail)
    loop.post(lambda: called.append("last"))
    loop.dispatch(loop.wait(None))
    assert called == ["again", "last"]
    assert "a bug" in caplog.text
    loop.dispatch(loop.wait(None))
    assert called == ["again", "last", "again"]


def test_what_is_posted_while_wake_ups_are_taken_back_is_not_forgotten(loop: Loop) -> None:
    called: list[str] = []
    descriptor = kicked()
    loop.add(descriptor, select.EPOLLIN, lambda events: loop.post(partial(called.append, "by a handler")))
    loop.post(partial(called.append, "from outside"))
    ready = loop.wait(time.monotonic_ns() + 10 * SECOND)
    assert len(ready) == 2, "the descriptor and the wake-up"
    for order in (ready, list(reversed(ready))):
        called.clear()
        loop.post(partial(called.append, "from outside"))
        loop.dispatch(order)
        loop.remove(descriptor)
        while again := loop.wait(time.monotonic_ns()):
            loop.dispatch(again)
        assert called.count("by a handler") == 1
        loop.add(descriptor, select.EPOLLIN, lambda events: loop.post(partial(called.append, "by a handler")))
    loop.remove(descriptor)
    os.close(descriptor)
