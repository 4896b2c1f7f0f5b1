"""The states of a bench: the way up and down, what a failure costs, and when a bench is broken."""

from __future__ import annotations

import contextlib
import threading

import pytest

from harness.deadline import Deadline
from harness.engine.strategy import BrokenBench, Root, State, Step, Strategy
from harness.errors import BenchError, ConfigurationError, InfrastructureError

PATIENCE = 20.0


class Way:
    """Steps that note what they do, and fail where they are told to."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: dict[State, BenchError] = {}
        self.told: list[BenchError] = []
        self.strategy = Strategy({state: self._step(state) for state in State if state}, self._failed)

    def _failed(self, problem: BenchError) -> BenchError:
        self.told.append(problem)
        self.done.append("told")
        return InfrastructureError(f"truly: {problem.problem}")

    def _step(self, state: State) -> Step:
        def step(stack: contextlib.ExitStack, deadline: Deadline) -> None:
            self.done.append(f"+{state.label}")
            stack.callback(self.done.append, f"-{state.label}")
            if state in self.failing:
                raise self.failing.pop(state)

        return step

    def reach(self, state: State) -> list[str]:
        """What it took to get there."""
        self.done.clear()
        self.strategy.reach(state, Deadline(PATIENCE))
        assert self.strategy.state is state
        return list(self.done)


@pytest.mark.parametrize("there", State)
@pytest.mark.parametrize("here", State)
def test_every_state_is_reached_from_every_other_one_by_the_steps_between(here: State, there: State) -> None:
    way = Way()
    way.reach(here)
    up = [f"+{state.label}" for state in State if here < state <= there]
    down = [f"-{state.label}" for state in reversed(State) if there < state <= here]
    assert way.reach(there) == [*down, *up]


def test_after_a_step_that_failed_the_next_way_begins_at_the_root() -> None:
    way = Way()
    way.failing[State.GUEST_READY] = InfrastructureError("it did not greet")
    with pytest.raises(InfrastructureError, match="truly: it did not greet"):
        way.strategy.reach(State.QUIET, Deadline(PATIENCE))
    # then what there is tells why, and only then it is given back, before anything is tried again
    assert way.done == ["+host-up", "+guest-booted", "+guest-ready", "told"]
    assert way.reach(State.GUEST_READY) == [
        "-guest-ready", "-guest-booted", "-host-up", "+host-up", "+guest-booted", "+guest-ready"
    ]


def test_a_loss_is_told_once_by_its_first_cause() -> None:
    way = Way()
    way.reach(State.QUIET)
    first = way.strategy.fail(InfrastructureError("the console ended"))
    assert way.strategy.fail(InfrastructureError("the agent does not answer")) is first
    assert [error.problem for error in way.told] == ["the console ended"]
    assert way.reach(State.HOST_UP) == ["-quiet", "-guest-ready", "-guest-booted", "-host-up", "+host-up"]


def test_on_the_way_down_each_state_is_left_whatever_another_one_raises() -> None:
    way = Way()
    way.reach(State.GUEST_READY)
    way.strategy._held[State.GUEST_BOOTED].callback(lambda: (_ for _ in ()).throw(InfrastructureError("still there")))
    with pytest.raises(InfrastructureError, match="still there"):
        way.strategy.close()
    assert way.done[-3:] == ["-guest-ready", "-guest-booted", "-host-up"]


# -- what all guests stand on --------------------------------------------------------------------------------


class Host:
    """A host in use."""

    def __init__(self, anew: bool) -> None:
        self.anew = anew
        self.failure: BenchError | None = None


class Hosts:
    """Takes hosts, one after another."""

    def __init__(self) -> None:
        self.hosts: list[Host] = []
        self.left: list[Host] = []
        self.problem: BenchError | None = None
        self.root: Root[Host] = Root(self._take)

    def _take(self, stack: contextlib.ExitStack, anew: bool, deadline: Deadline) -> Host:
        if self.problem is not None:
            raise self.problem
        host = Host(anew)
        self.hosts.append(host)
        stack.callback(self.left.append, host)
        return host

    def hold(self) -> tuple[Host, contextlib.ExitStack]:
        """A guest that comes up."""
        stack = contextlib.ExitStack()
        return self.root.hold(stack, Deadline(PATIENCE)), stack


def test_guests_share_the_host_and_it_is_kept_when_the_last_one_leaves() -> None:
    hosts = Hosts()
    first, one = hosts.hold()
    second, two = hosts.hold()
    one.close()
    two.close()
    third, _ = hosts.hold()
    assert first is second is third and not first.anew and not hosts.left
    hosts.root.close()
    assert hosts.left == [first]


def test_after_a_failure_the_host_is_taken_anew_from_the_beginning() -> None:
    hosts = Hosts()
    first, stack = hosts.hold()
    hosts.root.fail(InfrastructureError("the guest panicked"), first)
    stack.close()
    second, _ = hosts.hold()
    assert hosts.left == [first] and second.anew


def test_a_guest_that_fails_beside_others_begins_again_on_the_host_as_it_is() -> None:
    hosts = Hosts()
    first, stack = hosts.hold()
    hosts.hold()
    hosts.root.fail(InfrastructureError("the guest panicked"), first)
    stack.close()
    again, _ = hosts.hold()
    assert again is first


def test_a_lost_host_is_taken_anew_once_all_its_guests_have_left_and_counts_once() -> None:
    hosts = Hosts()
    first, one = hosts.hold()
    _, two = hosts.hold()
    first.failure = InfrastructureError("the link was cut")
    found: list[Host] = []
    one.close()
    hosts.root.fail(first.failure, first)
    comer = threading.Thread(target=lambda: found.append(hosts.hold()[0]))
    comer.start()
    hosts.root.fail(first.failure, first)
    assert not found
    two.close()
    comer.join(PATIENCE)
    assert [host.anew for host in found] == [True] and hosts.left == [first]
    # then one loss of two guests has cost one of two restarts
    hosts.root.fail(InfrastructureError("again"), found[0])
    assert not hosts.root.is_broken
    hosts.root.fail(InfrastructureError("and again"), found[0])
    assert hosts.root.is_broken


def test_a_bench_that_fails_a_third_time_is_broken_by_its_first_cause() -> None:
    hosts = Hosts()
    for number in (1, 2, 3):
        host, stack = hosts.hold()
        hosts.root.fail(InfrastructureError(f"failure {number}"), host)
        stack.close()
    with pytest.raises(BrokenBench, match="failure 1"):
        hosts.hold()
    assert len(hosts.hosts) == 3


def test_a_host_that_does_not_come_up_is_tried_as_often() -> None:
    hosts = Hosts()
    for _ in range(3):
        hosts.problem = InfrastructureError("no route to it")
        with pytest.raises(InfrastructureError, match="no route"):
            hosts.hold()
        hosts.root.fail(hosts.problem, None)
    with pytest.raises(BrokenBench, match="no route"):
        hosts.hold()


def test_a_wrong_bench_file_is_no_failure_of_the_bench() -> None:
    hosts = Hosts()
    for _ in range(9):
        hosts.root.fail(ConfigurationError("the login is refused"), None)
    assert not hosts.root.is_broken
