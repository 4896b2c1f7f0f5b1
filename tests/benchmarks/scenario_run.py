"""One run of the scenarios, as a user starts it, and the moments that its run directory and its output tell."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fixtures.plans import LINUX_ONE_IN
from tests.benchmarks.machine import ROOT
from tests.benchmarks.processor_time import Footprint, ProcessorClock, ProcessorTime

PAUSED_ONE_IN = 5
_SHARES = {"bare": 1 - 1 / LINUX_ONE_IN, "linux": 1 / LINUX_ONE_IN}
_VERDICT_LINE = re.compile(rb"(\x1b\[[0-9;]*m)?(pass|product fault|known defect|inconclusive) ")
_PATIENCE = 900


def random_orders(updates: int, vrtc: str, system: str) -> tuple[str, ...]:
    """The options of pytest for about so many random orders without pauses, both modes together."""
    unpaused = 1 - 1 / PAUSED_ONE_IN
    per_mode = math.ceil(updates / (2 * unpaused * _SHARES[system]))
    expression = f"not pauses and {vrtc} and {system}"
    return "scenarios/test_random_orders.py", "-m", "qemu", "-k", expression, "--rtc-updates", str(per_mode)


def all_orders(vrtc: str) -> tuple[str, ...]:
    """The options of pytest for each of the 5,040 orders on bare guests, in all modes that the vRTC knows."""
    return "scenarios/test_exhaustive.py", "-m", "exhaustive", "-k", f"every and {vrtc}"


class ScenarioRun:
    """One run of pytest over the scenarios; every moment in seconds after its exec.

    options: of pytest. look_s: seconds between two looks at its processes. On a machine that is too busy pytest ends
    with an infrastructure error; what was judged was judged all the same. Raises RuntimeError when nothing was.
    """

    def __init__(self, folder: Path, options: Sequence[str], guests: int | None, *, look_s: float = 0.2) -> None:
        command = [
            *(sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", "-o", "faulthandler_timeout=0", *options),
            *("--run-dir", str(folder), "--no-html"),
        ]
        if guests is not None:
            command += ["--rtc-guests", str(guests)]
        self._folder = folder
        self._printed_ns: int | None = None
        self._said: list[bytes] = []
        self._began_ns = time.monotonic_ns()
        with subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches it once, from here
        ) as process:
            clock = ProcessorClock(process.pid, look_s)
            clock.start()
            killer = threading.Timer(_PATIENCE, process.kill)
            killer.start()
            try:
                self._follow(process)
            except BaseException:  # an interrupted benchmark interrupts its run, which then ends its guests
                process.send_signal(signal.SIGINT)
                process.communicate()
                raise
            finally:
                killer.cancel()
                clock.close()
        self.exit_status = process.returncode
        self._clock = clock
        decisions = [v for v in self._records("verdicts.jsonl") if v["role"] == "update" and v["revision"] == 1]
        self._verdicts = sorted(
            (v for v in decisions if v["verdict"] != "inconclusive"), key=lambda v: int(v["decided_ns"])
        )
        self.inconclusive = len(decisions) - len(self._verdicts)
        if len(self._verdicts) < 2:
            raise RuntimeError(f"pytest ended with {self.exit_status}:\n{b''.join(self._said[-40:]).decode()}")
        # Read now: the run directory need not outlive its run.
        self.stages = self._stages()
        self.starts_apart = self._starts_apart()
        self.all_ready = self.guests_ready(guests or 1)

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Read what the run prints until it has ended."""
        assert process.stdout is not None
        for line in process.stdout:
            if self._printed_ns is None and _VERDICT_LINE.match(line):
                self._printed_ns = time.monotonic_ns()
            self._said.append(line)
        _, status, used = os.wait4(process.pid, 0)
        self._ended_ns = time.monotonic_ns()
        self._used = used.ru_utime + used.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)

    def _records(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for path in sorted(self._folder.glob(f"*/{name}")):
            found += _json_lines(path)
        return found

    @property
    def footprint(self) -> Footprint:
        """The most that all processes together took at any look."""
        return self._clock.footprint

    def guests_ready(self, count: int) -> float:
        """When so many guests had answered; nan where there were not so many."""
        ready = []
        for path in self._folder.glob("*/console.log"):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            ready += [int(line.split()[0]) for line in lines if " ok agent=" in line][:1]
        return self._after(sorted(ready)[count - 1]) if len(ready) >= count else float("nan")

    @property
    def updates(self) -> int:
        """Updates with a verdict."""
        return len(self._verdicts)

    @property
    def first_verdict(self) -> float:
        """When the first verdict was given."""
        return self._after(self._verdicts[0]["decided_ns"])

    @property
    def first_line(self) -> float:
        """When the first verdict stood on the terminal; nan where none did."""
        return float("nan") if self._printed_ns is None else self._after(self._printed_ns)

    def _stages(self) -> dict[str, float]:
        """Where the time to the first verdict goes: seconds of each stage, in their order; together all of it."""
        first = self._verdicts[0]
        folder = self._folder / first["vm"]
        item = next(each for each in _json_lines(folder / "agent.jsonl") if each["item"] == first["item"])
        due = first["expected"][-1]["due_ns"]
        run = json.loads((self._folder / "run.json").read_text(encoding="utf-8"))
        moments = {
            "pytest, to the engine": run["clock"]["monotonic_ns"],
            **(_on_a_bench(folder) if (folder / "witness.jsonl").exists() else _in_qemu(folder)),
            "greeting the agent": item["start_ns"],
            "command and writes": due - run["window_ns"],
            "settle window": due,
            "time for a late event": first["decided_ns"],
        }
        before = [self._began_ns, *moments.values()]
        return {name: (t_ns - early) / 1e9 for (name, t_ns), early in zip(moments.items(), before, strict=False)}

    @property
    def last_verdict(self) -> float:
        """When the last update's verdict was given."""
        return self._after(self._verdicts[-1]["decided_ns"])

    @property
    def end(self) -> float:
        """When pytest had ended."""
        return self._after(self._ended_ns)

    @property
    def seconds_per_update(self) -> float:
        """From verdict to verdict on one guest, boot and end left out."""
        return self.last_verdict_after_first / (self.updates - 1)

    @property
    def last_verdict_after_first(self) -> float:
        """Seconds in which all updates but the first were judged."""
        return self.last_verdict - self.first_verdict

    def _starts_apart(self) -> list[float]:
        """Seconds from one update's beginning to the next one's on its guest."""
        apart = []
        for path in self._folder.glob("*/agent.jsonl"):
            starts = [record["start_ns"] for record in _json_lines(path) if record["role"] == "update"]
            apart += [(late - early) / 1e9 for early, late in itertools.pairwise(starts)]
        return apart

    @property
    def latencies_ms(self) -> list[float]:
        """Of each settled event, how long after due it was received."""
        return [seen["after_due_ms"] for verdict in self._verdicts for seen in verdict["seen"]]

    @property
    def processor_time(self) -> float:
        """Seconds of processor time of the whole run: pytest, device models, QEMUs, boot and end included."""
        return self._used

    def processor_time_at_work(self) -> ProcessorTime:
        """Processor time an update, by who used it: from when every guest had one judged to the last verdict."""
        seen: dict[str, int] = {}
        for verdict in self._verdicts:
            seen.setdefault(verdict["vm"], verdict["decided_ns"])
        begin_ns = max(seen.values())
        updates = sum(verdict["decided_ns"] > begin_ns for verdict in self._verdicts) or float("nan")
        used = self._clock.between(begin_ns, self._verdicts[-1]["decided_ns"])
        return ProcessorTime(used.t_ns, used.harness / updates, used.device_models / updates, used.qemu / updates)

    def processor_time_before(self) -> ProcessorTime:
        """Processor time up to the first verdict, by who used it."""
        return self._clock.between(self._began_ns, self._verdicts[0]["decided_ns"])

    def _after(self, t_ns: int) -> float:
        return (t_ns - self._began_ns) / 1e9


def _in_qemu(folder: Path) -> dict[str, int]:
    """The moments between the engine's start and the guest's first word, where its device model runs here."""
    lines = (folder / "trace.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return {
        "image, device model": next(json.loads(line[2:])["stamp_ns"] for line in lines if line.startswith("# ")),
        "QEMU's start": next(int(line.split()[0]) for line in lines if not line.startswith("# ")),
        "boot of the guest": _first_word_ns(folder),
    }


def _on_a_bench(folder: Path) -> dict[str, int]:
    """The same, where it runs on a bench's host. What there is before the guest's first word nobody else stamps."""
    witness = _json_lines(folder / "witness.jsonl")
    return {
        "power, SSH, tools, image, boot of the guest": _first_word_ns(folder),
        "service, observer, quiet": next(each["stamp_ns"] for each in witness if each["event"] == "start"),
    }


def _first_word_ns(folder: Path) -> int:
    console = (folder / "console.log").read_text(encoding="utf-8", errors="replace").splitlines()
    return next(int(line.split()[0]) for line in console if " ready " in line or " ok agent=" in line)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
