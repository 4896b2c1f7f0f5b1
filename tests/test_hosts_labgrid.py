"""Benches that labgrid looks after, on a real coordinator with an exporter, switched by a driver of labgrid's."""

from __future__ import annotations

import getpass
import json
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bench import Bench, load_bench
from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.labgrid_bench import LabgridPower
from harness.hosts.lock import Held
from harness.hosts.power import power_for
from harness.hosts.reservation import reservation_for
from tests.docs_support import ROOT
from tests.labgrid_lab import Lab, lab

pytest.importorskip("labgrid", reason="the extra `lab` is not installed")

PATIENCE = 60.0
ALICE = "elsewhere/alice"
ME = f"{socket.gethostname()}/{getpass.getuser()}"


@pytest.fixture(scope="module")
def the_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab")) as found:
        yield found


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LG_HOSTNAME", raising=False)
    monkeypatch.delenv("LG_USERNAME", raising=False)


def bench_with(folder: Path, **keys: str) -> Bench:
    path = folder / "bench.yaml"
    lines = "".join(f"{key}: {value}\n" for key, value in keys.items())
    path.write_text(
        f"version: 1\nname: mine\nhost: {{kind: ssh, address: nowhere}}\n{lines}guests:\n  - name: vm0\n"
        '    device_model: {kind: acrn-dm, arguments: ["--cmd_monitor", "{monitor}", "{vm}"]}\n'
    )
    return load_bench(path)


def place(folder: Path, address: str, name: str = "nuc", wait: float = 0) -> Bench:
    return bench_with(folder, reservation=f"{{kind: labgrid, coordinator: '{address}', place: {name}, wait: {wait}}}")


def test_a_place_is_acquired_refused_to_others_and_released(tmp_path: Path, the_lab: Lab) -> None:
    with reservation_for(place(tmp_path, the_lab.address)):
        assert the_lab.holder == ME
        refused = the_lab.client("acquire", user=ALICE)
        assert refused.returncode != 0 and ME in refused.stderr

        with pytest.raises(Held, match=r"in use by .* \(process \d+\) since"):  # by the lock beside it
            reservation_for(place(tmp_path, the_lab.address)).__enter__()

    assert the_lab.holder == "None"


@pytest.mark.soak
def test_a_place_of_another_users_is_refused_by_name_or_waited_for(tmp_path: Path, the_lab: Lab) -> None:
    assert the_lab.client("acquire", user=ALICE).returncode == 0

    with pytest.raises(Held) as caught:
        reservation_for(place(tmp_path, the_lab.address)).__enter__()
    assert f"place nuc at {the_lab.address}) is in use by alice on elsewhere since 20" in str(caught.value)
    assert "wait: SECONDS" in str(caught.value)
    assert the_lab.holder == ALICE

    told: list[str] = []
    threads: list[threading.Thread] = []

    def release(line: str) -> None:
        told.append(line)
        threads.append(threading.Thread(target=lambda: the_lab.client("release-from", ALICE)))
        threads[-1].start()

    with reservation_for(place(tmp_path, the_lab.address, wait=PATIENCE), release):
        assert the_lab.holder == ME
    threads[0].join()
    assert len(told) == 1 and "alice on elsewhere" in told[0]


def test_a_place_that_a_killed_run_left_acquired_is_known_as_that(tmp_path: Path, the_lab: Lab) -> None:
    """Labgrid does not end an acquisition with the process that made it: the lock beside it tells."""
    bench = place(tmp_path, the_lab.address)
    program = """
        import sys
        from pathlib import Path
        from harness.bench import load_bench
        from harness.hosts.reservation import reservation_for
        with reservation_for(load_bench(Path(sys.argv[1]))):
            print("held", flush=True)
            sys.stdin.read()
    """
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(bench.file)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout is not None and run.stdout.readline() == "held\n"
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert the_lab.holder == ME
    told: list[str] = []

    with reservation_for(bench, told.append):
        assert "the process is gone; it is taken over" in told[0]
        assert the_lab.holder == ME

    assert the_lab.holder == "None"


@pytest.mark.soak
def test_a_place_that_the_user_acquired_by_hand_stays_his(tmp_path: Path, the_lab: Lab) -> None:
    assert the_lab.client("acquire").returncode == 0
    told: list[str] = []

    with reservation_for(place(tmp_path, the_lab.address), told.append):
        pass

    assert "was acquired by you before" in told[0]
    assert the_lab.holder == ME
    assert the_lab.client("release").returncode == 0


@pytest.mark.soak
def test_a_place_that_was_taken_away_is_told_at_the_end(tmp_path: Path, the_lab: Lab) -> None:
    reservation = reservation_for(place(tmp_path, the_lab.address))
    reservation.__enter__()
    assert the_lab.client("release", "--kick", user=ALICE).returncode == 0
    assert the_lab.client("acquire", user=ALICE).returncode == 0

    with pytest.raises(InfrastructureError, match="taken away while it was held: now it was taken by alice"):
        reservation.__exit__(None, None, None)

    assert the_lab.holder == ALICE
    the_lab.client("release-from", ALICE)


@pytest.mark.soak
def test_a_place_that_there_is_not_and_a_coordinator_that_does_not_answer(tmp_path: Path, the_lab: Lab) -> None:
    with pytest.raises(ConfigurationError, match="has no place nope"):
        reservation_for(place(tmp_path, the_lab.address, "nope")).__enter__()

    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(InfrastructureError, match=f"the labgrid coordinator {nobody} does not tell") as caught:
        reservation_for(place(tmp_path, nobody)).__enter__()
    assert any("Could not connect" in line for line in caught.value.last_lines)


def test_a_driver_of_labgrids_switches_the_rehearsal_on_the_loopback(tmp_path: Path) -> None:
    switch = f"{sys.executable} -m harness.rehearsal.loopback"
    sshd = tmp_path / "sshd"
    driver = {"ExternalPowerDriver": {"cmd_on": f"{switch} on {sshd}", "cmd_off": f"{switch} off {sshd}"}}
    environment = tmp_path / "lab.yaml"
    environment.write_text(json.dumps({"targets": {"main": {"drivers": driver}}}))
    power = power_for(bench_with(tmp_path, power="{kind: labgrid, environment: lab.yaml, cool_down: 0}"))

    assert isinstance(power, LabgridPower)
    assert power.is_on() is None  # this driver cannot tell
    power.on(Deadline(PATIENCE))
    try:
        assert "Host rehearsal" in (sshd / "ssh_config").read_text()
    finally:
        power.off(Deadline(PATIENCE))
    assert not (sshd / "sshd.running").exists()


def test_what_is_wrong_with_labgrids_file_and_what_a_driver_says_are_told(tmp_path: Path) -> None:
    driver = {"ExternalPowerDriver": {"name": "pdu", "cmd_on": "sh -c 'echo outlet 7 is dead; exit 3'", "cmd_off": "x"}}
    (tmp_path / "lab.yaml").write_text(json.dumps({"targets": {"main": {"drivers": [driver]}}}))

    def on(words: str) -> None:
        power_for(bench_with(tmp_path, power=f"{{kind: labgrid, environment: lab.yaml{words}}}")).on(Deadline(PATIENCE))

    with pytest.raises(InfrastructureError, match="could not switch main on: exit status 1") as caught:
        on(", driver: pdu")
    assert any("returned non-zero exit status 3" in line for line in caught.value.last_lines)
    with pytest.raises(ConfigurationError, match="has no target board"):
        on(", target: board")
    with pytest.raises(ConfigurationError, match="no PowerProtocol driver named 'relay'"):
        on(", driver: relay")


def test_without_labgrid_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab.yaml").write_text("targets: {}")
    monkeypatch.setattr("harness.hosts.labgrid_bench.importlib.util.find_spec", lambda name: None)

    with pytest.raises(ConfigurationError, match=r"pip install 'labgrid") as caught:
        power_for(bench_with(tmp_path, power="{kind: labgrid, environment: lab.yaml}"))
    assert "power: {kind: labgrid}" in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"pip install 'labgrid"):
        reservation_for(place(tmp_path, "localhost:20408"))
