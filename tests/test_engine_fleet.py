"""A fleet of bare guests: those that are lost cost nothing but themselves."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import time
from pathlib import Path

import pytest

from tests.chain import running

pytestmark = pytest.mark.qemu

GUESTS = 4
TOLD_S = 5.0


def test_of_many_guests_one_that_is_killed_leaves_its_updates_to_the_others(tmp_path: Path) -> None:
    # given guests that are all at work on updates with pauses
    options = ("--rtc-updates", "30", "--rtc-guests", str(GUESTS), "-k", "random_order and pauses and dm and bare")
    with running(tmp_path, *options) as run:
        run.until(lambda: len({record["vm"] for record in run.records("verdicts.jsonl")}) == GUESTS, "all at work")
        # when the QEMU of one is killed
        os.kill(run.qemus()[0], signal.SIGKILL)
        # then the run ends as it would have, and says which guest was lost and how
        assert run.wait() == 10, run.said
        run.assert_nothing_left()
    lost = [error["vm"] for error in run.information()["errors"] if "qemu-died" in error["text"]]
    assert len(lost) == 1 and "SIGKILL" in run.said
    # and every update has been judged, those that it was at by another guest
    verdicts = {record["item"]: record for record in run.records("verdicts.jsonl")}
    judged = {item.partition("~")[0] for item, record in verdicts.items() if record["verdict"] == "pass"}
    planned = {record["plan"] for record in run.records("agent.jsonl") if record["role"] == "update"}
    assert planned and planned <= judged
    assert f"{len(planned)} passed" in run.said


@pytest.mark.parametrize(
    ("cuts", "rounds"), [pytest.param(10, 1, id="daily"), pytest.param(10, 10, id="nightly", marks=pytest.mark.soak)]
)
def test_whenever_a_qemu_is_killed_it_is_told_and_nothing_is_left(tmp_path: Path, cuts: int, rounds: int) -> None:
    for number in range(rounds):
        _killed_one_after_another(tmp_path / str(number), random.Random(number), cuts)


def _killed_one_after_another(folder: Path, choice: random.Random, cuts: int) -> None:
    folder.mkdir()
    wanted = "random_order and not pauses and dm and bare"
    options = ("--rtc-updates", "24", "--rtc-guests", str(cuts + 2), "-k", wanted)
    with running(folder, *options) as run:

        def told() -> int:
            return sum("qemu-died" in error["text"] for error in run.information()["errors"])

        run.until(run.guests, "a guest")  # before them QEMU is asked for its version, which is no guest's end
        slowest = 0.0
        for count in range(1, cuts + 1):
            select.select([], [], [], choice.uniform(0, 0.3))  # whatever it is at: booting, writing, waiting
            run.until(run.qemus, "a guest")  # the first ones may be gone before the next have begun
            with contextlib.suppress(ProcessLookupError):
                os.kill(choice.choice(run.qemus()), signal.SIGKILL)
            killed = time.monotonic()
            run.until(lambda count=count: told() >= count, f"the end of {count} guests")  # type: ignore[misc]
            slowest = max(slowest, time.monotonic() - killed)
        assert run.wait() == 10, run.said
        run.assert_nothing_left()
    print(f"told after {slowest:.2f} s at most (in a machine that has time for it: less than {TOLD_S} s)")
    assert {error["class"] for error in run.information()["errors"]} == {"infrastructure"}
    verdicts = [record["verdict"] for record in run.records("verdicts.jsonl")]
    assert verdicts and "product fault" not in verdicts
