"""Shares guests out: how many of each kind are at work at once, and in which order they are started."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container, Mapping, Sequence

from harness.plan import Plan

_UPDATE_S = 1.1
"""A plan takes the settle window, and what is between its end and the next plan's beginning."""

_HWCLOCK_S = 1.5
"""hwclock waits for a whole second, and Linux binds its driver first."""


def share_out(work: Mapping[str, Sequence[Plan]], guests: int, alone: Container[str] = ()) -> list[str]:
    """The kind of each guest to be started: first where most work waits for each guest.

    Every kind that has work gets one guest, even where these are more than `guests`; no kind gets more guests
    than it has plans, and those `alone` no second one. The others go where work would take longest.
    """
    seconds = {kind: sum(map(_seconds, plans)) for kind, plans in work.items() if plans}
    wanted = Counter(dict.fromkeys(seconds, 1))
    while wanted.total() < guests:
        open_to = [kind for kind in seconds if wanted[kind] < len(work[kind]) and kind not in alone]
        if not open_to:
            break
        wanted[max(open_to, key=lambda kind: seconds[kind] / wanted[kind])] += 1
    started: Counter[str] = Counter()
    order = []
    while open_to := [kind for kind in seconds if started[kind] < wanted[kind]]:
        order.append(max(open_to, key=lambda kind: seconds[kind] / (1 + started[kind])))
        started[order[-1]] += 1
    return order


def following(plans: Sequence[Plan]) -> set[str]:
    """The ids of plans that belong on the guest that carried out the one before: nothing else leads where they start.

    Where several plans start from the same time none of them follows another: any guest will do that shows it.
    """
    starting = Counter(plan.start for plan in plans)
    return {
        plan.id
        for before, plan in itertools.pairwise(plans)
        if plan.start is not None and plan.start == before.leaves and starting[plan.start] == 1
    }


def _seconds(plan: Plan) -> float:
    """About how long a guest is busy with a plan."""
    return plan.seconds + _UPDATE_S + (_HWCLOCK_S if plan.hwclock is not None else 0.0)
