"""Keeps what speaks against the evidence itself: items concerned are inconclusive."""

from __future__ import annotations

from pathlib import Path

from harness.errors import InfrastructureError
from harness.judge.witness import Problem

STEP_NEARBY_NS = 2_000_000_000
"""A clock step recorded this near explains stamps that moved otherwise than QEMU's clock."""


class Trust:
    """Doubts about one guest's evidence, by time. log: the file that its errors name."""

    def __init__(self, vm_dir: Path) -> None:
        self._dir = vm_dir
        self.log = vm_dir / "trace.log"
        self._new: list[InfrastructureError] = []
        self._hopeless: list[str] = []
        self._problems: list[Problem] = []
        self._unknown_from: Problem | None = None
        self._unknown: list[tuple[Problem, int]] = []
        self._suspects: list[Problem] = []
        self._steps_ns: list[int] = []

    def note(self, text: str, log: Path) -> None:
        """A line that cannot be read, or a contradiction: told once, as an error."""
        self._new.append(InfrastructureError(f"{self._dir.name}: {text}", log=log))

    def hopeless(self, text: str) -> None:
        """Nothing this guest does can be judged."""
        if text not in self._hopeless:
            self._hopeless.append(text)
            self.note(text, self.log)

    def problem(self, problem: Problem) -> None:
        """A part of the trace not to be trusted; a suspected one only if no clock step explains it."""
        if problem.suspected:
            self._suspects.append(problem)
            return
        self._confirm(problem)
        if self._unknown_from is None:
            self._unknown_from = problem

    def known_again(self, stamp_ns: int) -> None:
        """The vRTC begins anew: whatever went before, its state is known from there on."""
        if self._unknown_from is not None:
            self._unknown.append((self._unknown_from, stamp_ns))
            self._unknown_from = None

    def clock_step(self, stamp_ns: int) -> None:
        """The wall clock was stepped at that time."""
        self._steps_ns.append(stamp_ns)

    @property
    def suspicious(self) -> bool:
        """Whether there is something `ripe` may have to tell."""
        return bool(self._suspects or self._new)

    def ripe(self, now_ns: int, *, final: bool) -> list[InfrastructureError]:
        """The errors that have become certain since the last call."""
        waiting = []
        for problem in self._suspects:
            if self._explained(problem):
                continue
            if final or now_ns >= problem.stamp_ns + STEP_NEARBY_NS:
                self._confirm(problem)
            else:
                waiting.append(problem)
        self._suspects = waiting
        new, self._new = self._new, []
        return new

    def against(self, from_ns: int, to_ns: int) -> list[str]:
        """What speaks against the evidence of that time."""
        found = [*self._problems, *(problem for problem in self._suspects if not self._explained(problem))]
        texts = [p.text for p in found if from_ns <= p.until_ns and p.stamp_ns <= to_ns]
        unknown = [p.text for p, until_ns in self._unknown if from_ns < until_ns and p.stamp_ns <= to_ns]
        if self._unknown_from is not None and self._unknown_from.stamp_ns <= to_ns:
            unknown.append(self._unknown_from.text)
        return (
            self._hopeless
            + texts
            + [f"{text} (and the vRTC's state is unknown since)" for text in unknown if text not in texts]
        )

    def _explained(self, problem: Problem) -> bool:
        return any(abs(step - problem.stamp_ns) <= STEP_NEARBY_NS for step in self._steps_ns)

    def _confirm(self, problem: Problem) -> None:
        self._problems.append(problem)
        self.note(problem.text, self.log)
