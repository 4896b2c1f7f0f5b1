"""64 event services in one process: what they cost when idle, and how late they are when all of them have updates.

`python -m tests.benchmarks.vm_event_fleet DIRECTORY` is that process; `fleet` starts it and is its event clients.
"""

from __future__ import annotations

import json
import math
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from harness.vm_event import RtcChange, VmEventService
from harness.vm_event.watch import MonitorClient

ROOT = Path(__file__).parents[2]
VMS = 64
WINDOW_NS = 200_000_000
ROUNDS = 10


def fleet() -> dict[str, float]:
    """64 VMs in one process, each with its monitor socket and event client in another process; window 200 ms."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        command = [sys.executable, "-m", "tests.benchmarks.vm_event_fleet", folder]
        services = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert services.stdout is not None and services.stdin is not None
        services.stdout.readline()
        poll = select.epoll()
        opened.callback(poll.close)
        clients = {}
        for number in range(VMS):
            client = opened.enter_context(MonitorClient(Path(folder) / f"vm{number}"))
            client.register()
            clients[client._socket.fileno()] = client._socket
            poll.register(client._socket.fileno(), select.EPOLLIN)
        time.sleep(0.5)
        before, woken = processor_seconds(services.pid), switches(services.pid)
        time.sleep(3)
        result = {
            "64 VMs idle, processor time, %": (processor_seconds(services.pid) - before) / 3 * 100,
            "64 VMs idle, wake-ups in 3 s": float(switches(services.pid) - woken),
            "64 VMs, resident, MiB": resident_kib(services.pid) / 1024,
            "64 VMs, descriptors": float(len(list(Path(f"/proc/{services.pid}/fd").iterdir()))),
        }
        for how in ("spread", "together"):
            services.stdin.write(f"{how}\n")
            late: list[float] = []
            while len(late) < VMS * ROUNDS:
                late += _next(poll, clients)
            services.stdout.readline()
            for share in (0.5, 0.99):
                result[f"64 VMs, updates {how}, latency p{share * 100:.0f}, ms"] = quantile(late, share)
        services.stdin.close()
        services.wait()
    return result


def _next(poll: select.epoll, clients: dict[int, socket.socket]) -> list[float]:
    """How late the events are that come next. Raises RuntimeError when none comes."""
    late: list[float] = []
    ready = poll.poll(30.0)
    if not ready:
        raise RuntimeError("an event did not come within 30 s")
    for descriptor, _ in ready:
        data = clients[descriptor].recv(4096)
        now = time.monotonic_ns()
        late += [(now - json.loads(line)["last_time"] - WINDOW_NS) / 1e6 for line in data.splitlines()]
    return late


def main() -> None:
    """The services. Each update's `last_time` is the moment it was sent at, so that whoever hears of it knows."""
    services = [VmEventService(f"vm{number}", window=WINDOW_NS / 1e9) for number in range(VMS)]
    for service in services:
        service.start(Path(sys.argv[1]) / service.vm)
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(ROUNDS):
            round_ends = time.monotonic_ns() + WINDOW_NS + 100_000_000
            at_once = time.monotonic_ns()
            for service in services:
                stamp = at_once if line == "together\n" else time.monotonic_ns()
                service.send(RtcChange(stamp, 0), stamp_ns=stamp)
                if line != "together\n":
                    time.sleep(WINDOW_NS / VMS / 1e9)
            time.sleep(max(0, (round_ends - time.monotonic_ns()) / 1e9))
        print("sent", flush=True)
    for service in services:
        service.stop()


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def processor_seconds(pid: int) -> float:
    """What a process's threads have run so far, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def switches(pid: int) -> int:
    """How often any of a process's threads has waited for something so far."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text(encoding="ascii").splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def resident_kib(pid: int) -> float:
    """Memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return float(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


if __name__ == "__main__":
    main()
