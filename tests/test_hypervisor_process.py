"""The hypervisor as a process: how it ends, that nothing is left, and that it sleeps while nothing happens."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.hypervisor_support import PATIENCE, ROOT, Machine, await_log, gone, hypervisor_process

MINUTE = 0x02


def switches(pid: int) -> int:
    """How often the process has given up a processor by itself: as often as it fell asleep."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "standard input"])
def test_it_ends_in_order_and_leaves_no_socket(tmp_path: Path, way: str) -> None:
    path = tmp_path / "hypervisor.sock"
    with hypervisor_process(path) as process, Machine(path) as machine:
        assert path.stat().st_mode & 0o777 == 0o600
        machine.write((MINUTE, 0))
        assert process.stdin is not None
        process.stdin.close() if way == "standard input" else process.send_signal(signal.Signals[way])
        assert process.wait(PATIENCE) == 0
        assert gone(machine)
    assert not path.exists()


def test_an_input_that_has_no_end_to_wait_for_does_not_end_it(tmp_path: Path) -> None:
    path = tmp_path / "hypervisor.sock"
    command = [sys.executable, "-m", "harness.hypervisor", "--socket", str(path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        await_log(process, "listening")
        with Machine(path) as machine:
            machine.write((MINUTE, 0))
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_a_socket_that_cannot_be_had_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("somebody's")
    command = [sys.executable, "-m", "harness.hypervisor", "--socket", str(path)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.PIPE, capture_output=True, text=True, check=False)
    assert (done.returncode, "not a socket" in done.stderr) == (11, True)
    assert path.read_text() == "somebody's"


def test_a_killed_one_leaves_a_socket_that_the_next_one_replaces(tmp_path: Path) -> None:
    path = tmp_path / "hypervisor.sock"
    with hypervisor_process(path) as process, Machine(path) as machine:
        process.kill()
        assert gone(machine)
    assert path.exists()
    with hypervisor_process(path), Machine(path) as machine:
        machine.write((MINUTE, 0))
        assert len(machine.ring()) == 1


def test_a_message_wakes_it_once_and_nothing_else_does(tmp_path: Path) -> None:
    # given a hypervisor with a VM, asleep
    path = tmp_path / "hypervisor.sock"
    with hypervisor_process(path) as process, Machine(path) as machine:
        machine.vm.sync()
        before = switches(process.pid)
        # when it is asked 200 times, each time after its answer to the time before
        for _ in range(200):
            machine.vm.sync()
        # then it fell asleep at most once for each: no timer of its own, no second look
        assert switches(process.pid) - before <= 200


def test_all_that_a_vm_said_before_it_died_counts_for_the_one_that_is_waiting_for_its_slot(tmp_path: Path) -> None:
    path = tmp_path / "hypervisor.sock"
    with hypervisor_process(path) as process:
        former = Machine(path)
        former.vm.sync()
        # given a hypervisor that has not had the time to listen to a VM that died, nor to the next one of its name
        process.send_signal(signal.SIGSTOP)
        for number in range(20):
            former.vm.write(former.now, MINUTE, number)
            former.vm._written = False  # as if it were killed before it could wait for the answer
            former.vm.send()
        former.close()
        successor: list[Machine] = []
        waiting = threading.Thread(target=lambda: successor.append(Machine(path)))
        waiting.start()
        # when it goes on
        process.send_signal(signal.SIGCONT)
        waiting.join(PATIENCE)
        # then the next one begins where the former one had come to
        (machine,) = successor
        with machine:
            assert machine.vm.offset == 13 * 60, "0x13 is 13 in BCD, as the registers are"


def test_when_descriptors_run_out_others_wait_until_a_vm_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "hypervisor.sock"
    with hypervisor_process(path) as process, Machine(path, "first") as first:
        second = Machine(path, "second")
        second.vm.sync()
        # given a hypervisor that can have no more descriptors
        used = {int(entry.name) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}
        limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        lowest = min(set(range(len(used) + 1)) - used)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (lowest, limits[1]))
        # when another VM is to be created
        third: list[Machine] = []
        waiting = threading.Thread(target=lambda: third.append(Machine(path, "third")))
        waiting.start()
        await_log(process, "no more descriptors")
        # then those that are there go on, and it is served once one of them has ended
        first.write((MINUTE, 0))
        assert len(first.ring()) == 1
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
        second.close()
        waiting.join(PATIENCE)
        (machine,) = third
        with machine:
            machine.write((MINUTE, 0))
            assert len(machine.ring()) == 1
