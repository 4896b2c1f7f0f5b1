"""What the engine is told about a run, beside its bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EngineSettings:
    """What a run needs to know beside its bench; sockets: None for the default inside the run directory.

    resume: go on with the run that is in run_dir: what is known for good of the same plans is not done again.
    """

    run_dir: Path
    seed: int
    guests: int
    service_socket: str | None = None
    event_socket: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
