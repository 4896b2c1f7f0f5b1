"""A fleet of bare guests: one that is lost costs nothing but itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.chain import running

pytestmark = pytest.mark.qemu

GUESTS = 4


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
