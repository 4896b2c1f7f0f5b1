"""Measures the event service: throughput, latency, send to handler, lives, memory, idling, and 64 VMs in one process.

`python -m tests.benchmarks.vm_event [--runs N] [FIGURE ...]`; each figure as median and worst of the runs beside its
target, with the machine's load before each run. It measures and judges nothing: its exit status is 0.
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

from harness.vm_event import RtcChange, RtcChangeSettler, SharedRing, Tunnel, VmEventService
from harness.vm_event.source import TunnelSource
from tests.benchmarks.machine import ROOT, load_now, this_machine
from tests.benchmarks.vm_event_fleet import fleet, quantile, resident_kib, switches

NOON = 1718452800
THREADS, DESCRIPTORS = Path("/proc/self/task"), Path("/proc/self/fd")

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
import sys, time
from harness.vm_event import Tunnel
tunnel = Tunnel.attach(int(sys.argv[1]), int(sys.argv[2]))
count, apart, sent = int(sys.argv[3]), float(sys.argv[4]), 0
while sent < count:
    if tunnel.put(0, 1718452800, 0):
        sent += 1
    else:
        time.sleep(0)  # full: let the reader have the core, where there is no other for it
    if apart:
        time.sleep(apart)
"""

#: What each figure is held against: at least (+) or at most (-).
TARGETS = {
    "raw events/s, another process's ring": +600_000,
    "latency after due p50, ms": -0.3,
    "latency after due p99, ms": -3.0,
    "resident, MiB": -16,
    "idle wake-ups in 2 s": -0.0,
    "descriptors left by the cycles": -0.0,
    "events lost by the cycles": -0.0,
}


def latency() -> dict[str, float]:
    """From due to the object in another process's hands: 200 updates, window 50 ms."""
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
        for _ in range(200):
            stamp = time.monotonic_ns()
            service.send(RtcChange(NOON, 60), stamp_ns=stamp)
            late.append((int(listener.stdout.readline()) - stamp - window_ns) / 1e6)
        service.stop()
        listener.wait()
    return {"latency after due p50, ms": quantile(late, 0.5), "latency after due p99, ms": quantile(late, 0.99)}


def throughput() -> dict[str, float]:
    """Raw events a second through a running service, out of a ring that another process fills as fast as it can."""
    count = 500_000
    kick = os.eventfd(0)
    with SharedRing.create(shared=True) as ring, VmEventService("vm0", dm=False) as service:
        assert ring.descriptor is not None
        service.add_ring("hv", ring.descriptor, kick, stamped=True)
        service.start()
        producer = _producer(ring.descriptor, kick, count, 0)
        while service.status()["raw"] == 0:
            time.sleep(0.001)
        first, began = service.status()["raw"], time.perf_counter()
        while (raw := service.status()["raw"]) < count:
            time.sleep(0.001)
        seconds = time.perf_counter() - began
        producer.wait()
        assert raw == count
    os.close(kick)
    return {"raw events/s, another process's ring": (count - first) / seconds}


def reader() -> dict[str, float]:
    """What the reading side alone is capable of: full rings, checked and settled, no writer beside it."""
    rounds, spent = 2000, 0
    source = TunnelSource("hv", (tunnel := Tunnel.create()), vm="vm0", window=1.0, stamped=True, trusted=False)
    for _ in range(rounds):
        while tunnel.put(0, NOON, 0):
            pass
        began = time.perf_counter_ns()
        source.collect(time.monotonic_ns())
        spent += time.perf_counter_ns() - began
    source.close()
    return {"raw events/s, reader alone": rounds * 125 / spent * 1e9}


class Handler(RtcChangeSettler):
    """The handler of RTC changes, which notes how long after its stamp an event arrives at it."""

    def __init__(self, after_ns: list[int]) -> None:
        super().__init__(1.0, per_second=10**9)
        self._after_ns = after_ns

    def add_link(self, last_time: int, delta_time: int, now: float, may_have_waited: bool = False) -> bool:
        """Note, then do as ever."""
        self._after_ns.append(time.monotonic_ns() - int(now))
        return super().add_link(last_time, delta_time, now, may_have_waited)


class HandledSource(TunnelSource):
    """A source with such a handler."""

    def __init__(self, name: str, tunnel: Tunnel, *, trusted: bool) -> None:
        self.after_ns: list[int] = []
        super().__init__(name, tunnel, vm="vm0", window=1.0, stamped=True, trusted=trusted)

    def _new_settler(self) -> RtcChangeSettler:
        return Handler(self.after_ns)


def send_to_handler() -> dict[str, float]:
    """From the sender's stamp to the handler's call: the sender is a thread here, then another process."""
    count, apart = 500, 0.001
    kick = os.eventfd(0)
    with SharedRing.create(shared=True) as ring, VmEventService("vm0", dm=False) as service:
        assert ring.descriptor is not None
        same = HandledSource("dm", Tunnel.create(), trusted=True)
        other = HandledSource("hv", Tunnel.attach(ring.descriptor, kick), trusted=False)
        service.add_source("dm", lambda: same)
        service.add_source("hv", lambda: other)
        service.start()
        for _ in range(count):
            service.send(RtcChange(NOON, 0))
            time.sleep(apart)
        _producer(ring.descriptor, kick, count, apart).wait()
        while min(len(same.after_ns), len(other.after_ns)) < count:
            time.sleep(0.001)
    os.close(kick)
    result = {}
    for words, source in (("same process", same), ("another process", other)):
        for share in (0.5, 0.99):
            result[f"send to handler, {words}, p{share * 100:.0f}, us"] = quantile(source.after_ns, share) / 1e3
    return result


def _producer(ring: int, kick: int, count: int, apart: float) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", PRODUCER, str(ring), str(kick), str(count), str(apart)]
    return subprocess.Popen(arguments, cwd=ROOT, pass_fds=(ring, kick))


def lives() -> dict[str, float]:
    """Start, one event, stop; with a monitor socket. The window ends at once, so each event must be told."""
    count = 1000
    told: list[object] = []
    with tempfile.TemporaryDirectory() as folder:
        service = VmEventService("vm0", window=1e-6)
        service.subscribe(told.append)
        before = len(list(DESCRIPTORS.iterdir()))
        began = time.perf_counter()
        for life in range(count):
            service.start(Path(folder) / "monitor")
            service.send(RtcChange(NOON, 60))
            while len(told) <= life and time.perf_counter() - began < 600:
                time.sleep(0)
            service.stop()
        seconds = time.perf_counter() - began
        left = len(list(DESCRIPTORS.iterdir())) - before
    return {
        "start/event/stop cycles/s": count / seconds,
        "descriptors left by the cycles": left,
        "events lost by the cycles": count - len(told),
    }


def idle() -> dict[str, float]:
    """Memory of `serve`, and how often any of its threads woke in two seconds in which nothing happened."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "harness.vm_event", "serve", "--monitor", f"{folder}/monitor", "--stdin"]
        serve = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert serve.stdout is not None
        serve.stdout.readline()
        time.sleep(0.5)
        before = switches(serve.pid)
        time.sleep(2)
        woken = switches(serve.pid) - before
        resident = resident_kib(serve.pid) / 1024
        serve.terminate()
        serve.communicate()
    return {"resident, MiB": resident, "idle wake-ups in 2 s": float(woken)}


FIGURES: dict[str, Callable[[], dict[str, float]]] = {
    "latency": latency,
    "throughput": throughput,
    "reader": reader,
    "send_to_handler": send_to_handler,
    "lives": lives,
    "idle": idle,
    "fleet": fleet,
}


def _print(name: str, values: list[float]) -> None:
    target = TARGETS.get(name)
    higher_is_better = "/s" in name
    worst = min(values) if higher_is_better else max(values)
    verdict = ""
    if target is not None:
        met = worst >= target if higher_is_better else worst <= -target
        verdict = f"  target {abs(target):,g}: {'ok' if met else 'worst MISSED'}"
    digits = 0 if abs(worst) >= 1000 else 2
    print(f"  {name:48}{statistics.median(values):>14,.{digits}f}{worst:>14,.{digits}f}{verdict}")


def main() -> None:
    """Run the measurements and print a line a figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.vm_event", description=__doc__)
    parser.add_argument("figures", metavar="FIGURE", nargs="*", help=f"of {', '.join(FIGURES)}; default: all")
    parser.add_argument("--runs", type=int, default=5, help="runs a figure (%(default)s)")
    options = parser.parse_args()
    if unknown := [name for name in options.figures if name not in FIGURES]:
        parser.error(f"no figure is called {', '.join(unknown)}: {', '.join(FIGURES)}")
    print(this_machine(), flush=True)
    for name in options.figures or FIGURES:
        loads, runs = [], []
        for _ in range(options.runs):
            loads.append(str(load_now()))
            runs.append(FIGURES[name]())
        about = (FIGURES[name].__doc__ or "").partition("\n")[0]
        print(f"\n{name}: {about}\n  load before each run: {', '.join(loads)}\n  {'':48}{'median':>14}{'worst':>14}")
        for quantity in runs[0]:
            _print(quantity, [run[quantity] for run in runs])
        print(end="", flush=True)


if __name__ == "__main__":
    main()
