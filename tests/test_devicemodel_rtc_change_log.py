"""What QEMU says of its own RTC is kept as it came, and nobody else suffers where it cannot be."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from harness.devicemodel.rtc_change_log import RtcChangeLog

CHANGE = {
    "event": "RTC_CHANGE",
    "timestamp": {"seconds": 1_700_000_000, "microseconds": 5},
    "data": {"offset": -3, "qom-path": "/machine/unattached/device[9]"},
}


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_keeps_every_rtc_change_whole_and_no_other_event(tmp_path: Path) -> None:
    before = time.monotonic_ns()
    changes = RtcChangeLog(tmp_path / "log")
    for event in ({"event": "RESUME"}, CHANGE, {"event": "SHUTDOWN", "data": {}}):
        changes.event(event)
    changes.close()

    found = records(tmp_path / "log")
    assert [record["kind"] for record in found] == ["start", "rtc-change", "end"]
    assert found[1]["event"] == CHANGE
    assert found[2]["failure"] is None
    assert before <= found[0]["t_ns"] <= found[1]["t_ns"] <= found[2]["t_ns"] <= time.monotonic_ns()


def test_says_that_qmp_failed_and_takes_nothing_after_the_end(tmp_path: Path) -> None:
    changes = RtcChangeLog(tmp_path / "log")
    changes.close("EOFError: gone")
    changes.event(CHANGE)
    changes.close()

    assert [(record["kind"], record.get("failure")) for record in records(tmp_path / "log")] == [
        ("start", None),
        ("end", "EOFError: gone"),
    ]


def test_a_full_disk_costs_the_record_only(caplog: pytest.LogCaptureFixture) -> None:
    changes = RtcChangeLog(Path("/dev/full"))
    changes.event(CHANGE)
    changes.close()
    assert "RTC_CHANGE is not recorded any more: [Errno 28]" in caplog.text


def test_without_a_file_nothing_is_kept() -> None:
    changes = RtcChangeLog(None)
    changes.event(CHANGE)
    changes.close()
