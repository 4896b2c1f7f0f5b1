"""Our device model in acrn-dm's place, with a real guest: console, events, how it ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.devicemodel.acrn_dm import OPTIONS
from harness.devicemodel.exit_record import parse_exit_record
from harness.guests import QEMU_KVM, QEMU_TCG, AgentGuest, Console, Write, prepare_bare_image
from harness.hosts.local import LocalHost, LocalProcess
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
    with LocalHost() as host, ExitStack() as stack:
        process = host.start(command, log=folder / "acrn-dm.log")
        stack.callback(lambda: process.close(Deadline(PATIENCE)))
        console = Console(process.console, folder / "console.log", name="vm0")
        guest = AgentGuest(console, nonce=NONCE, hypervisor=[QEMU_TCG, QEMU_KVM])
        stack.callback(guest.close)
        guest.boot(Deadline(PATIENCE))
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
    assert "without effect here" in (tmp_path / "acrn-dm.log").read_text(encoding="utf-8")


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
