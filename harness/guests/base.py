"""The Guest protocol: what the engine needs of a guest, be it Linux, bare metal, or a machine on a bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from harness.deadline import Deadline
from harness.guests.steps import AgentReport, Step


class Guest(Protocol):
    """One guest with an agent in it. Every wait is bounded by the deadline given.

    `close` may be called from any thread at any time: a wait in another thread then ends at once with
    ConsoleClosed. All methods raise InfrastructureError when the guest or its console died.
    """

    @property
    def name(self) -> str:
        """The guest's name in logs and reports."""

    def boot(self, deadline: Deadline) -> None:
        """Waits until the agent is there and has proved where it is."""

    def run(self, item: str, steps: Sequence[Step], deadline: Deadline) -> AgentReport:
        """Has the agent do `steps`; a refusal is a report with ok False."""

    def command(self, name: str, deadline: Deadline, *words: str) -> Mapping[str, str]:
        """Sends one of the agent's other commands and returns what it answered."""

    def check(self) -> None:
        """Reads what the console has, without waiting; raises if the guest died."""

    def close(self) -> None:
        """Gives the console back. Idempotent."""
