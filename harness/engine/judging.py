"""The judge at work on one guest: what it decides is on disk before anybody is told of it."""

from __future__ import annotations

from pathlib import Path

from harness.engine.rundir import RunDirectory, append_line
from harness.judge.guest import GuestJudge, ItemView
from harness.judge.verdict import Verdict


class Judging:
    """Judges one guest from its folder of a run as the files there grow; not for several threads at once.

    watched: nobody plans what this guest does, so that no update waits to be claimed by a plan.
    """

    def __init__(
        self, rundir: RunDirectory, folder: Path, *, window_ns: int, estimate_tolerance: int, watched: bool = False
    ) -> None:
        self._rundir = rundir
        self._folder = folder
        unclaimed = {"background_after_ns": 0} if watched else {}
        self._judge = GuestJudge(folder, window_ns=window_ns, estimate_tolerance=estimate_tolerance, **unclaimed)
        self._troubles = 0

    def item(self, name: str) -> ItemView | None:
        """What is known of an item so far."""
        return self._judge.item(name)

    def decide(self, now_ns: int, *, final: bool = False) -> list[Verdict]:
        """Look at what is new; the verdicts that are new or revised, already on disk.

        What is wrong with the evidence itself is noted in the run. final: nothing more will come.
        Raises InfrastructureError where the disk does not take it, OSError for a file that cannot be read.
        """
        self._judge.refresh()
        verdicts = self._judge.decide(now_ns, final=final)
        for trouble in self._judge.errors[self._troubles :]:
            self._rundir.add_error("infrastructure", self._folder.name, str(trouble))
        self._troubles = len(self._judge.errors)
        for verdict in verdicts:
            append_line(self._folder / "verdicts.jsonl", verdict.as_json())
        return verdicts

    def close(self) -> None:
        """Give the files back."""
        self._judge.close()
