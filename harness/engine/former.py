"""What earlier sessions of a run have left to go on from: what is known for good, and what has to be done again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import ConfigurationError
from harness.judge.kept import kept_verdicts, last_heard_ns
from harness.judge.verdict import INCONCLUSIVE, PRODUCT_FAULT, Verdict

WALL_CLOCK = "wall_minus_monotonic_ns"
"""In a former verdict's extras: what makes its stamps times of day. A machine's monotonic clock ends with it."""


@dataclass(frozen=True)
class Former:
    """Earlier sessions of a run.

    final: the verdict on each plan that nothing can change any more; attempts: how often each plan was begun;
    beside: verdicts on what no plan asked for.
    """

    final: Mapping[str, Verdict] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    beside: tuple[Verdict, ...] = ()


def read_run_json(run_dir: Path) -> dict[str, Any]:
    """run.json of a run that can be gone on with.

    Raises ConfigurationError where there is none.
    """
    path = run_dir / "run.json"
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        problem = f"{run_dir} is no run directory: there is no run.json in it"
    except (OSError, ValueError, RecursionError) as error:
        problem = f"{path} cannot be read: {error}"
    else:
        if isinstance(found, dict) and isinstance(found.get("guests"), dict):
            return found
        problem = f"{path} is not what a run leaves"
    raise ConfigurationError(problem, hint="a run is named by its directory, as in reports/runs/")


def read_former(run_dir: Path, plans: Collection[str], linger_ns: int) -> Former:
    """What is known of these plans, by their ids.

    A verdict is final where a late second event was listened for to the end (`linger_ns`), or it is a product fault.
    Raises ConfigurationError where this is no run directory, OSError for a file not to be read.
    """
    run = read_run_json(run_dir)
    clocks = [session.get("clock") for session in [*run.get("former_sessions", ()), run]]
    final: dict[str, Verdict] = {}
    attempts: dict[str, int] = {}
    beside: list[Verdict] = []
    for folder in sorted(path.parent for path in run_dir.glob("*/verdicts.jsonl")):
        heard_ns = last_heard_ns(folder / "events.jsonl")
        session = run["guests"].get(folder.name, {}).get("session", 1)
        extras = _clock(clocks[session - 1] if 0 < session <= len(clocks) else None)
        for found in kept_verdicts(folder / "verdicts.jsonl", run.get("window_ns", 10**9)):
            verdict = replace(found, extras={**found.extras, **extras})
            plan, _, attempt = verdict.item.partition("~")
            if plan not in plans:
                if verdict.verdict != INCONCLUSIVE:
                    beside.append(verdict)
                continue
            attempts[plan] = max(attempts.get(plan, 0), int(attempt) if attempt.isdigit() else 1)
            known = final.get(plan)
            fault = verdict.verdict == PRODUCT_FAULT
            if fault or (known is None and _is_final(verdict, heard_ns, linger_ns)):
                final[plan] = verdict
    return Former(final, attempts, tuple(beside))


def _is_final(verdict: Verdict, heard_ns: int, linger_ns: int) -> bool:
    due_ns = max((event.due_ns for event in verdict.expected), default=verdict.decided_ns)
    return verdict.verdict != INCONCLUSIVE and heard_ns >= due_ns + linger_ns


def _clock(mapping: object) -> dict[str, int]:
    if not isinstance(mapping, Mapping):
        return {}
    try:
        return {WALL_CLOCK: int(mapping["wall_ns"]) - int(mapping["monotonic_ns"])}
    except (KeyError, TypeError, ValueError):
        return {}
