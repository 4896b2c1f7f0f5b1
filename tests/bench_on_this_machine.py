"""A bench whose host is this machine: the engine's way on a bench, without the link; and the faults it can have."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from harness.bench import Bench, load_bench
from harness.deadline import Deadline
from harness.engine import Engine, EngineSettings, Outcome
from harness.engine import lane as lane_module
from harness.engine import work as work_module
from harness.engine.bench_host import BenchUse
from harness.engine.strategy import Root
from harness.errors import InfrastructureError
from harness.hosts.base import LinkLost
from harness.hosts.local import LocalHost
from harness.judge.verdict import Verdict
from harness.listener.remote import RemoteListening
from harness.plan import Plan, SetClock
from harness.plan_values import ValueSource, random_order
from tests.command_lines import command_lines

PATIENCE = 60.0
WINDOW = 0.4
"""Seconds: as short as the judge's bounds let it be."""


def plans(count: int, vrtc: str = "dm", mode: str = "running") -> list[Plan]:
    """Updates of all registers."""
    choice, values = Random(7), ValueSource(vrtc)  # type: ignore[arg-type]
    return [
        Plan(
            id=f"p{number}",
            vrtc=vrtc,  # type: ignore[arg-type]
            actions=(SetClock(mode=mode, value=values.next(choice), order=random_order(choice)),),  # type: ignore[arg-type]
        )
        for number in range(1, count + 1)
    ]


def our_device_model(*options: str, real_time: bool = False) -> dict[str, Any]:
    """acrn-dm as the bench file has it, played by our device model."""
    return {
        "kind": "acrn-dm",
        "program": "env",
        "arguments": [
            "PYTHONPATH={harness}", f"RTC_BENCH_DM_OPTIONS={' '.join(options)}", "{python}", "-m",
            "harness.devicemodel.acrn_dm", *(["--rtvm"] if real_time else []), "-m", "{memory}M", "-k", "{kernel}",
            "-B", "{append}", "-s", "5,virtio-console,@stdio:stdio_port", "--cmd_monitor", "{monitor}", "{vm}",
        ],
    }


FULL_EVENTS = ("--full-events", "--window", str(WINDOW))


def bench_file(folder: Path, *guests: dict[str, Any], judged: str = "project", **more: Any) -> Bench:
    """A bench with these guests (None: one bare one)."""
    bare = {"name": "bare", "system": "bare", "hypervisor": ["TCGTCGTCGTCG", "KVMKVMKVM"]}
    usual = {"device_model": our_device_model(*(FULL_EVENTS if judged == "project" else ("--window", str(WINDOW))))}
    document = {
        "version": 1,
        "name": "on-this-machine",
        "host": {"kind": "ssh", "address": "this-machine"},
        "reservation": None,
        "service": {"window": WINDOW, "judged": judged},
        "quiet": {"seconds": 0.3},
        "guests": [{**bare, **usual, **guest} for guest in guests or ({},)],
        **more,
    }
    file = folder / "bench.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return load_bench(file)


class Host(LocalHost):
    """This machine, whose programs are known to the test, and whose link can be cut."""

    name = "this-machine"

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Any] = []
        self._watchers: list[Callable[[InfrastructureError], object]] = []

    def start(self, command: Sequence[str], *, log: Path, terminal: bool = False) -> Any:
        # Below a keeper, as everything on another host: what closes its console ends it.
        watched = terminal or "observe" not in command
        self.processes.append(super().start(command, log=log, terminal=watched))
        return self.processes[-1]

    def on_lost(self, callback: Callable[[InfrastructureError], object]) -> None:
        self._watchers.append(callback)

    def cut_link(self) -> None:
        """As if the link were gone."""
        self.failure = LinkLost("the link to this-machine is cut")
        for callback in self._watchers:
            callback(self.failure)


@dataclass
class Hosts:
    """Hosts as they are taken into use, one after another."""

    run_dir: Path
    hosts: list[Host] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    anew: list[bool] = field(default_factory=list)

    def take(self, stack: contextlib.ExitStack, anew: bool, deadline: Deadline) -> BenchUse:
        host = Host()
        stack.enter_context(host)
        self.hosts.append(host)
        self.folders.append(host.folder)
        self.anew.append(anew)
        listening = RemoteListening(host, self.run_dir, deadline)
        stack.callback(listening.close)
        return BenchUse(host, listening)

    def pid_of(self, *words: str) -> int:
        """A process on the present host, by words of its command line."""
        found = [pid for pid, line in command_lines() if all(word in line for word in (self.folders[-1], *words))]
        assert found, f"no process has {words}"
        return max(found)  # below its keeper


@dataclass
class Walk:
    """An engine at work on a bench of this machine."""

    engine: Engine
    hosts: Hosts
    folder: Path
    verdicts: list[Verdict]

    def final(self, plan: str) -> Outcome:
        """What has become of a plan."""
        outcome = self.engine.outcome(plan, PATIENCE)
        assert outcome is not None, f"{plan} never became final"
        return outcome


@contextlib.contextmanager
def walk(bench: Bench, folder: Path, work: Sequence[Plan]) -> Iterator[Walk]:
    """The engine, which has begun."""
    run_dir = folder / "run"
    hosts = Hosts(run_dir)
    root = Root(hosts.take)
    verdicts: list[Verdict] = []
    try:
        with Engine(
            bench, root, EngineSettings(run_dir, 1, bench.parallel), on_verdict=verdicts.append
        ) as engine:
            engine.start(work)
            yield Walk(engine, hosts, run_dir, verdicts)
    finally:
        root.close()


@pytest.fixture
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late event is listened for only a little."""
    monkeypatch.setattr(lane_module, "LINGER_NS", 300_000_000)
    monkeypatch.setattr(work_module, "FINAL_NS", 400_000_000)
    try:
        import harness.hosts.consoles  # noqa: F401
    except ImportError:
        from harness.engine.bench_launch import BenchLaunch
        monkeypatch.setattr(BenchLaunch, "_channel", lambda self, host, deadline: self._process.console)
