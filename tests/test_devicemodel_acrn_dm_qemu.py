"""Our device model in acrn-dm's place, with a real guest: console, events, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.devicemodel.acrn_dm import OPTIONS
from harness.devicemodel.exit_record import parse_exit_record
from harness.guests import AgentGuest, Read, Write, prepare_bare_image
from harness.hosts.local import LocalProcess
from tests.guests_support import bare_guest_below
from tests.vm_event_support import NOON, PATIENCE, Client, eventually

ROOT = Path(__file__).parents[1]
NONCE = "0123456789abcdef"
UPDATE = [Write(0x09, 0x25), Write(0x08, 0x07), Write(0x07, 0x20)]
"""15 June 2024 -> 20 July 2025: 400 days."""

pytestmark = pytest.mark.qemu


@contextmanager
def acrn_dm(folder: Path, *arguments: str, options: str = "") -> Iterator[tuple[AgentGuest, LocalProcess, Path]]:
    """A bare guest started as on a Service VM; its monitor socket."""
    image = prepare_bare_image(None, Deadline(PATIENCE))
    monitor = folder / "vm0.sock"
    ours = f"--rtc 2024-06-15T12:00:00Z --exit-record '{folder / 'exit.json'}' {options}"
    command = [
        *("/usr/bin/env", f"PYTHONPATH={ROOT}", f"{OPTIONS}={ours}"),
        *(sys.executable, "-m", "harness.devicemodel.acrn_dm", "-A", "-m", "8M", "-s", "0:0,hostbridge"),
        *("-s", "1:0,lpc", "-l", "com1,stdio", "-E", str(image.kernel), "-B", image.command_line(NONCE)),
        *("--cmd_monitor", str(monitor), *arguments, "vm0"),
    ]
    with bare_guest_below(command, NONCE, folder) as (guest, process):
        yield guest, process, monitor


def end_of(process: LocalProcess, folder: Path) -> str:
    """The reason for which it ended, once it has."""
    eventually(lambda: process.exit_status() is not None, "the end of the device model")
    record = parse_exit_record((folder / "exit.json").read_text(encoding="utf-8"))
    assert record is not None and record.fault is None
    assert process.exit_status() == 0
    return record.reason


def test_events_as_acrn_words_them_and_an_end_by_destroy(tmp_path: Path) -> None:
    with acrn_dm(tmp_path) as (guest, process, monitor):
        with Client(monitor) as client:
            assert client.ask("register_vm_event_client") == {"ack": 0}
            # when the guest makes an update
            assert guest.run("update", UPDATE, Deadline(PATIENCE)).ok
            # then the event has what acrn-dm's has, and nothing else
            event = client.receive()
            assert sorted(event) == ["delta_time", "last_time", "vm_event"]
            assert (event["vm_event"], event["delta_time"]) == (0, 400 * 86400)
            assert NOON <= event["last_time"] < NOON + 3600
            # and the guest outlives its console, as acrn-dm's does
            guest.close()
            assert client.ask("blkrescan", arguments="0,/none") == {"ack": -1}
            assert process.exit_status() is None
            assert client.ask("destroy") == {"ack": 0}
        assert end_of(process, tmp_path) == "destroyed"
    assert "without effect here" in (tmp_path / "device-model.log").read_text(encoding="utf-8")


def test_a_real_time_vm_has_the_hypervisors_rtc_and_is_not_destroyed(tmp_path: Path) -> None:
    with acrn_dm(tmp_path, "--rtvm", "--lapic_pt") as (guest, process, monitor), Client(monitor) as client:
        assert client.ask("register_vm_event_client") == {"ack": 0}
        # when its guest writes while the RTC is "halted", which the hypervisor does not know
        assert guest.run("update", [Write(0x0B, 0x82), *UPDATE], Deadline(PATIENCE)).ok
        # then it is told all the same
        event = client.receive()
        assert event["last_time"] + event["delta_time"] - NOON - 400 * 86400 in range(3600)
        # and a destroy is refused, while a signal ends it
        assert client.ask("destroy") == {"ack": -1}
        assert process.exit_status() is None
        os.kill(process.pid, signal.SIGTERM)
        assert end_of(process, tmp_path) == "terminated"
    # its close() has proved that no hypervisor process is left in its session


def test_full_events_for_several_clients_where_our_own_service_is_judged(tmp_path: Path) -> None:
    with (
        acrn_dm(tmp_path, "--rtvm", options="--full-events") as (guest, process, monitor),
        Client(monitor) as client,
        Client(monitor) as other,
    ):
        assert client.ask("register_vm_event_client") == {"ack": 0}
        assert guest.run("update", UPDATE, Deadline(PATIENCE)).ok
        event = client.receive()
        assert (event["source"], event["vm"], event["raw_events"]) == ("hv", "vm0", 3)
        assert event["new_time"] == event["last_time"] + event["delta_time"]
        assert other.ask("destroy") == {"ack": -1}
        # when the guest ends itself, as a real-time VM does
        guest.command("poweroff", Deadline(PATIENCE))
        assert end_of(process, tmp_path) == "guest-shutdown"


def test_what_the_guest_reads_is_what_events_tell_however_long_qemu_takes(tmp_path: Path) -> None:
    """On a bench the vRTC is known by what the guest reads: here that is QEMU's own, which starts with QEMU."""
    slow = tmp_path / "slow-qemu"
    slow.write_text('#!/bin/sh\nsleep 2\nexec qemu-system-x86_64 "$@"\n', encoding="ascii")
    slow.chmod(0o755)
    with acrn_dm(tmp_path, options=f"--qemu '{slow}'") as (guest, process, monitor), Client(monitor) as client:
        assert client.ask("register_vm_event_client") == {"ack": 0}
        # when a guest reads minute and second, and then makes an update
        report = guest.run("update", [Read(0x02), Read(0x00), *UPDATE], Deadline(PATIENCE))
        (_, minute, _), (_, second, _) = report.reads
        shown = int(f"{minute:x}") * 60 + int(f"{second:x}")
        # then the event begins at what it read
        assert (client.receive()["last_time"] - NOON - shown) in (0, 1)
        os.kill(process.pid, signal.SIGTERM)


def test_a_qemu_that_refuses_is_told_as_ever(tmp_path: Path) -> None:
    image = prepare_bare_image(None, Deadline(PATIENCE))
    ours = f"--cpu nonsense --exit-record '{tmp_path / 'exit.json'}'"
    done = subprocess.run(
        [sys.executable, "-m", "harness.devicemodel.acrn_dm", "-k", str(image.kernel), "vm0"],
        cwd=ROOT, env={**os.environ, OPTIONS: ours}, capture_output=True, timeout=PATIENCE, check=False,
    )
    record = parse_exit_record((tmp_path / "exit.json").read_text(encoding="utf-8"))
    assert record is not None and (record.fault, record.reason) == ("configuration", "qemu-refused")
    assert "nonsense" in record.problem and done.returncode == record.status


@pytest.mark.parametrize("options", ["", "--right-sums"])
def test_a_date_that_is_none_in_between_is_summed_as_acrn_dm_sums_it(tmp_path: Path, options: str) -> None:
    with acrn_dm(tmp_path, options=options) as (guest, process, monitor), Client(monitor) as client:
        # given 31 January, and a client that has heard of it
        assert client.ask("register_vm_event_client") == {"ack": 0}
        assert guest.run("first", [Write(0x08, 0x01), Write(0x07, 0x31)], Deadline(PATIENCE)).ok
        before = client.receive()
        # when it becomes the 29th of February, the month first: what is in between is no date
        assert guest.run("second", [Write(0x08, 0x02), Write(0x07, 0x29)], Deadline(PATIENCE)).ok
        event = client.receive()
        # then acrn-dm's delta_time counts from -1 where the right one is 29 days
        shown = before["last_time"] + before["delta_time"]
        if options:
            assert event["delta_time"] == 29 * 86400
            assert event["last_time"] - shown in range(60)
        else:
            assert event["delta_time"] > shown
        os.kill(process.pid, signal.SIGTERM)
