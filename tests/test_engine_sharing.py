"""How guests are shared out: by the work of each kind, and none for nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from harness.engine.sharing import share_out
from harness.plan import Hwclock, Pause, Plan, WriteRegister


def plans(count: int, *, pause: float = 0.1) -> list[Plan]:
    actions = (WriteRegister(index=0, value=1), Pause(seconds=pause))
    return [Plan(id=f"p{number}", actions=actions) for number in range(count)]


@pytest.mark.parametrize(
    ("work", "guests", "shared"),
    [
        ({"pc": 40}, 4, {"pc": 4}),
        ({"pc": 2}, 4, {"pc": 2}),
        ({"pc": 40, "q35": 2, "pc-hv": 40}, 8, {"pc": 4, "q35": 1, "pc-hv": 3}),
        ({"pc": 20, "pc-hv": 60}, 8, {"pc": 2, "pc-hv": 6}),
        ({"pc": 40, "q35": 2, "pc-hv": 40}, 1, {"pc": 1, "q35": 1, "pc-hv": 1}),
        ({"pc": 40, "q35": 0}, 2, {"pc": 2}),
        ({"pc": 1, "pc-hv": 40}, 8, {"pc": 1, "pc-hv": 7}),
        ({"bare": 1_008, "bare-hv": 504, "pc": 67, "pc-hv": 33}, 64, {"bare": 39, "bare-hv": 20, "pc": 3, "pc-hv": 2}),
        ({}, 4, {}),
    ],
)
def test_guests_go_where_the_work_is(work: dict[str, int], guests: int, shared: dict[str, int]) -> None:
    started = share_out({kind: plans(count) for kind, count in work.items()}, guests)
    assert Counter(started) == shared


def test_the_busiest_kind_is_started_first_and_then_in_turns() -> None:
    work = {"q35": plans(2), "pc": plans(40), "pc-hv": plans(41)}
    assert share_out(work, 5) == ["pc-hv", "pc", "pc-hv", "pc", "q35"]


def test_pauses_and_hwclock_count_as_work() -> None:
    paused = {"pc": plans(4), "pc-hv": plans(4, pause=10)}
    assert share_out(paused, 3) == ["pc-hv", "pc-hv", "pc"]
    hwclock = Plan.model_validate({"id": "h", "actions": [{"do": "hwclock", "value": "2024-01-01T00:00:00"}]})
    assert isinstance(hwclock.actions[0], Hwclock)
    assert share_out({"pc": plans(1), "q35": [hwclock]}, 2) == ["q35", "pc"]
