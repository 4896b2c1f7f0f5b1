"""The whole way on a Service VM, rehearsed: guest, device model with acrn-dm's monitor, service, watching client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.devicemodel.exit_record import parse_exit_record
from harness.guests import AgentGuest, Write, prepare_bare_image
from harness.hosts.local import LocalProcess
from tests.guests_support import bare_guest_below
from tests.hypervisor_support import serving as hypervisor_serving
from tests.vm_event_support import NOON, PATIENCE, Client, eventually

ROOT = Path(__file__).parents[1]
NONCE = "0123456789abcdef"

pytestmark = pytest.mark.qemu


@contextmanager
def device_model(folder: Path, *more: str) -> Iterator[tuple[AgentGuest, LocalProcess]]:
    """A bare guest below a device model with acrn-dm's monitor socket."""
    image = prepare_bare_image(None, Deadline(PATIENCE))
    command = [
        *("/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "harness.devicemodel", "--acrn-monitor"),
        *("--cmd_monitor", str(folder / "acrn-dm"), "--exit-record", str(folder / "exit.json")),
        *("--rtc", "2024-06-15T12:00:00Z", "--memory", "8", "--kernel", str(image.kernel)),
        *("--append", image.command_line(NONCE), *more, "vm0"),
    ]
    with bare_guest_below(command, NONCE, folder) as (guest, process):
        yield guest, process


@contextmanager
def service(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The event service with acrn-dm as its source."""
    arguments = ["serve", "--acrn-dm", str(folder / "acrn-dm"), "--vm", "vm0", "--monitor", str(folder / "monitor")]
    command = [sys.executable, "-m", "harness.vm_event", *arguments]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("serving vm0 on ")
            yield process
        finally:
            process.kill()


def source(client: Client) -> dict[str, Any]:
    status = client.status()["sources"]["monitor"]
    assert isinstance(status, dict)
    return status


def test_updates_come_through_and_commands_go_back(tmp_path: Path) -> None:
    # given a service that was started before the device model that it follows
    with service(tmp_path) as serving, Client(tmp_path / "monitor") as watcher, Client(tmp_path / "monitor") as other:
        assert watcher.register() == {"ack": 0}
        assert not source(other)["connected"]
        with device_model(tmp_path) as (guest, process):
            eventually(lambda: source(other)["registered"], "the registration")
            # when the guest makes two updates, one with its RTC running, one with it halted
            for updates, writes in enumerate(
                (
                    [Write(0x09, 0x25), Write(0x08, 0x07), Write(0x07, 0x20)],
                    [Write(0x0B, 0x82), Write(0x04, 0x01), Write(0x02, 0x02), Write(0x0B, 0x02)],
                )
            ):
                report = guest.run(f"update-{updates}", writes, Deadline(PATIENCE))
                assert report.ok, report.error
                # then our client gets one event of each, from source "monitor", as far as acrn-dm tells
                event = watcher.receive()
                assert (event["vm_event"], event["vm"], event["source"]) == (0, "vm0", "monitor")
                assert event["new_time"] == event["last_time"] + event["delta_time"]
                assert event["raw_events"] is None
                if updates == 0:
                    assert NOON <= event["last_time"] < NOON + 3600
                    assert event["delta_time"] == 400 * 86400, "15 June 2024 -> 20 July 2025"
                    shown = event["new_time"]
                else:
                    assert shown <= event["last_time"] < shown + 3600, "the clock went on from the first"
                    assert event["new_time"] % 86400 // 60 == 62, "at 01:02 o'clock"
            # and acrn-dm serves nobody else meanwhile
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(str(tmp_path / "acrn-dm"))
                stranger.setblocking(False)
                stranger.sendall(b'{"command":"destroy"}')
                assert other.ask("blkrescan", arguments="0,/none") == {"ack": -1}
                with pytest.raises(BlockingIOError):
                    stranger.recv(1)
            status = source(other)
            assert (status["settled"], status["garbage"], status["reconnects"], status["relayed"]) == (2, 0, 0, 1)
            # and what has to reach it goes through the service
            assert other.ask("destroy") == {"ack": 0}
            eventually(lambda: process.exit_status() is not None, "the end of the device model")
            record = parse_exit_record((tmp_path / "exit.json").read_text(encoding="utf-8"))
            assert record is not None and (record.fault, record.reason) == (None, "destroyed")
        # and the service goes on, to follow the next one
        eventually(lambda: not source(other)["connected"], "the end of the connection")
        assert other.ask("destroy") == {"ack": -1}, "there is nobody to relay it to"
        assert not (tmp_path / "acrn-dm").exists()
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(PATIENCE) == 0


def test_a_real_time_vm_refuses_to_be_destroyed_and_tells_of_its_updates(tmp_path: Path) -> None:
    """The hypervisor's vRTC, as post-launched real-time VMs have it."""
    path = tmp_path / "hypervisor"
    with (
        hypervisor_serving(path),
        device_model(tmp_path, "--vrtc", "hv", "--hypervisor", str(path)) as (guest, process),
        service(tmp_path),
        Client(tmp_path / "monitor") as watcher,
    ):
        assert watcher.register() == {"ack": 0}
        eventually(lambda: source(watcher)["registered"], "the registration")
        assert watcher.ask("destroy") == {"ack": -1}
        report = guest.run("update", [Write(0x09, 0x25), Write(0x08, 0x07), Write(0x07, 0x20)], Deadline(PATIENCE))
        assert report.ok, report.error
        event = watcher.receive()
        assert (event["source"], event["vm"]) == ("monitor", "vm0")
        assert event["new_time"] == event["last_time"] + event["delta_time"]
        assert NOON + 400 * 86400 <= event["new_time"] < NOON + 400 * 86400 + 3600, "20 July 2025, a little after noon"
        assert process.exit_status() is None
        os.kill(process.pid, signal.SIGTERM)
        eventually(lambda: process.exit_status() is not None, "the end of the device model")
    record = parse_exit_record((tmp_path / "exit.json").read_text(encoding="utf-8"))
    assert record is not None and record.reason == "terminated"
