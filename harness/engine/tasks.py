"""What guests are given to do: plans as tasks, attempt after attempt, from where the first attempt began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.plan import Plan, SetClock


@dataclass(frozen=True)
class Task:
    """A plan to carry out; `item` is its id, with `~2` and so on behind it for a further attempt.

    again: whether this guest has carried it out before.
    """

    plan: Plan
    item: str
    attempt: int = 1
    again: bool = False
    before: Plan | None = None
    """What to carry out first, so that the clock is where the first attempt found it."""


def task_for(plan: Plan, attempt: int) -> Task:
    """An attempt at a plan, from wherever the guest's clock stands."""
    return Task(plan, plan.id if attempt == 1 else f"{plan.id}~{attempt}", attempt)


def further_task(plan: Plan, attempt: int, done: Sequence[Plan], *, again: bool = False) -> Task:
    """Another attempt at a plan that a guest was at when it had `done` these, from where its clock stood then."""
    before = starting_point(plan) or next(iter(plans_before(plan, done)), None)
    return Task(plan, f"{plan.id}~{attempt}", attempt, again, before)


def starting_point(plan: Plan) -> Plan | None:
    """What sets a guest's clock to where the plan starts; None where it starts from anything."""
    if plan.start is None:
        return None
    return Plan(id=f"start-{plan.id}", vrtc=plan.vrtc, actions=(SetClock(mode="halted", value=plan.start),))


def plans_before(plan: Plan, done: Sequence[Plan]) -> list[Plan]:
    """What the guest did just before the plan, so that its clock stood where it stood; none for its first."""
    position = next((i for i, other in enumerate(done) if other.id == plan.id), 0)
    return list(done[max(0, position - 1) : position])
