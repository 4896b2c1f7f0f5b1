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
from harness.judge.record import RunRecord, read_record
from harness.judge.verdict import INCONCLUSIVE, MOST_INCONCLUSIVE, PRODUCT_FAULT, Verdict

EVERYTHING_COUNTS = RunRecord()
FORMER = "  (former session)"


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
    record = read_record(run_dir)
    guests = sorted({path.parent for name in (TRACE, AGENTS_RECORD) for path in run_dir.glob(f"*/{name}")})
    if not guests:
        raise ConfigurationError(f"{run_dir} holds no guest's {TRACE} or {AGENTS_RECORD}: not a run directory")
    return [_rejudge_guest(guest, record) for guest in guests]


def _rejudge_guest(vm_dir: Path, record: RunRecord) -> Rejudged:
    with GuestJudge(vm_dir, **record.parameters) as judge:
        judge.refresh()
        verdicts = judge.decide(judge.last_known_ns, final=True)
        errors = tuple(judge.errors)
    with (vm_dir / "rejudged.jsonl").open("w", encoding="utf-8") as out:
        for verdict in verdicts:
            out.write(json.dumps(verdict.as_json()) + "\n")
    return Rejudged(vm_dir.name, tuple(verdicts), errors, record.is_former(vm_dir.name))


def exit_code(guests: Sequence[Rejudged], record: RunRecord = EVERYTHING_COUNTS) -> int:
    """1 for product faults, else 10 for what makes the run worth little, else 0.

    Updates that were cut off by the end of listening say nothing about the run, nor does what was cut with a session
    of it that another one has gone on from, or was done again there.
    """
    counting, _ = _sessions(guests, record)
    count = Counter(verdict.verdict for verdict in counting if not verdict.cut)
    if count[PRODUCT_FAULT] or any(record.why_a_fault(verdict) for verdict in counting):
        return EXIT_PRODUCT
    errors = [error for guest in guests if not guest.former for error in guest.errors]
    if errors or count[INCONCLUSIVE] > MOST_INCONCLUSIVE * count.total():
        return EXIT_INFRASTRUCTURE
    return 0


def _sessions(guests: Sequence[Rejudged], record: RunRecord) -> tuple[list[Verdict], list[Verdict]]:
    """What counts, and what does not: the work of a former session that was cut, or done again since."""
    everything = [verdict for guest in guests for verdict in guest.verdicts]
    superseded = record.superseded(everything)
    counting = [verdict for verdict in everything if id(verdict) not in superseded]
    return counting, [verdict for verdict in everything if id(verdict) in superseded]


def _print(guests: Sequence[Rejudged], record: RunRecord) -> None:
    counting, former = _sessions(guests, record)
    gone = {id(verdict) for verdict in former}
    for guest in guests:
        for verdict in guest.verdicts:
            print(f"{guest.vm}  {_line(verdict, record)}{FORMER if id(verdict) in gone else ''}")
    for guest in guests:
        for error in guest.errors:
            print(f"{error}{FORMER if guest.former else ''}", file=sys.stderr)
    print(f"{len(counting)} verdicts: {_counted(counting) or 'nothing to judge'}")
    if former:
        print(f"not among them, cut with a former session or done again since: {_counted(former)}")


def _line(verdict: Verdict, record: RunRecord) -> str:
    latency = "" if verdict.latency_ms is None else f"  {verdict.latency_ms:+.2f} ms"
    if verdict.latency_ms is not None and verdict.uncertainty_ms is not None:
        latency += f" +- {verdict.uncertainty_ms:.1f}"
    why = "".join(f"  {text}" for text in (verdict.diagnosis, record.why_a_fault(verdict)) if text)
    return f"{verdict.item}  {verdict.verdict}{latency}{why}"


def _counted(verdicts: Sequence[Verdict]) -> str:
    return ", ".join(f"{number} {word}" for word, number in sorted(Counter(v.verdict for v in verdicts).items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 1, 10 or 11 as in ARCHITECTURE.md)."""
    parser = argparse.ArgumentParser(prog="python -m harness.judge", description="Judges a kept run again.")
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON, one a line")
    options = parser.parse_args(arguments)
    try:
        record, guests = read_record(options.run), rejudge(options.run)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    except OSError as error:
        print(InfrastructureError(f"the run cannot be judged: {error}"), file=sys.stderr)
        return EXIT_INFRASTRUCTURE
    if options.json:
        counting, former = _sessions(guests, record)
        for verdict in counting:
            print(json.dumps(verdict.as_json()))
        for verdict in former:
            print(json.dumps({**verdict.as_json(), "former_session": True}))
    else:
        _print(guests, record)
    return exit_code(guests, record)


if __name__ == "__main__":
    sys.exit(main())
