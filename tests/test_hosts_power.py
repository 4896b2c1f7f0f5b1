"""Power by commands and by hand: what is run and asked, what is said where it fails, the time between off and on."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.bench import Bench, SshHostSpec, load_bench
from harness.deadline import Deadline
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.hosts.cool_down import CoolDown
from harness.hosts.power import CommandPower, ManualPower, Power, power_for
from tests.docs_support import ROOT
from tests.vm_event_support import eventually

PATIENCE = 30.0


def bench_with(folder: Path, power: str) -> Bench:
    path = folder / "bench.yaml"
    path.write_text(
        textwrap.dedent(f"""\
        version: 1
        name: mine
        host: {{kind: ssh, address: nowhere}}
        reservation: {{kind: lock, folder: locks}}
        power: {power}
        guests:
          - name: vm0
            device_model: {{kind: acrn-dm, arguments: ["--cmd_monitor", "{{monitor}}", "{{vm}}"]}}
        """)
    )
    return load_bench(path)


def switch(folder: Path, power: str) -> Power:
    """A switch whose position is a file."""
    return power_for(bench_with(folder, power))


FILE = "kind: commands, on: [touch, on-now], off: [rm, -f, on-now], status: [test, -e, on-now]"


def failure(call: Callable[[Deadline], object], seconds: float = PATIENCE) -> BenchError:
    with pytest.raises(BenchError) as caught:
        call(Deadline(seconds))
    return caught.value


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is no corpse."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_commands_switch_in_the_folder_of_the_bench_file(tmp_path: Path) -> None:
    power = switch(tmp_path, f"{{{FILE}, cool_down: 0}}")

    assert power.is_on() is False
    power.on(Deadline(PATIENCE))
    assert (tmp_path / "on-now").exists() and power.is_on() is True
    power.off(Deadline(PATIENCE))
    assert not (tmp_path / "on-now").exists()


def test_a_bench_without_power_has_no_switch(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="bench mine names nothing that switches its host"):
        power_for(bench_with(tmp_path, "null"))


def test_words_reach_the_program_as_they_stand_and_the_harness_is_known_to_python(tmp_path: Path) -> None:
    words = ["a b", "$HOME", "*", "{not: a placeholder}", "it's"]
    program = "import sys, json, harness; open('got', 'w').write(json.dumps(sys.argv[1:]))"
    on = json.dumps(["{python}", "-c", program, *words, "{harness}", "{scratch}"])
    power = switch(tmp_path, f"{{kind: commands, on: {on}, off: [x]}}")

    power.on(Deadline(PATIENCE))

    got = json.loads((tmp_path / "got").read_text())
    assert got[:-1] == [*words, str(ROOT)]
    assert got[-1] == str(bench_with(tmp_path, "null").scratch)


def test_what_the_status_does_not_tell_is_not_known(tmp_path: Path) -> None:
    power = switch(tmp_path, "{kind: commands, on: [x], off: [x], status: [sh, -c, exit 7]}")

    assert power.is_on() is None
    assert switch(tmp_path, "{kind: commands, on: [x], off: [x]}").is_on() is None


def test_a_command_that_fails_is_named_with_its_output(tmp_path: Path) -> None:
    power = switch(tmp_path, "{kind: commands, on: [sh, -c, 'echo outlet 7 is dead; echo no >&2; exit 3'], off: [x]}")

    error = failure(power.on)

    assert isinstance(error, InfrastructureError)
    assert "ended with exit status 3" in str(error)
    assert error.last_lines == ("outlet 7 is dead", "no")


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    hang = "sh, -c, 'echo dialling; sleep 1000 & echo $! >left; wait'"
    power = switch(tmp_path, f"{{kind: commands, on: [{hang}], off: [x], timeout: 2}}")

    error = failure(power.on)

    assert isinstance(error, InfrastructureError)
    assert "did not end" in str(error) and error.last_lines == ("dialling",)
    left = int((tmp_path / "left").read_text())
    eventually(lambda: not is_running(left), "the end of what the command had started")


def test_what_a_command_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    power = switch(tmp_path, "{kind: commands, on: [sh, -c, 'sleep 20 & echo $! >left'], off: [x]}")

    power.on(Deadline(10))  # a daemon keeps the standard output that it has inherited

    left = int((tmp_path / "left").read_text())
    os.kill(left, 9)  # is there still


def test_a_program_that_is_not_there_is_a_matter_of_the_bench_file(tmp_path: Path) -> None:
    error = failure(switch(tmp_path, "{kind: commands, on: [no-such-program], off: [x]}").on)

    assert isinstance(error, ConfigurationError)
    assert "`no-such-program` cannot be started: No such file" in str(error)


def test_a_switch_that_does_not_switch_is_told_by_its_status(tmp_path: Path) -> None:
    power = switch(
        tmp_path, "{kind: commands, on: ['true'], off: [x], timeout: 1, status: [sh, -c, 'echo open; exit 1']}"
    )

    error = failure(power.on)

    assert "was switched on, and `sh -c 'echo open; exit 1'` says off" in str(error)
    assert error.last_lines == ("open",)


def test_a_secret_of_the_commands_is_in_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDU_PASSWORD", "hush-hush")
    on = "on: [sh, -c, 'echo refused $PDU_PASSWORD; exit 1']"
    power = switch(tmp_path, f"{{kind: commands, {on}, off: [x], secrets_env: [PDU_PASSWORD]}}")

    error = failure(power.on)

    assert error.last_lines == ("refused ********",)
    assert "hush" not in repr(error) + str(error)


def test_a_secret_that_is_not_set_is_named_before_anything_is_switched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PDU_PASSWORD", raising=False)

    with pytest.raises(ConfigurationError, match="PDU_PASSWORD"):
        switch(tmp_path, f"{{{FILE}, secrets_env: [PDU_PASSWORD]}}")


# -- cool-down -----------------------------------------------------------------------------------------------------


class Clock:
    """A boot of this machine: its clock is set by hand, and whoever sleeps moves it on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        self.boot = "first"
        self.machine = "here"
        self.slept: list[float] = []
        clock = SimpleNamespace(
            CLOCK_BOOTTIME=0, clock_gettime_ns=lambda _clock: int(self.now * 1e9), sleep=self.sleep
        )
        monkeypatch.setattr("harness.hosts.cool_down.time", clock)
        monkeypatch.setattr("harness.hosts.cool_down._boot", lambda: self.boot)
        monkeypatch.setattr("socket.gethostname", lambda: self.machine)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_only_the_rest_is_waited_for_and_another_run_waits_for_it_too(tmp_path: Path, clock: Clock) -> None:
    CoolDown(8, tmp_path / "locks" / "mine.power").switched_off()
    clock.now += 5

    CoolDown(8, tmp_path / "locks" / "mine.power").wait(Deadline(PATIENCE))

    assert clock.slept == [pytest.approx(3)]
    CoolDown(8, tmp_path / "locks" / "mine.power").wait(Deadline(PATIENCE))
    assert len(clock.slept) == 1


def test_a_host_that_nobody_has_switched_off_is_not_waited_for(tmp_path: Path, clock: Clock) -> None:
    host = CoolDown(8, tmp_path / "mine.power")
    host.wait(Deadline(PATIENCE))
    host.switched_off()
    host.switched_on()
    host.wait(Deadline(PATIENCE))

    assert clock.slept == []


@pytest.mark.parametrize(
    ("boot", "machine", "up_for", "rest"),
    [
        ("first", "here", 1_003.0, 5),
        ("second", "here", 2.0, 6),
        ("second", "here", 100.0, 0),
        ("second", "another", 100.0, 8),
    ],
)
def test_after_a_reboot_of_this_machine_the_host_was_off_for_as_long_as_it_is_up(
    tmp_path: Path, clock: Clock, boot: str, machine: str, up_for: float, rest: float
) -> None:
    host = CoolDown(8, tmp_path / "mine.power")
    host.switched_off()
    clock.boot, clock.machine, clock.now = boot, machine, up_for

    assert CoolDown(8, tmp_path / "mine.power").rest == pytest.approx(rest)


def test_a_note_that_cannot_be_read_is_waited_for_in_full(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "mine.power").write_text("{torn")

    assert CoolDown(8, tmp_path / "mine.power").rest == 8


def test_where_the_deadline_comes_first_it_is_told_at_once(tmp_path: Path, clock: Clock) -> None:
    host = CoolDown(60, tmp_path / "mine.power")
    host.switched_off()

    with pytest.raises(InfrastructureError, match="has to stay off for 60"):
        host.wait(Deadline(5))
    assert clock.slept == []


def test_between_off_and_on_it_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    power = switch(tmp_path, "{kind: commands, on: ['true'], off: ['true'], cool_down: 4}")

    power.on(Deadline(PATIENCE))
    power.off(Deadline(PATIENCE))
    assert clock.slept == []
    switch(tmp_path, "{kind: commands, on: ['true'], off: ['true'], cool_down: 4}").on(Deadline(PATIENCE))

    assert clock.slept == [pytest.approx(4)]
    assert list((tmp_path / "locks").iterdir()) == []


def test_an_off_that_failed_may_have_switched_and_counts(tmp_path: Path, clock: Clock) -> None:
    power = switch(tmp_path, "{kind: commands, on: ['true'], off: ['false'], cool_down: 4}")
    failure(power.off)

    power.on(Deadline(PATIENCE))

    assert clock.slept == [pytest.approx(4)]


# -- by hand -------------------------------------------------------------------------------------------------------


class Terminal:
    """Somebody's terminal: what was shown on it, and what he types."""

    def __init__(self) -> None:
        self.person, self.process = pty.openpty()

    def answer(self, text: bytes) -> threading.Thread:
        """Typed once the question is there."""

        def type_it() -> None:
            shown = b""
            while b"(q: give up) " not in shown:
                shown += os.read(self.person, 1000)
            self.shown = shown.decode()
            os.write(self.person, text)

        thread = threading.Thread(target=type_it)
        thread.start()
        return thread

    def close(self) -> None:
        os.close(self.person)
        os.close(self.process)


def asked_by_hand(tmp_path: Path, typed: bytes) -> tuple[Terminal, ManualPower, BenchError | None]:
    terminal = Terminal()
    power = ManualPower("mine", CoolDown(0, tmp_path / "mine.power"), lambda: os.dup(terminal.process))
    error = None
    thread = terminal.answer(typed)
    try:
        power.on(Deadline(PATIENCE))
    except BenchError as raised:
        error = raised
    thread.join()
    terminal.close()
    return terminal, power, error


def test_by_hand_somebody_is_asked_and_waited_for(tmp_path: Path) -> None:
    terminal, power, error = asked_by_hand(tmp_path, b"\n")

    assert error is None
    assert "bench mine: switch its power ON now" in terminal.shown
    assert power.is_on() is True


def test_whoever_gives_up_ends_the_run(tmp_path: Path) -> None:
    _, power, error = asked_by_hand(tmp_path, b"q\n")

    assert isinstance(error, InfrastructureError) and "gave up" in str(error)
    assert power.is_on() is None


def test_nobody_at_the_terminal_is_told_at_the_deadline(tmp_path: Path) -> None:
    terminal = Terminal()
    power = ManualPower("mine", CoolDown(0, tmp_path / "mine.power"), lambda: os.dup(terminal.process))

    error = failure(power.off, 0.05)

    terminal.close()
    assert isinstance(error, InfrastructureError) and "nobody switched the power of mine off" in str(error)


def test_a_run_without_a_terminal_says_so() -> None:
    program = """
        from pathlib import Path
        from harness.deadline import Deadline
        from harness.hosts.cool_down import CoolDown
        from harness.hosts.power import ManualPower
        ManualPower("mine", CoolDown(0, Path("x"))).on(Deadline(30))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert "ConfigurationError: configuration error: power: {kind: manual} asks somebody at the terminal" in done.stderr
    assert "kind: commands" in done.stderr


def test_the_switch_of_a_bench_is_what_its_file_names(tmp_path: Path) -> None:
    assert isinstance(switch(tmp_path, "{kind: manual}"), ManualPower)
    assert isinstance(switch(tmp_path, f"{{{FILE}}}"), CommandPower)


def test_the_rehearsal_on_the_loopback_is_switched_by_its_bench_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTC_BENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "bench.yaml"
    path.write_text((ROOT / "fixtures" / "benches" / "rehearsal-loopback.yaml").read_text())
    bench = load_bench(path)
    power = power_for(bench)

    assert power.is_on() is False
    power.on(Deadline(PATIENCE))
    try:
        assert power.is_on() is True
        assert isinstance(bench.host, SshHostSpec) and bench.host.ssh_config is not None
        assert "Host rehearsal" in bench.host.ssh_config.read_text()
    finally:
        power.off(Deadline(PATIENCE))
    assert power.is_on() is False
