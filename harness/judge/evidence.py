"""Gathers the evidence on one guest from its run directory as the files grow."""

from __future__ import annotations

from pathlib import Path

from harness.judge.agent import Item, read_item
from harness.judge.agent_witness import AgentWitnessParser
from harness.judge.docket import Docket
from harness.judge.journal import Journal
from harness.judge.models import MODELS
from harness.judge.stream import Stream
from harness.judge.tail import LineTail
from harness.judge.trust import Trust
from harness.judge.updates import Chronicle, Timing
from harness.judge.witness import (
    Access,
    ClockStep,
    Ended,
    Problem,
    Record,
    ServiceRestart,
    Started,
    SystemReset,
    WitnessParser,
)

TRACE, AGENTS_RECORD = "trace.log", "witness.jsonl"


class Evidence:
    """Witness, journal and agent's report of one guest, so far. The witness is QEMU's trace or the agent's own record.

    new_items and disturbed_ns (moments that cast another light on what was near) collect until the
    caller empties them.
    """

    def __init__(self, vm_dir: Path, timing: Timing) -> None:
        self.vm = vm_dir.name
        self.timing = timing
        self.chronicle = Chronicle(timing)
        self.journal = Journal()
        self.stream = Stream(self.journal, timing, vm_dir / "exit.json")
        self.docket = Docket(self.chronicle)
        self.trust = Trust(vm_dir)
        self.new_items: list[Item] = []
        self.disturbed_ns: list[int] = []
        self._dir = vm_dir
        self._trace, self._events, self._agent = (
            LineTail(vm_dir / name) for name in (TRACE, "events.jsonl", "agent.jsonl")
        )
        self._parser: WitnessParser | AgentWitnessParser = WitnessParser()
        self._agent_line = 0
        self._anchored_ns = 0

    @property
    def witness(self) -> Path:
        """The file that the witness is read from."""
        return self._trace.path

    def close(self) -> None:
        """Gives the files back."""
        for tail in (self._trace, self._events, self._agent):
            tail.close()

    def read(self) -> None:
        """Takes in what is new. Raises OSError where a file is there and cannot be read.

        The trace comes last: what an event or an answer speaks of stands in it already.
        """
        for line in self._events.read():
            self._take_journal_line(line)
        for line in self._agent.read():
            self._take_item(line)
        if self._parser.line == 0:
            self._find_witness()
        for line in self._trace.read():
            for record in self._parser.feed(line):
                self._take_record(record)

    def _find_witness(self) -> None:
        """A guest on a bench has its agent's record and no trace."""
        if self._trace.path.name == TRACE and not self._trace.path.exists() and (self._dir / AGENTS_RECORD).exists():
            self._trace = LineTail(self._dir / AGENTS_RECORD)
            self._parser = AgentWitnessParser()
            self.trust.log = self._trace.path

    @property
    def last_known_ns(self) -> int:
        """The latest moment that any of the files speaks of."""
        return max(self.journal.last_ns, self._parser.last_arrival_ns, self.docket.last_end_ns)

    @property
    def unsettled(self) -> bool:
        """Whether something is known of which time has yet to tell what it means."""
        return self.trust.suspicious or bool(self.journal.incidents)

    def doubts(self, from_ns: int, to_ns: int) -> list[str]:
        """What speaks against judging by the evidence of that time."""
        doubts = self.trust.against(from_ns, to_ns)
        if not doubts and not self.chronicle.started:
            doubts = ["the trace does not say from which time the vRTC began"]
        if self.chronicle.doubts:
            doubts += [text for t_ns, text in self.chronicle.doubts if from_ns <= t_ns <= to_ns]
            return list(dict.fromkeys(doubts))
        return doubts

    def _take_record(self, record: Record) -> None:
        if isinstance(record, Access):
            if record.is_read:
                self.chronicle.read(record)
            else:
                self.chronicle.write(record)
        elif isinstance(record, Started):
            self._start(record)
        elif isinstance(record, SystemReset):
            if self.chronicle.system_reset(record):
                self.trust.known_again(record.stamp_ns)
        elif isinstance(record, ServiceRestart):
            self.stream.restarts_ns.append(record.stamp_ns)
            if self.chronicle.service_restart(record):
                self.trust.known_again(record.stamp_ns)
            self.disturbed_ns.append(record.stamp_ns)
        elif isinstance(record, ClockStep):
            self.trust.clock_step(record.stamp_ns)
            self.disturbed_ns.append(record.stamp_ns)
        elif isinstance(record, Ended):
            self.stream.ended(record.stamp_ns, record.reason)
            self.chronicle.end(record.stamp_ns)
            self.disturbed_ns.append(record.stamp_ns)
        elif isinstance(record, Problem):
            self.trust.problem(record)
            self.disturbed_ns.append(record.stamp_ns)

    def _start(self, record: Started) -> None:
        if record.anchor:
            self._read_again(record)
            return
        self.stream.started(record.stamp_ns)
        self.trust.known_again(record.stamp_ns)
        if record.vrtc not in MODELS:
            self.trust.hopeless(f"this judge has no model of the vRTC {record.vrtc!r}")
            return
        if self.chronicle.source not in ("", record.vrtc):
            self.trust.hopeless(f"the guest had the vRTC {self.chronicle.source!r} and then {record.vrtc!r}")
            return
        if record.window_ns is not None and record.window_ns != self.timing.window_ns:
            self.trust.hopeless(
                f"the device model's window is {record.window_ns} ns, the judge's {self.timing.window_ns} ns"
            )
        if record.service is None and record.vm != self.vm:
            self.trust.hopeless(f"the device model's guest is {record.vm!r}, the run directory's {self.vm!r}")
        self.chronicle.start(record)
        self._anchored_ns = record.stamp_ns

    def _read_again(self, record: Started) -> None:
        """An RTC that does not show what it was to show was moved by somebody whom the witness does not know."""
        since_ns = self._anchored_ns
        self._anchored_ns = record.stamp_ns
        if self.chronicle.form is not None and not self.chronicle.anchor(record):
            text = f"the guest read {record.rtc_time} from its RTC, which its own record does not explain"
            self.trust.problem(Problem(since_ns, record.stamp_ns, text))
            self.trust.known_again(record.stamp_ns)
            self.disturbed_ns.append(record.stamp_ns)

    def _take_journal_line(self, line: str) -> None:
        incidents = len(self.journal.incidents)
        stalls, cpu_stalls = len(self.journal.stalls), len(self.journal.cpu_stalls)
        problem = self.journal.feed(line)
        if problem is not None:
            self.trust.note(problem, self._dir / "events.jsonl")
        self.disturbed_ns += [incident.t_ns for incident in self.journal.incidents[incidents:]]
        self.disturbed_ns += [stall.from_ns for stall in self.journal.stalls[stalls:]]
        self.disturbed_ns += [stall.from_ns for stall in self.journal.cpu_stalls[cpu_stalls:]]

    def _take_item(self, line: str) -> None:
        self._agent_line += 1
        try:
            item = read_item(line)
        except ValueError as error:
            self.trust.note(f"agent.jsonl line {self._agent_line}: {error}", self._dir / "agent.jsonl")
            return
        self.docket.add(item)
        self.new_items.append(item)
