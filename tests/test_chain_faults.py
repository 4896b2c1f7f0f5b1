"""What goes wrong around the product: the right class, a message that helps, and nothing left behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chain import bench_text, running

pytestmark = pytest.mark.qemu

LENGTH = {"boot": "running and dm", "update": "running", "linger": "running-0001 and not pauses"}
ONE = ("--rtc-updates", "1", "--rtc-guests", "1", "-k", "dm and running-0001")


def test_a_wrong_bench_file_is_told_at_once_with_its_lines(tmp_path: Path) -> None:
    with running(tmp_path, *ONE, bench=bench_text(machin="pc", memory="much")) as run:
        assert run.wait() == 11
        file = tmp_path / "bench.yaml"
        assert f"{file}:6: guests[0].machin" in run.said and "machine" in run.said
        assert f"{file}:7: guests[0].memory" in run.said
        assert not run.directory.exists()


def test_a_wrong_plan_file_is_told_at_once_with_its_lines(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\nplans:\n- id: a\n  actions:\n  - {do: pause, secnds: 1}\n", encoding="utf-8")
    with running(tmp_path, "--rtc-plan", str(plan)) as run:
        assert run.wait() == 11
        assert f"{plan}:5: " in run.said and "seconds" in run.said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rtc-plan", "/nowhere.yaml"), "/nowhere.yaml"),
        (("--bench", "/nowhere.yaml"), "/nowhere.yaml"),
        (("--rtc-guests", "0"), "--rtc-guests"),
        (("--rtc-guests", "2", "--event-socket", "/tmp/x.sock", "--rtc-updates", "4"), "{vm}"),
    ],
)
def test_options_that_cannot_be_meant(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with running(tmp_path, *options) as run:
        assert run.wait() == 11
        assert said in run.said and "configuration error" in run.said


def test_a_run_directory_that_holds_a_run_is_left_alone(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "run.json").write_text("{}", encoding="utf-8")
    with running(tmp_path, *ONE) as run:
        assert run.wait() == 11
        assert "holds a run already" in run.said
    assert (directory / "run.json").read_text(encoding="utf-8") == "{}"


def test_arguments_that_qemu_refuses_are_a_configuration_error(tmp_path: Path) -> None:
    with running(tmp_path, *ONE, bench=bench_text(cpu="nonsense")) as run:
        assert run.wait() == 11
        assert "unable to find CPU model 'nonsense'" in run.said
        run.assert_nothing_left()


def test_a_kernel_that_panics_is_told_by_name_at_once(tmp_path: Path) -> None:
    begun = time.monotonic()
    with running(tmp_path, *ONE, bench=bench_text(append="rdinit=/nowhere root=/dev/nowhere")) as run:
        assert run.wait() == 10
        assert ("Kernel panic" in run.said and "console.log" in run.said) or "device-model.log" in run.said
        run.assert_nothing_left()
    assert time.monotonic() - begun < 60, "a panic ends the wait for the prompt"


def test_a_guest_whose_agent_never_answers_ends_at_the_boot_deadline(tmp_path: Path) -> None:
    bench = bench_text(append="rdinit=/bin/busybox -- tail -f /bin/busybox", boot_timeout=6)
    with running(tmp_path, *ONE, bench=bench) as run:
        assert run.wait() == 10
        assert "awaited:" in run.said and "console.log" in run.said
        run.assert_nothing_left()


def test_a_guest_that_shows_another_hypervisor_is_not_written_to(tmp_path: Path) -> None:
    with running(tmp_path, *ONE, bench=bench_text(hypervisor=["ACRNACRNACRN"])) as run:
        assert run.wait() == 10
        assert "hypervisor" in run.said
        assert not run.records("agent.jsonl")
        run.assert_nothing_left()


def test_qemu_killed_in_mid_update_costs_only_that_guests_updates_and_is_told_within_a_second(
    tmp_path: Path,
) -> None:
    # given a guest in the middle of an update with pauses
    options = ("--rtc-updates", "20", "--rtc-guests", "1", "-k", "with_pauses and dm and bare")
    with running(tmp_path, *options) as run:
        run.until(lambda: any(r["item"] != "rtc-set-right" for r in run.records("verdicts.jsonl")), "first verdict")
        (qemu,) = run.qemus()
        # when its QEMU is killed
        os.kill(qemu, signal.SIGKILL)
        killed = time.monotonic_ns()
        assert run.wait() == 10
    # then the run says so, by name, and soon
    assert "SIGKILL" in run.said and "qemu-died" in run.said
    verdicts = {record["item"]: record for record in run.records("verdicts.jsonl")}
    in_flight = [record for record in verdicts.values() if record["verdict"] == "inconclusive"]
    assert all(record["verdict"] in {"pass", "inconclusive"} for record in verdicts.values())
    assert in_flight and min(record["decided_ns"] for record in in_flight) - killed < 1_000_000_000
    (error,) = run.information()["errors"]
    assert error["class"] == "infrastructure" and error["vm"] == "bare-1"
    run.assert_nothing_left()


def test_a_killed_hypervisor_process_is_told_by_name_once_and_is_no_fault_of_the_product(tmp_path: Path) -> None:
    # given a guest with the hypervisor's vRTC in the middle of an update with pauses
    options = ("--rtc-updates", "20", "--rtc-guests", "1", "-k", "hv and with_pauses and bare")
    with running(tmp_path, *options) as run:
        run.until(lambda: any("hv-" in record["item"] for record in run.records("verdicts.jsonl")), "first verdict")
        (found,) = [pid for pid in run.descendants() if "harness.hypervisor" in _command_of(pid)]
        # when the hypervisor process is killed
        os.kill(found, signal.SIGKILL)
        killed = time.monotonic_ns()
        assert run.wait() == 10, run.said
        run.assert_nothing_left()
    # then its guest is lost for that reason, told once and soon
    (error,) = run.information()["errors"]
    assert (error["class"], error["vm"]) == ("infrastructure", None)
    told = error["text"].splitlines()[0]
    assert "the hypervisor process of this run ended with status -9" in told and told in run.said
    verdicts = {record["item"]: record for record in run.records("verdicts.jsonl")}
    assert {record["verdict"] for record in verdicts.values()} <= {"pass", "inconclusive"}
    in_flight = [record["decided_ns"] for record in verdicts.values() if record["verdict"] == "inconclusive"]
    assert in_flight and min(in_flight) - killed < 1_000_000_000


@pytest.mark.parametrize("victim", ["harness.listener", "harness.devicemodel"])
def test_a_killed_part_of_the_bench_is_no_fault_of_the_product_and_leaves_nothing(victim: str, tmp_path: Path) -> None:
    with running(tmp_path, "--rtc-updates", "20", "--rtc-guests", "1", "-k", "running and dm") as run:
        run.until(lambda: len(run.records("agent.jsonl")) >= 2, "second update")
        (found,) = [pid for pid in run.descendants() if victim in _command_of(pid)]
        os.kill(found, signal.SIGKILL)
        assert run.wait() == 10, run.said
        verdicts = {record["verdict"] for record in run.records("verdicts.jsonl")}
        assert verdicts <= {"pass", "inconclusive"}
        run.assert_nothing_left()


def _command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")


@contextmanager
def go_between(folder: Path, pass_on: Callable[[socket.socket, socket.socket], None]) -> Iterator[tuple[str, ...]]:
    """Something between service and harness: the options that put it there.

    pass_on: called with the harness's and the service's end, once the harness is registered.
    """
    relay, service_path = folder / "relay.sock", folder / "service.sock"

    def serve() -> None:
        client, _ = server.accept()
        service = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with client, service:
            while not service_path.exists():
                select.select([], [], [], 0.01)
            service.connect(str(service_path))
            service.sendall(client.recv(4096))
            client.sendall(service.recv(4096))
            pass_on(client, service)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(relay))
        server.listen(1)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield "--service-socket", str(service_path), "--event-socket", str(relay)
        thread.join(10)


def test_a_second_event_that_comes_after_the_test_has_passed_still_fails_the_run(tmp_path: Path) -> None:
    # given a go-between that says the first event again 8 s later
    def repeat(client: socket.socket, service: socket.socket) -> None:
        first, again = service.recv(4096), time.monotonic() + 8
        client.sendall(first)
        while True:
            left = max(0.0, again - time.monotonic()) if first else None
            ready, _, _ = select.select([service], [], [], left)
            if not ready:
                client.sendall(first)
                first = b""
            elif not (data := service.recv(4096)):
                return
            else:
                client.sendall(data)

    nine = ("--rtc-updates", "9", "--rtc-guests", "1", "-k", "random_order and running and dm and bare")
    with go_between(tmp_path, repeat) as sockets, running(tmp_path, *nine, *sockets) as run:
        assert run.wait() == 1, run.said
    verdicts = {record["item"]: record for record in run.records("verdicts.jsonl")}
    assert [item for item, record in verdicts.items() if record["verdict"] == "product fault"] == ["running-0001"]


def test_bytes_that_are_no_json_are_a_product_fault_with_the_bytes_in_the_evidence(tmp_path: Path) -> None:
    # given a go-between that adds a line of text to the first event
    def meddle(client: socket.socket, service: socket.socket) -> None:
        client.sendall(b"Segmentation fault\n" + service.recv(4096))
        while data := service.recv(4096):
            client.sendall(data)

    with go_between(tmp_path, meddle) as sockets, running(tmp_path, *ONE, *sockets) as run:
        assert run.wait() == 1
    faulty = [record for record in run.records("verdicts.jsonl") if record["verdict"] == "product fault"]
    assert [record["item"] for record in faulty] == ["running-0001"]
    assert "garbage" in faulty[0]["faults"] and "Segmentation" in faulty[0]["diagnosis"]


@pytest.mark.parametrize(
    ("moment", "number"), [("boot", signal.SIGINT), ("update", signal.SIGTERM), ("linger", signal.SIGHUP)]
)
def test_an_interrupt_at_any_moment_leaves_nothing(moment: str, number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path, "--rtc-updates", "50", "--rtc-guests", "2", "-k", LENGTH[moment]) as run:
        if moment == "boot":
            run.until(run.qemus, "QEMU")
        elif moment == "update":
            run.until(lambda: run.records("agent.jsonl"), "update")
        else:
            run.until(lambda: any(r["role"] == "restore" for r in run.records("verdicts.jsonl")), "last verdict")
        os.kill(run.process.pid, number)
        interrupted = time.monotonic()
        assert run.wait() == 2, run.said
        assert len(run.records("verdicts.jsonl")) < 50, "the rest of the work was dropped"
        assert time.monotonic() - interrupted < 60
        assert "KeyboardInterrupt" in run.said
        run.assert_nothing_left()


def test_further_interrupts_change_nothing_whenever_they_come(tmp_path: Path) -> None:
    with running(tmp_path, "--rtc-updates", "50", "--rtc-guests", "2", "-k", "running") as run:
        run.until(lambda: run.records("agent.jsonl"), "update")
        # when Ctrl-C is pressed, and again and again until the run is over
        while run.process.poll() is None:
            os.kill(run.process.pid, signal.SIGINT)
            select.select([], [], [], 0.01)
        assert run.wait() == 2, run.said
        run.assert_nothing_left()
    # then it ends as after one, with its summary, and says that it is about it
    assert "Traceback" not in run.said and run.said.count("still ending: guests first") >= 1
    assert "RTC run   seed 3" in run.said and run.information()["ended"] is not None


@pytest.mark.parametrize("moment", ["boot", "update"])
def test_a_killed_harness_takes_everything_with_it(moment: str, tmp_path: Path) -> None:
    with running(tmp_path, "--rtc-updates", "2", "--rtc-guests", "2", "-k", "running-000") as run:
        run.until(run.qemus if moment == "boot" else lambda: run.records("agent.jsonl"), moment)
        os.kill(run.process.pid, signal.SIGKILL)
        run.wait()
        run.assert_nothing_left()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk takes root to mount")
def test_a_full_disk_is_told_and_no_verdict_is_given_that_is_not_on_it(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=140k tmpfs {disk}") != 0:
        pytest.skip("no tmpfs can be mounted here")
    try:
        options = ("--rtc-updates", "40", "--rtc-guests", "1", "-k", "dm", "--run-dir", str(disk / "run"))
        with running(tmp_path, *options) as run:
            run.directory = disk / "run"
            assert run.wait() == 10, run.said
            assert "No space left on device" in run.said
            run.assert_nothing_left()
    finally:
        os.system(f"umount {disk}")
