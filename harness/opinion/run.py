"""The second opinion on a whole run: from its directory alone, and into it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from harness.errors import ConfigurationError, InfrastructureError
from harness.opinion.compare import opinions_of_guest
from harness.opinion.opinions import Opinion, totals
from harness.opinion.records import READ_BACKS, RTC_CHANGES

OPINIONS = "second-opinion.jsonl"
TOTALS = "second-opinion.json"
MOST_TOLD = 20


def opinions_of_run(run_dir: Path) -> list[Opinion]:
    """The second opinion on every settled event of a run; also written to RUN/<vm>/second-opinion.jsonl.

    The numbers go to RUN/second-opinion.json, from where reports have them.

    Guests of whose RTC nobody recorded anything but events are left out: that somebody else runs, or on a bench. Where
    there is no other, nothing is written.
    Raises ConfigurationError where run_dir is no run directory, OSError for a file not to be read or written.
    """
    witnesses = sorted(path for name in ("trace.log", "witness.jsonl") for path in run_dir.glob(f"*/{name}"))
    if not witnesses:
        raise ConfigurationError(f"{run_dir} holds no guest's trace.log or witness.jsonl: not a run directory")
    guests = [path.parent for path in witnesses if path.name == "trace.log"]
    guests = [guest for guest in guests if any((guest / name).is_file() for name in (RTC_CHANGES, READ_BACKS))]
    if not guests:
        (run_dir / TOTALS).unlink(missing_ok=True)
        return []
    found: list[Opinion] = []
    for folder in guests:
        opinions = opinions_of_guest(folder)
        with (folder / OPINIONS).open("w", encoding="utf-8") as out:
            for opinion in opinions:
                out.write(json.dumps(opinion.as_json(), separators=(",", ":")) + "\n")
        found += opinions
    (run_dir / TOTALS).write_text(json.dumps(totals(found).as_json(), indent=1) + "\n", encoding="utf-8")
    return found


def contradictions(opinions: Sequence[Opinion]) -> list[InfrastructureError]:
    """What speaks against settled events that the judge let pass: whose fault it is, is open."""
    wrong = [opinion for opinion in opinions if opinion.contradictions and not opinion.faulted]
    return [
        InfrastructureError(
            f"the second opinion contradicts the settled event at {opinion.t_ns} ns of {opinion.vm}: "
            + "; ".join(opinion.contradictions),
            hint="one of QEMU's RTC, the virtual RTC, the event service and the judge is wrong; the evidence of both "
            f"sides is in {opinion.vm}/{OPINIONS}, events.jsonl, {RTC_CHANGES} and trace.log",
        )
        for opinion in wrong[:MOST_TOLD]
    ]
