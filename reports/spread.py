"""A run that was spread over several benches, in one table: which bench judged what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reports.rundir import open_run
from reports.summary import duration, totals

_COLUMNS = ("pass", "product fault", "inconclusive")


def overview(run_dir: Path, benches: Sequence[str]) -> str:
    """One line a bench, and their sum; RUN/BENCH is where each one's run is."""
    width = max(len("bench"), *(len(name) for name in benches)) + 2
    heads = ("updates", "pass", "faults", "known", "inconclusive", "errors", "took")
    lines = [f"{'bench':<{width}}" + "".join(f"{head:>14}" for head in heads)]
    sums = [0] * 6
    for name in benches:
        if not (run_dir / name / "run.json").exists():
            lines.append(f"{name:<{width}}  nothing: its worker never began, or was lost before it did")
            continue
        run = open_run(run_dir / name)
        verdicts = totals(run.verdicts()).verdicts
        counts = [sum(verdict.verdict == column for verdict in verdicts) for column in _COLUMNS]
        known = len(verdicts) - sum(counts)
        row = [len(verdicts), counts[0], counts[1], known, counts[2], len(run.errors)]
        sums = [one + other for one, other in zip(sums, row, strict=True)]
        took = duration(run)
        end = "not finished" if took is None else f"{took:.1f} s"
        lines.append(f"{name:<{width}}" + "".join(f"{value:>14}" for value in row) + f"{end:>14}")
    lines.append(f"{'all':<{width}}" + "".join(f"{value:>14}" for value in sums))
    lines += ["", f"run directories  {run_dir}/{{{','.join(benches)}}}"]
    return "\n".join(lines)
