"""Measures the event service: latency after due, throughput, lives a second, memory, idling.

`python -m tests.benchmarks.vm_event [--runs N]`; each figure as median and worst of the runs, with the load.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness.vm_event import RtcChange, SharedRing, VmEventService
from harness.vm_event.source import TunnelSource
from harness.vm_event.tunnel import Tunnel

ROOT = Path(__file__).parents[2]
NOON = 1718452800

LISTENER = """
import sys, time
from pathlib import Path
from harness.vm_event.watch import MonitorClient
with MonitorClient(Path(sys.argv[1])) as client:
    client.register()
    print(flush=True)
    for event in client.events():
        print(time.monotonic_ns(), flush=True)
"""

PRODUCER = """
import sys
from harness.vm_event import Tunnel
tunnel = Tunnel.attach(int(sys.argv[1]), int(sys.argv[2]))
sent = 0
while sent < int(sys.argv[3]):
    sent += tunnel.put(0, 1718452800, 0)
"""


def latency_ms() -> dict[str, float]:
    """From due to the object in another process's hands: 100 updates, window 50 ms."""
    window_ns = 50_000_000
    late = []
    with tempfile.TemporaryDirectory() as folder, VmEventService("vm0", window=window_ns / 1e9) as service:
        path = Path(folder) / "monitor"
        service.start(path)
        listener = subprocess.Popen(
            [sys.executable, "-c", LISTENER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert listener.stdout is not None
        listener.stdout.readline()
        for _ in range(100):
            stamp = time.monotonic_ns()
            service.send(RtcChange(NOON, 60), stamp_ns=stamp)
            late.append((int(listener.stdout.readline()) - stamp - window_ns) / 1e6)
        service.stop()
        listener.wait()
    late.sort()
    return {"latency p50, ms": late[50], "latency p99, ms": late[98]}


def throughput() -> dict[str, float]:
    """Raw events a second out of a ring that another process fills, checked and settled."""
    count = 500_000
    with SharedRing.create(shared=True) as ring:
        kick = os.eventfd(0)
        assert ring.descriptor is not None
        tunnel = Tunnel.attach(ring.descriptor, kick)
        source = TunnelSource("hv", tunnel, vm="vm0", window=1.0, stamped=True, trusted=False)
        arguments = [sys.executable, "-c", PRODUCER, str(ring.descriptor), str(kick), str(count)]
        producer = subprocess.Popen(arguments, cwd=ROOT, pass_fds=(ring.descriptor, kick))
        taken, began = 0, 0
        while taken < count:
            source.collect(time.monotonic_ns())
            taken = source.status()["raw"]
            began = began or (time.perf_counter_ns() if taken else 0)
        seconds = (time.perf_counter_ns() - began) / 1e9
        producer.wait()
        source.close()
        os.close(kick)
    return {"raw events/s from another process": count / seconds}


def lives() -> dict[str, float]:
    """Start, one event, stop; with a monitor socket."""
    count = 500
    with tempfile.TemporaryDirectory() as folder:
        service = VmEventService("vm0")
        began = time.perf_counter()
        for _ in range(count):
            service.start(Path(folder) / "monitor")
            service.send(RtcChange(NOON, 60))
            service.stop()
        return {"start/stop cycles/s": count / (time.perf_counter() - began)}


def idle() -> dict[str, float]:
    """Memory of `serve`, and how often any of its threads woke in two seconds in which nothing happened."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "harness.vm_event",
            "serve",
            "--monitor",
            f"{folder}/monitor",
            "--stdin",
        ]
        serve = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert serve.stdout is not None
        serve.stdout.readline()
        time.sleep(0.5)
        before = _switches(serve.pid)
        time.sleep(2)
        woken = _switches(serve.pid) - before
        status = Path(f"/proc/{serve.pid}/status").read_text(encoding="ascii")
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        serve.terminate()
        serve.communicate()
    return {"resident, KiB": float(resident.split()[1]), "idle wake-ups": float(woken)}


def _switches(pid: int) -> int:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text(encoding="ascii").splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def main() -> None:
    """Run every measurement and print a line per figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    measurements: list[Callable[[], dict[str, float]]] = [latency_ms, throughput, lives, idle]
    print(f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores, {options.runs} runs")
    for measure in measurements:
        runs = [measure() for _ in range(options.runs)]
        for name in runs[0]:
            values = [run[name] for run in runs]
            worst = min(values) if name.endswith("/s") or "/s " in name else max(values)
            print(f"{name}: median {statistics.median(values):,.2f}, worst {worst:,.2f}")
    print(f"load {os.getloadavg()[0]:.2f} afterwards")


if __name__ == "__main__":
    main()
