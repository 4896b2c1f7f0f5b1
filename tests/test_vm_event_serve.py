"""`serve` with all it can be asked for: commands, logs, sources of a Service VM; and that it ends in good order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.vm_event import SharedRing
from harness.vm_event.logs import JOURNAL_SOCKET
from harness.vm_event.watch import MonitorClient
from tests.acrn_dm_peer import ACK, NACK, Peer, printed, rtc_change
from tests.hsm_double import hsm_library, open_device, with_double
from tests.vm_event_command import run, say, serving
from tests.vm_event_support import NOON, PATIENCE, eventually

__all__ = ["hsm_library"]

CHANGE = '{"last_time":1718452800,"delta_time":60}'


def status_of(path: Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run("status", "--socket", str(path), "--json").stdout)
    return answer


def end(serve: subprocess.Popen[str]) -> list[str]:
    """End it in good order; what it had to say on stderr."""
    serve.send_signal(signal.SIGTERM)
    assert serve.wait(PATIENCE) == 0
    assert serve.stderr is not None
    return serve.stderr.read().splitlines()


def test_commands_are_run_with_the_event_and_without_any_of_its_descriptors(path: Path, tmp_path: Path) -> None:
    told, listed = tmp_path / "told", tmp_path / "listed"
    kick = os.eventfd(0)
    with SharedRing.create(shared=True) as ring:
        assert ring.descriptor is not None
        descriptors = (ring.descriptor, kick)
        options = (
            "--stdin", "--window", "0.01", "--log", "json", "--ring", f"hv:{ring.descriptor}:{kick}",
            "--on-rtc-change", f"cp /dev/stdin '{told}'", "--on-rtc-change", f"sh -c 'ls -l /proc/$$/fd > {listed}'",
            "--on-rtc-change", "sh -c 'echo what a pity >&2; exit 3'", "--on-rtc-change-timeout", str(PATIENCE),
        )  # fmt: skip
        with serving(path, *options, pass_fds=descriptors) as serve:
            say(serve, CHANGE)
            eventually(lambda: status_of(path)["actions"]["on-rtc-change"]["failed"] == 1, "the last command")
            text = run("status", "--socket", str(path)).stdout
            assert "action on-rtc-change: run 3, failed 1, timed out 0, interrupted 0, missed 0" in text
            event, failure = map(json.loads, end(serve))
    os.close(kick)
    assert json.loads(told.read_text(encoding="ascii"))["delta_time"] == 60
    assert event["event"] == json.loads(told.read_text(encoding="ascii"))
    assert failure["message"].endswith("its last words:\nwhat a pity")
    assert "memfd:vm_event-ring" not in listed.read_text(encoding="utf-8")
    assert "eventfd" not in listed.read_text(encoding="utf-8")


def test_its_end_ends_the_command_that_runs(path: Path, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    os.mkfifo(told)
    command = f"sh -c 'echo $$ > {told}; exec sleep 1000'"
    with serving(path, "--stdin", "--window", "0.01", "--on-rtc-change", command) as serve:
        say(serve, CHANGE)
        pid = int(told.read_text(encoding="ascii"))
        assert any("was interrupted by the service's stop" in line for line in end(serve))
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (("--on-rtc-change", "no-such-tool x"), "no-such-tool: no such command in PATH"),
        (("--hsm", "/dev/null"), None),
        (("--hsm", "77"), "HSM descriptor 77"),
        (("--hsm-of", "1"), "/dev/acrn_hsm"),
        (("--hsm", "1", "--hsm-of", "1"), None),
        (("--on-rtc-change", "'"), None),
        (("--on-rtc-change", ""), None),
        (("--on-rtc-change-timeout", "1"), None),
        (("--policy", "nonsense"), None),
        (("--log", "nonsense"), None),
    ],
)
def test_what_cannot_be_done_is_told_at_once(path: Path, option: tuple[str, ...], problem: str | None) -> None:
    result = run("serve", "--monitor", str(path), "--stdin", *option)
    last = result.stderr.splitlines()[-1]
    if problem is None:
        assert result.returncode == 2 and "error: " in last
    else:
        assert result.returncode == 1 and last.startswith("error: ") and problem in last
    assert not path.exists()


def test_an_error_is_json_too_where_the_log_is(path: Path) -> None:
    result = run("serve", "--monitor", str(path / "below"), "--stdin", "--log", "json")
    assert result.returncode == 1
    entry = json.loads(result.stderr)
    assert (entry["level"], entry["message"]) == ("error", f"{path}/below: No such file or directory")


def test_without_journald_there_is_no_log_to_it(path: Path) -> None:
    if Path(JOURNAL_SOCKET).exists():
        pytest.skip("there is a journald here")
    result = run("serve", "--monitor", str(path), "--stdin", "--log", "journald")
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {JOURNAL_SOCKET}: No such file or directory: there is no journald here")


def test_an_hsm_descriptor_that_is_none_is_not_used(path: Path) -> None:
    with Path("/dev/null").open("rb") as null:
        descriptor = null.fileno()
        result = run("serve", "--monitor", str(path), "--hsm", str(descriptor), pass_fds=(descriptor,))
    assert result.returncode == 1
    warning, error = result.stderr.splitlines()
    assert warning.startswith("warning: registering a ring replaces acrn-dm's for good")
    assert error.startswith(f"error: HSM descriptor {descriptor}: SETUP_VM_EVENT_RING")


def test_an_acrn_dm_is_a_source_and_commands_are_relayed_to_it(path: Path, tmp_path: Path) -> None:
    with Peer(tmp_path / "acrn-dm") as peer, serving(path, "--acrn-dm", str(tmp_path / "acrn-dm")) as serve:
        assert json.loads(peer.accept())["command"] == "register_vm_event_client"
        peer.send(ACK)
        with MonitorClient(path) as client, MonitorClient(path) as other:
            client.register()
            peer.send(rtc_change(NOON, 60) + printed(vm_event=1))
            events = client.events()
            assert next(events) == {
                "vm_event": 0, "last_time": NOON, "new_time": NOON + 60, "delta_time": 60, "raw_events": None,
                "source": "monitor", "vm": "vm0",
            }  # fmt: skip
            assert next(events) == {"vm_event": 1, "source": "monitor", "vm": "vm0"}
            answers: list[dict[str, Any]] = []
            for name, argument, answer in (("blkrescan", "virtio-blk,x", ACK), ("destroy", None, NACK)):
                asking = threading.Thread(target=ask, args=(other, name, argument, answers))
                asking.start()
                assert json.loads(peer.read()) == {"command": name} | ({"arguments": argument} if argument else {})
                peer.send(answer)
                asking.join(PATIENCE)
            assert answers == [{"ack": 0}, {"ack": -1}]
            assert other.command("anything") == {"ack": -1}
        text = run("status", "--socket", str(path)).stdout
        assert "monitor    -        1" in text
        assert "relayed 2, connected yes, registered yes" in text
        assert any(line.startswith("info: vm0/monitor: RTC 2024-06-15 12:00:00 -> ") for line in end(serve))


def ask(client: MonitorClient, name: str, argument: str | None, answers: list[dict[str, Any]]) -> None:
    answers.append(client.command(name, argument))


def test_a_command_under_way_to_acrn_dm_does_not_hold_up_the_end(path: Path, tmp_path: Path) -> None:
    with Peer(tmp_path / "acrn-dm") as peer, serving(path, "--acrn-dm", str(tmp_path / "acrn-dm")) as serve:
        peer.accept()
        peer.send(ACK)
        with MonitorClient(path) as client:
            eventually(lambda: client.command("status")["status"]["sources"]["monitor"]["registered"], "registration")
            client._socket.sendall(b'{"command":"destroy"}')
            assert json.loads(peer.read()) == {"command": "destroy"}
            end(serve)


def test_nobodys_vm_is_kept_by_a_service_that_has_its_ring(hsm_library: Path, path: Path) -> None:
    """The kernel ends a VM with the last descriptor of it: serve has none left once its ring is registered."""
    with open_device() as device:
        arguments = ["-m", "harness.vm_event", "serve", "--hsm", str(device), "--monitor", str(path)]
        with with_double(hsm_library, arguments, device) as (process, _):
            assert process.stdout is not None
            assert process.stdout.readline() == f"serving vm on {path} from hv\n"
            number = os.fstat(device).st_rdev
            held = [entry.stat() for entry in Path(f"/proc/{process.pid}/fd").iterdir() if int(entry.name) > 2]
            assert not [status for status in held if status.st_rdev == number]
