"""The command line, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from harness.vm_event import SharedRing, Tunnel, VmEventService
from harness.vm_event.watch import MonitorClient, describe
from tests.vm_event_command import run, say, serving, started, watching
from tests.vm_event_support import NOON, PATIENCE


def test_raw_events_by_hand_are_watched_settled(path: Path) -> None:
    with serving(path, "--stdin", "--window", "0.3") as serve, watching(path, "--json") as watch:
        say(serve, '{"set_rtc":1718452800}', '{"last_time":1718452800,"delta_time":60}')
        assert watch.stdout is not None
        event = json.loads(watch.stdout.readline())
        assert (event["last_time"], event["delta_time"], event["vm"], event["source"]) == (
            NOON,
            60,
            "vm0",
            "dm",
        )
        status = run("status", "--socket", str(path), "--json")
        assert json.loads(status.stdout)["settled"] == 1
        status = run("status", "--socket", str(path))
        assert status.returncode == 0
        columns, counts = (status.stdout.splitlines()[line].split() for line in (3, 4))
        assert dict(zip(columns, counts, strict=True))["settled"] == "1"
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(PATIENCE) == 0
        assert not path.exists()
        assert watch.wait(PATIENCE) == 0, "the service ended in good order, and so does its watcher"
        assert watch.stderr is not None
        assert watch.stderr.read() == "the service closed the connection\n"


def test_lines_that_are_no_events_are_named_and_the_rest_goes_on(path: Path) -> None:
    with serving(path, "--stdin", "--window", "0.01") as serve, watching(path) as watch:
        say(
            serve,
            "nonsense",
            '{"last_time":1}',
            '{"vm_event":7}',
            '{"last_time":9e99,"delta_time":1}',
            '{"last_time":99999999999999999999,"delta_time":1}',
            '{"vm_event":1}',
        )
        assert watch.stdout is not None and serve.stderr is not None
        assert watch.stdout.readline() == "vm0/dm: power-off\n"
        for _ in range(5):
            assert serve.stderr.readline().startswith("warning: stdin: ")


def test_events_for_people_say_what_happened() -> None:
    event = {"vm_event": 0, "last_time": NOON, "new_time": NOON - 60, "delta_time": -60, "raw_events": 2,
             "source": "dm", "vm": "vm0", "lost": True, "overrun": 3}  # fmt: skip
    assert describe(event) == (
        "vm0/dm: RTC 2024-06-15 12:00:00 -> 2024-06-15 11:59:00, changed by -60 s, 2 raw [lost, overrun 3]"
    )
    event |= {"last_time": None, "delta_time": None, "new_time": 10**20}
    assert describe(event).startswith("vm0/dm: RTC unknown -> 100000000000000000000, changed by ? s")
    assert describe({"anything": 1}) == "{'anything': 1}"


def test_a_ring_inherited_from_another_process_is_served(path: Path) -> None:
    kick = os.eventfd(0)
    with SharedRing.create(shared=True) as ring:
        assert ring.descriptor is not None
        descriptors = (ring.descriptor, kick)
        option = f"hv:{ring.descriptor}:{kick}:stamped"
        with (
            serving(path, "--ring", option, "--window", "0.1", pass_fds=descriptors),
            MonitorClient(path) as client,
        ):
            client.register()
            tunnel = Tunnel.attach(*descriptors)
            stamp = time.monotonic_ns()
            for number in range(7):
                tunnel.put(0, NOON + number, 1, stamp)
            seen: list[dict[str, Any]] = []
            while sum(event["raw_events"] for event in seen) < 7:  # one, unless this process was held up
                event = next(client.events())
                assert isinstance(event, dict)
                seen.append(event)
            assert (seen[-1]["source"], seen[-1]["new_time"]) == ("hv", NOON + 7)
            tunnel.close()
    os.close(kick)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_serving_in_good_order(path: Path, number: signal.Signals) -> None:
    with serving(path, "--stdin") as serve:
        say(serve, '{"last_time":1718452800,"delta_time":60}')
        serve.send_signal(number)
        assert serve.wait(PATIENCE) == 0
        assert not path.exists()


def test_a_killed_service_is_replaced_and_its_watcher_ends(path: Path) -> None:
    with serving(path, "--stdin") as first, watching(path) as watch:
        first.kill()
        assert watch.wait(PATIENCE) == 0
    assert path.exists()
    with serving(path, "--stdin"):
        second = run("serve", "--monitor", str(path), "--stdin")
        assert second.returncode == 1
        assert second.stderr == f"error: {path}: another process is listening there\n"


def test_a_second_watcher_is_refused(path: Path) -> None:
    with VmEventService() as service:
        service.start(path)
        with watching(path):
            second = run("watch", "--socket", str(path))
            assert second.returncode == 1
            assert second.stderr == f"error: {path}: refused, another event client is registered\n"


def test_watch_copes_with_what_acrn_dm_sends(path: Path) -> None:
    """Several lines with tabs, nothing between objects, a descriptor attached, garbage."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with started("watch", "--socket", str(path), "--json") as watch:
            connection, _ = listener.accept()
            assert json.loads(connection.recv(4096)) == {"command": "register_vm_event_client"}
            event = b'{\n\t"vm_event":\t0,\n\t"delta_time":\t5\n}'
            with Path("/dev/null").open("rb") as null:
                socket.send_fds(connection, [b'{\n\t"ack":\t0\n}'], [null.fileno()])
            connection.sendall(event + event[:5])
            connection.sendall(event[5:] + b"oops" + event)
            connection.close()
            assert watch.wait(PATIENCE) == 0
            assert watch.stdout is not None and watch.stderr is not None
            assert watch.stdout.read() == '{"vm_event":0,"delta_time":5}\n' * 3
            assert "garbage on the event stream: no JSON object: b'oops'\n" in watch.stderr.read()


def test_nobody_there_and_wrong_usage_are_clear_errors(path: Path) -> None:
    for command in ("watch", "status"):
        result = run(command, "--socket", str(path))
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == f"error: {path}: No such file or directory\n"
    assert run("serve", "--monitor", str(path)).returncode == 2
    for wrong in (
        ["--window", "0"],
        ["--window", "x"],
        ["--ring", "hv:1"],
        ["--ring", "hv:a:b"],
        ["--nonsense"],
    ):
        result = run("serve", "--monitor", str(path), "--stdin", *wrong)
        assert result.returncode == 2, wrong
        assert "usage:" in result.stderr
    result = run("serve", "--monitor", str(path), "--ring", "hv:90:91")
    assert result.returncode == 1
    assert result.stderr == "error: kick descriptor 91: [Errno 9] Bad file descriptor\n"
