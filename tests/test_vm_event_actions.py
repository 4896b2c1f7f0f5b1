"""Commands run for settled RTC changes: in order, one at a time, counted; and a stop leaves none of them behind."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from harness.vm_event import ActionError, RtcChange, VmEventService
from harness.vm_event import listeners as listeners_module
from harness.vm_event.actions import RunCommands, words_of
from tests.vm_event_support import INSTANT, NOON, PATIENCE, SECOND, Client, eventually, nothing_left_open


def counts(service: VmEventService) -> dict[str, int]:
    actions: dict[str, dict[str, int]] = service.status()["actions"]
    return actions["on-rtc-change"]


def sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def test_every_event_is_given_to_every_command_in_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = [sh(f"echo begin >> {log}; cat >> {log}; echo end >> {log}"), sh(f"echo second >> {log}")]
    with nothing_left_open(), VmEventService("vm0", window=INSTANT) as service:
        service.add_action("on-rtc-change", RunCommands(commands))
        service.start()
        for number in range(1, 6):
            service.send(RtcChange(NOON, number), stamp_ns=number * SECOND)
        eventually(lambda: counts(service)["run"] == 10, "the commands")
        service.stop()
    lines = log.read_text(encoding="ascii").splitlines()
    assert lines[0::4] == ["begin"] * 5 and lines[2::4] == ["end"] * 5 and lines[3::4] == ["second"] * 5
    events = [json.loads(line) for line in lines[1::4]]
    assert [event["delta_time"] for event in events] == [1, 2, 3, 4, 5]
    assert events[0] == {
        "vm_event": 0, "last_time": NOON, "new_time": NOON + 1, "delta_time": 1, "raw_events": 1,
        "source": "dm", "vm": "vm0",
    }  # fmt: skip


def test_what_fails_is_counted_and_logged_with_its_last_words_and_the_next_one_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vanishing = tmp_path / "tool"
    vanishing.write_text("#!/bin/sh\n", encoding="ascii")
    vanishing.chmod(0o755)
    commands = [sh("echo what a pity >&2; exit 3"), sh("kill -9 $$"), (str(vanishing),), sh("sleep 1000"), sh("true")]
    action = RunCommands(commands, timeout=0.3)
    vanishing.unlink()
    with nothing_left_open(), VmEventService("vm0", window=INSTANT) as service:
        service.add_action("on-rtc-change", action)
        service.start()
        service.send(RtcChange(NOON, 5))
        eventually(lambda: counts(service)["run"] == 5, "the last of them")
        service.stop()
        expected = {"run": 5, "failed": 3, "timed_out": 1, "interrupted": 0, "missed": 0, "abandoned": 0}
        # "true" too is ended after 0.3 s, where the machine is that busy.
        assert counts(service) in (expected, {**expected, "timed_out": 2})
    assert "vm0/dm: sh -c echo what a pity >&2; exit 3: failed with exit status 3 after 0." in caplog.text
    assert ", its last words:\nwhat a pity" in caplog.text
    assert "kill -9 $$: was ended by signal 9" in caplog.text
    assert f"{vanishing}: could not be started" in caplog.text and "No such file" in caplog.text
    assert "sleep 1000: took longer than 0.3 s and was ended" in caplog.text


def test_a_slow_command_delays_nobody(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with nothing_left_open(), VmEventService("vm0", window=INSTANT) as service:
        service.add_action("on-rtc-change", RunCommands([sh(f"while ! test -e {gate}; do sleep 0.01; done")]))
        service.start(tmp_path / "monitor")
        with Client(tmp_path / "monitor") as client:
            assert client.register() == {"ack": 0}
            for number in range(1, 4):
                service.send(RtcChange(NOON, number), stamp_ns=number * SECOND)
                assert client.receive()["delta_time"] == number
            assert counts(service)["run"] <= 1
            gate.touch()
            eventually(lambda: counts(service)["run"] == 3, "all of them")


def test_a_stop_ends_the_command_that_runs_and_starts_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listeners_module, "PATIENCE", 0.0)
    told = tmp_path / "pid"
    os.mkfifo(told)
    log = tmp_path / "log"
    commands = [sh(f"echo >> {log}; echo $$ > {told}; exec sleep 1000"), sh(f"echo >> {log}")]
    with nothing_left_open(), VmEventService("vm0", window=INSTANT) as service:
        service.add_action("on-rtc-change", RunCommands(commands, timeout=PATIENCE))
        for _ in range(2):
            service.start()
            for number in range(1, 4):
                service.send(RtcChange(NOON, number), stamp_ns=number * SECOND)
            pid = int(told.read_text(encoding="ascii"))
            eventually(lambda: service.status()["settled"] == 3, "all to settle")
            service.stop()
            assert not Path(f"/proc/{pid}").exists(), "it is gone when the stop returns"
            assert counts(service) == {
                "run": 1, "failed": 0, "timed_out": 0, "interrupted": 1, "missed": 0, "abandoned": 2
            }  # fmt: skip
    assert log.read_text(encoding="ascii").count("\n") == 2, "one in each life"
    assert "was interrupted by the service's stop" in caplog.text


def test_a_stop_from_another_thread_while_commands_come_and_go_leaves_nothing(tmp_path: Path) -> None:
    with nothing_left_open(), VmEventService("vm0", window=INSTANT) as service:
        service.add_action("on-rtc-change", RunCommands([sh("sleep 0.001")]))
        for life in range(5):
            service.start()
            for number in range(10):
                service.send(RtcChange(NOON, number), stamp_ns=number * SECOND)
            eventually(lambda: counts(service)["run"] > 0, "the first of them")
            threads = [threading.Thread(target=service.stop) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
                assert not thread.is_alive(), life
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)


def test_what_cannot_be_run_is_refused_at_once() -> None:
    with pytest.raises(ActionError, match="no-such-tool: no such command in PATH"):
        RunCommands([("sh",), ("no-such-tool", "x")])
    with pytest.raises(ActionError, match="needs a name"):
        RunCommands([()])
    with pytest.raises(ValueError, match="longer than 0 s"):
        RunCommands([("sh",)], timeout=0)


def test_a_command_line_is_words_and_nothing_of_a_shell() -> None:
    assert words_of("tool --to 'a b' \"c d\" e\\ f $HOME *; rm -rf / | x") == (
        "tool", "--to", "a b", "c d", "e f", "$HOME", "*;", "rm", "-rf", "/", "|", "x",
    )  # fmt: skip
    for nothing in ("", "  "):
        with pytest.raises(ValueError, match="no command"):
            words_of(nothing)
    with pytest.raises(ValueError, match="No closing quotation"):
        words_of("tool 'x")
