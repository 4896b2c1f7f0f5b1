"""One step of trying a bench's links: what was tried, what came of it, how it is mended."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from harness.errors import BenchError


@dataclass(frozen=True)
class CheckStep:
    """What was tried, whether it went well, what was found (or what is wrong), and how it is mended."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


class StepFailed(Exception):
    """A step failed on which later ones stand."""

    def __init__(self, step: CheckStep) -> None:
        super().__init__(step.detail)
        self.step = step


Steps = Generator[CheckStep, None, None]


def failed(name: str, error: BenchError) -> StepFailed:
    """The step that this error ends."""
    lines = "".join(f"\n          | {line}" for line in error.last_lines[-5:])
    return StepFailed(CheckStep(name, False, f"{error.problem}{lines}", error.hint))
