"""The status as people read it: a table of counts, and a line for whatever is wrong."""

from __future__ import annotations

import os
import struct

from harness.vm_event import RtcChange, SharedRing, VmEventService
from harness.vm_event.source import COUNTS
from harness.vm_event.status import describe_status
from tests.vm_event_support import NOON, Heard, eventually


def table(text: str) -> dict[str, dict[str, str]]:
    """The rows of the table by source."""
    header, *rows = [line.split() for line in text.splitlines() if line.startswith(("source", "dm", "hv", "sum"))]
    return {name: dict(zip(header[1:], cells, strict=True)) for name, *cells in rows if len(cells) == len(COUNTS)}


def test_what_a_service_says_of_itself_is_shown_in_full() -> None:
    kick = os.eventfd(0)
    with SharedRing.create(shared=True) as ring, VmEventService("vm0", window=1e-6) as service:
        assert ring.descriptor is not None
        service.add_ring("hv", ring.descriptor, kick)
        heard = Heard(service)
        service.start()
        service.send(RtcChange(NOON, 60))
        heard.next()
        os.pwrite(ring.descriptor, struct.pack("<Q", 0), 0)
        os.eventfd_write(kick, 1)
        eventually(lambda: service.status()["sources"]["hv"]["error"], "the damage to be noticed")
        text = describe_status(service.status())
        service.stop()
        ended = describe_status(service.status())
    os.close(kick)
    assert text.startswith("vm0: running for ")
    assert "last event: vm0/dm: RTC 2024-06-15 12:00:00 -> 2024-06-15 12:01:00, changed by +60 s, 1 raw" in text
    rows = table(text)
    assert set(rows) == {"dm", "hv", "sum"}
    assert (rows["dm"]["raw"], rows["hv"]["raw"], rows["sum"]["settled"]) == ("1", "0", "1")
    assert set(rows["sum"]) == set(COUNTS)
    assert "hv: disabled: magic is 0x0, a ring's is 0x5aa57aa71aa13aa3" in text
    assert "listeners: subscribers 1, behind 0, missed 0" in text
    assert ended.startswith("vm0: not running")
    assert table(ended)["sum"]["raw"] == "1", "the last counts"


def test_what_its_host_has_it_say_stands_in_its_status() -> None:
    with VmEventService("vm0") as service:
        service.describe(trace_log="/tmp/trace.log")
        service.start()
        service.describe(exit_record=None)
        status = service.status()
    assert status["about"] == {"trace_log": "/tmp/trace.log", "exit_record": None}
    assert "about: trace log /tmp/trace.log, exit record none" in describe_status(status).splitlines()


def test_before_its_first_start_there_is_little_to_say() -> None:
    text = describe_status(VmEventService("vm0").status())
    assert text.startswith("vm0: not running, settle window 1.0 s\nlast event: none\n")


def test_an_older_or_newer_service_is_shown_as_well_as_it_can_be() -> None:
    text = describe_status(
        {
            "vm": "vm0", "running": True, "uptime": 93784.5, "window": 1.0, "raw": 3, "unheeded": 2, "error": "tired",
            "sources": {"new": {"raw": 3, "pending": True, "mood": "good", "awake": True, "error": None}},
            "actions": {"wave": {"run": 3, "last_refusal": None}},
        }
    )  # fmt: skip
    assert text.startswith("vm0: running for 1 d 2 h, settle window 1.0 s\nthe service failed: tired\n")
    assert "2 of those dropped were sent while the service was not running" in text
    assert "new: an update is pending\nnew: mood good, awake yes" in text
    assert "action wave: run 3, last refusal none" in text
    assert [row.split()[:3] for row in text.splitlines() if row.startswith(("new  ", "sum  "))] == [
        ["new", "3", "-"],
        ["sum", "3", "-"],
    ]


def test_nothing_that_a_foreign_service_says_moves_the_cursor() -> None:
    text = describe_status({"vm": "\x1b[2J", "sources": {"a\nb": {"error": "\x07", "x": "\r"}}, "error": "\x9b1m"})
    assert all(line.isprintable() for line in text.split("\n"))
    assert r"\x1b[2J: not running" in text
