"""A guest that resets itself: what becomes of a pending update, of the vRTC, of the event stream."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.guests import QEMU_KVM, QEMU_TCG, Console, GuestImage, ImageSpec, LinuxGuest, Write, prepare_image
from harness.hosts.local import LocalHost, LocalProcess
from harness.judge import GuestJudge
from harness.judge.verdict import Verdict
from harness.listener import ListenerProcess

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0
NONCE = "0123456789abcdef0123456789abcdef"
BASE = 1_718_452_800
"""2024-06-15T12:00:00Z, what the guest's RTC shows at the start."""
SECOND = 1_000_000_000
MOST_TRIES = 6
"""A busy machine may need longer than the settle window for a reset: then the case has not come about."""

_LINE = re.compile(r"(\d+) (\d+) \d+@[\d.]+:(.*)")
_RESET = re.compile(r"resettable_reset obj=(\S+)")
_REGISTER_B, _HALT = 0x0B, 0x82

pytestmark = pytest.mark.qemu


class Rebooting:
    """A device model whose guest may reset itself, with everything that the engine has around one."""

    def __init__(self, folder: Path, process: LocalProcess, guest: LinuxGuest) -> None:
        self.folder = folder
        self._process = process
        self._guest = guest
        self._heard = threading.Event()
        self.listening = ListenerProcess()
        self.listener = self.listening.listener(folder / "monitor.sock", folder / "events.jsonl", self._heard.set)

    def boot(self) -> None:
        self._guest.boot(Deadline(PATIENCE))

    def write(self, item: str, writes: Sequence[tuple[int, int]]) -> None:
        """Have the guest write registers, and put into agent.jsonl what the engine puts there."""
        report = self._guest.run(item, [Write(*pair) for pair in writes], Deadline(PATIENCE))
        line = {
            **{"item": item, "role": "update", "mode": "running", "order": [index for index, _ in writes]},
            **{"start_ns": report.start_ns, "end_ns": report.end_ns, "ok": report.ok, "error": report.error},
            "writes": [list(write) for write in report.writes],
        }
        assert report.ok, report.error
        with (self.folder / "agent.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def reboot(self) -> None:
        """The guest resets itself and boots again."""
        self._guest.command("reboot", Deadline(PATIENCE))
        self.boot()

    def journal(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [record for line in lines if (record := json.loads(line))["kind"] == kind]

    def await_events(self, count: int) -> list[dict[str, Any]]:
        """The first `count` events."""
        deadline = Deadline(PATIENCE)
        while len(found := self.journal("object")) < count:
            assert not deadline.expired and self._process.exit_status() is None, f"only {len(found)} of {count} events"
            self._heard.wait(0.1)
            self._heard.clear()
        return found

    def records(self) -> list[dict[str, Any]]:
        """The device model's own records in the trace log."""
        return [json.loads(line[2:]) for line in self._trace() if line.startswith("# ")]

    def accesses(self, name: str) -> list[tuple[int, int]]:
        """(stamp, value) of each write to this region."""
        pattern = re.compile(rf"memory_region_ops_write .* value (0x[0-9a-f]+) size 1 name '{name}'")
        return [(stamp, int(match[1], 16)) for stamp, raw in self._raw() if (match := pattern.match(raw))]

    def resets(self) -> list[int]:
        """Stamps of the machine's resets: of the object that was reset last before the machine first ran."""
        before, machine, stamps = "", None, []
        for stamp, raw in self._raw():
            if match := _RESET.match(raw):
                before = match[1]
                if before == machine:
                    stamps.append(stamp)
            elif raw.startswith("runstate_set") and raw.endswith("(running)"):
                machine = machine or before
        return stamps

    def shown_at(self, stamp_ns: int) -> int:
        """What a vRTC shows that began with BASE and was never set: the Service VM's time went on."""
        started: int = self.records()[0]["stamp_ns"]
        return BASE + stamp_ns // SECOND - started // SECOND

    def _trace(self) -> list[str]:
        text = (self.folder / "trace.log").read_text(encoding="utf-8", errors="replace")
        return text[: text.rfind("\n") + 1].splitlines()

    def _raw(self) -> Iterator[tuple[int, str]]:
        return ((int(match[2]), match[3]) for line in self._trace() if (match := _LINE.match(line)))


@contextmanager
def rebooting(folder: Path, image: GuestImage) -> Iterator[Rebooting]:
    """A booted guest; at the end everything is closed, so that its directory is a complete record."""
    folder.mkdir()
    command = [
        *("/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "harness.devicemodel"),
        *("--cmd_monitor", str(folder / "monitor.sock"), "--rtc", "2024-06-15T12:00:00Z"),
        *("--trace-log", str(folder / "trace.log"), "--exit-record", str(folder / "exit.json")),
        *("--kernel", str(image.kernel), "--initrd", str(image.initrd)),
        *("--append", image.command_line(NONCE), folder.name),
    ]
    with LocalHost() as host, ExitStack() as stack:
        process = host.start(command, log=folder / "device-model.log")
        stack.callback(lambda: process.close(Deadline(PATIENCE)))
        console = Console(process.console, folder / "console.log", name=folder.name)
        guest = LinuxGuest(console, nonce=NONCE, hypervisor=[QEMU_TCG, QEMU_KVM])
        stack.callback(guest.close)
        machine = Rebooting(folder, process, guest)
        stack.callback(machine.listening.close)
        stack.callback(machine.listener.close)
        machine.listener.connect(Deadline(PATIENCE), lambda: process.exit_status() is not None)
        machine.boot()
        yield machine


def verdicts(folder: Path) -> dict[str, Verdict]:
    """What the judge says of the whole record."""
    with GuestJudge(folder) as judge:
        judge.refresh()
        found = judge.decide(judge.last_known_ns, final=True)
        assert not judge.errors, judge.errors
    return {verdict.item: verdict for verdict in found}


def image_that_reboots_by(way: str) -> GuestImage:
    return prepare_image(ImageSpec(append=f"reboot={way}"), None, Deadline(PATIENCE))


def update_and_reboot(machine: Rebooting, number: int) -> int | None:
    """An update, then a reset. The stamp of the update's last write; None if the reset came late in the window.

    Late in it a device model that is kept waiting may see the window's end before it sees the reset.
    """
    before = len(machine.resets())
    machine.write(f"pending-{number}", [(0x09, 0x30 + number), (0x08, 0x03)])
    machine.reboot()
    last = max(stamp for stamp, value in machine.accesses("rtc") if value == 0x03)
    return last if machine.resets()[before] < last + SECOND // 2 else None


def interrupted_update(machine: Rebooting) -> tuple[int, int]:
    """How many updates it took until one was pending at a reset, and the stamp of that one's last write."""
    for number in range(1, MOST_TRIES + 1):
        last = update_and_reboot(machine, number)
        if last is not None:
            return number, last
    raise AssertionError(f"none of {MOST_TRIES} resets came early in the window")


def test_a_system_reset_in_mid_window_takes_nothing_from_the_pending_update(tmp_path: Path) -> None:
    # given a guest that resets itself within the window of an update
    with rebooting(tmp_path / "vm0", image_that_reboots_by("pci,warm")) as machine:
        tries, last = interrupted_update(machine)
        # then its event comes all the same, one window after its last announcing write
        *_, event = machine.await_events(tries)
        assert last + SECOND <= event["t_ns"]
        assert event["event"]["new_time"] - event["event"]["last_time"] > 5 * 365 * 86400
        # and the service was not restarted: bit 3 of port 0xCF9 was never set
        assert {value & 0x0C for _, value in machine.accesses(".*reset-control")} == {0, 0x04}
        # and when the guest, booted again, makes another update
        machine.write("further", [(0x02, 0x59)])
        stamp = machine.accesses("rtc")[-1][0]
        *_, event = machine.await_events(tries + 1)
        # then the vRTC had begun anew at the Service VM's time, which had gone on
        assert event["event"]["last_time"] == machine.shown_at(stamp)
        assert "lost" not in event["event"] and "estimated" not in event["event"]
        assert machine.listener.ended is None
    found = verdicts(tmp_path / "vm0")
    assert {f"pending-{tries}", "further"} <= set(found)
    assert {verdict.verdict for verdict in found.values()} == {"pass"}, found
    assert all(len(found[item].seen) == 1 for item in (f"pending-{tries}", "further"))
    assert not [record for record in machine.records() if record["event"] == "service-restart"]


def test_with_a_full_reset_the_pending_update_dies_and_the_stream_lives(tmp_path: Path) -> None:
    # given a guest that asks for a full reset (bit 3 of port 0xCF9) within the window of an update
    with rebooting(tmp_path / "vm0", image_that_reboots_by("pci")) as machine:
        tries, last = interrupted_update(machine)
        assert any(value & 0x08 for _, value in machine.accesses(".*reset-control")), "Linux asked for a full reset"
        restarts = [record for record in machine.records() if record["event"] == "service-restart"]
        assert len(restarts) == tries
        assert last < restarts[-1]["stamp_ns"] < last + SECOND
        # when the guest, booted again, makes another update
        machine.write("further", [(0x02, 0x59)])
        stamp = machine.accesses("rtc")[-1][0]
        # then the same connection brings that update's event, and never one for the update that died
        events = machine.await_events(tries)
        assert len(events) == tries
        assert events[-1]["event"]["last_time"] == machine.shown_at(stamp)
        assert events[-1]["event"]["raw_events"] == 1
        assert machine.listener.ended is None
        assert not machine.journal("closed") and len(machine.journal("connected")) == 1
    found = verdicts(tmp_path / "vm0")
    assert {verdict.verdict for verdict in found.values()} == {"pass"}, found
    assert len(found["further"].seen) == 1 and found[f"pending-{tries}"].seen == ()


def test_of_a_halted_update_that_a_system_reset_cuts_short_nothing_is_heard(tmp_path: Path) -> None:
    with rebooting(tmp_path / "vm0", image_that_reboots_by("pci,warm")) as machine:
        # given a guest that halted its RTC and wrote a new date, and is reset before it un-halts
        machine.write("halted", [(_REGISTER_B, _HALT), (0x09, 0x31), (0x08, 0x03)])
        machine.reboot()
        # when it makes an update after it has booted again (without un-halting: the reset did that)
        machine.write("further", [(0x02, 0x59)])
        stamp = machine.accesses("rtc")[-1][0]
        # then that update's event is the first that is heard
        (event,) = machine.await_events(1)
        assert event["event"]["last_time"] == machine.shown_at(stamp)
        assert event["event"]["raw_events"] == 1
    found = verdicts(tmp_path / "vm0")
    assert {verdict.verdict for verdict in found.values()} == {"pass"}, found
    assert found["halted"].expected == () == found["halted"].seen
    assert len(machine.journal("object")) == 1
