"""Judges a kept run again: `python -m harness.judge RUN [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import (
    EXIT_CONFIGURATION,
    EXIT_INFRASTRUCTURE,
    EXIT_PRODUCT,
    ConfigurationError,
    InfrastructureError,
)
from harness.judge.evidence import AGENTS_RECORD, TRACE
from harness.judge.guest import GuestJudge
from harness.judge.verdict import INCONCLUSIVE, MOST_INCONCLUSIVE, PRODUCT_FAULT, Verdict


@dataclass(frozen=True)
class Rejudged:
    """What judging one guest again brought: a verdict on each item, and what is wrong with the evidence."""

    vm: str
    verdicts: tuple[Verdict, ...]
    errors: tuple[InfrastructureError, ...]
    former: bool = False
    """Whether the guest's session of the run was cut, and another one has gone on from there."""


def rejudge(run_dir: Path) -> list[Rejudged]:
    """Judges every guest of a kept run; the verdicts are also written to RUN/<vm>/rejudged.jsonl.

    Raises ConfigurationError where run_dir is no run directory, OSError for a file not to be read or written.
    """
    settings = _settings(run_dir)
    guests = sorted({path.parent for name in (TRACE, AGENTS_RECORD) for path in run_dir.glob(f"*/{name}")})
    if not guests:
        raise ConfigurationError(f"{run_dir} holds no guest's {TRACE} or {AGENTS_RECORD}: not a run directory")
    parameters, former = settings
    return [_rejudge_guest(guest, parameters, former=guest.name in former) for guest in guests]


def _settings(run_dir: Path) -> tuple[dict[str, int], set[str]]:
    """The judge's parameters as run.json has them, and the guests of sessions that were cut; defaults without it."""
    path = run_dir / "run.json"
    if not path.exists():
        return {}, set()
    try:
        run = json.loads(path.read_bytes())
        session = 1 + len(run.get("former_sessions", ()))
        former = {vm for vm, about in run.get("guests", {}).items() if about.get("session", 1) < session}
        return {key: int(run[key]) for key in ("window_ns", "estimate_tolerance") if key in run}, former
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _rejudge_guest(vm_dir: Path, settings: dict[str, int], *, former: bool) -> Rejudged:
    with GuestJudge(vm_dir, **settings) as judge:
        judge.refresh()
        verdicts = judge.decide(judge.last_known_ns, final=True)
        errors = tuple(judge.errors)
    with (vm_dir / "rejudged.jsonl").open("w", encoding="utf-8") as out:
        for verdict in verdicts:
            out.write(json.dumps(verdict.as_json()) + "\n")
    return Rejudged(vm_dir.name, tuple(verdicts), errors, former)


def exit_code(guests: Sequence[Rejudged]) -> int:
    """1 for product faults, else 10 for what makes the run worth little, else 0.

    Updates that were cut off by the end of listening say nothing about the run, nor does what was cut with a session
    of it that another one has gone on from.
    """
    count = Counter(
        verdict.verdict
        for guest in guests
        for verdict in guest.verdicts
        if not verdict.cut and not (guest.former and verdict.verdict == INCONCLUSIVE)
    )
    if count[PRODUCT_FAULT]:
        return EXIT_PRODUCT
    errors = [error for guest in guests if not guest.former for error in guest.errors]
    if errors or count[INCONCLUSIVE] > MOST_INCONCLUSIVE * count.total():
        return EXIT_INFRASTRUCTURE
    return 0


def _print(guests: Sequence[Rejudged]) -> None:
    for guest in guests:
        for verdict in guest.verdicts:
            latency = "" if verdict.latency_ms is None else f"  {verdict.latency_ms:+.2f} ms"
            if verdict.latency_ms is not None and verdict.uncertainty_ms is not None:
                latency += f" +- {verdict.uncertainty_ms:.1f}"
            why = f"  {verdict.diagnosis}" if verdict.diagnosis else ""
            print(f"{guest.vm}  {verdict.item}  {verdict.verdict}{latency}{why}")
    for guest in guests:
        for error in guest.errors:
            print(error, file=sys.stderr)
    count = Counter(verdict.verdict for guest in guests for verdict in guest.verdicts)
    told = ", ".join(f"{number} {word}" for word, number in sorted(count.items())) or "nothing to judge"
    print(f"{count.total()} verdicts: {told}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 1, 10 or 11 as in ARCHITECTURE.md)."""
    parser = argparse.ArgumentParser(prog="python -m harness.judge", description="Judges a kept run again.")
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON, one a line")
    options = parser.parse_args(arguments)
    try:
        guests = rejudge(options.run)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    except OSError as error:
        print(InfrastructureError(f"the run cannot be judged: {error}"), file=sys.stderr)
        return EXIT_INFRASTRUCTURE
    if options.json:
        for guest in guests:
            for verdict in guest.verdicts:
                print(json.dumps(verdict.as_json()))
    else:
        _print(guests)
    return exit_code(guests)


if __name__ == "__main__":
    sys.exit(main())
