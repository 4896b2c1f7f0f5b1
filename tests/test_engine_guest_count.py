"""`--rtc-guests` is kept to, whatever kinds of guests the plans need: real guests, by their processes and traces."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.chain import running

pytestmark = pytest.mark.qemu


def test_one_guest_at_once_means_one_even_where_two_kinds_are_needed(tmp_path: Path) -> None:
    # given plans for two kinds of guests, and room for one guest
    most = 0
    with running(tmp_path, "--rtc-guests", "1", "-k", "(dm and hwclock-pc-1) or hwclock-q35-1") as run:
        second = run.directory / "q35-1" / "trace.log"

        def second_is_at_work() -> bool:
            nonlocal most
            most = max(most, len(run.qemus()))
            return second.exists() and b"name 'rtc'" in second.read_bytes()

        # when both have been at work
        run.until(second_is_at_work, "guest of the second kind")
        os.kill(run.process.pid, signal.SIGINT)
        run.wait()
        run.assert_nothing_left()
    # then there were never two at the same time, by what was seen and by what the device models wrote
    assert most == 1
    first = (run.directory / "pc-1" / "trace.log").read_text(encoding="utf-8", errors="replace").splitlines()
    begun = second.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    end, start = json.loads(first[-1][2:]), json.loads(begun[2:])
    assert (end["event"], start["event"]) == ("end", "start")
    assert end["stamp_ns"] < start["stamp_ns"]
