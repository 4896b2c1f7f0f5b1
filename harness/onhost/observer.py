"""Listens on monitor sockets of this host: the harness's listening process, with its journals as lines of its output.

Commands and answers are those of harness/listener/recorder.py; besides, each record of a journal is a line

    <- {"id": N, "record": {"t_ns": ..., "kind": ..., ...}}

whose stamps are of this host's monotonic clock. Pings tell the harness what that clock shows. It never waits for the
harness to read: its stamps are the evidence.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from harness.listener.journals import Journal, SentJournal
from harness.listener.recorder import Recorder


class Observer(Recorder):
    """The recorder whose journals are kept by the harness."""

    def open_journal(self, number: int, command: dict[str, str]) -> Journal:
        """The output."""
        return SentJournal(number, self.output)

    def heard(self, number: int) -> None:
        """The record itself tells."""


def main(arguments: Sequence[str]) -> int:
    """Observe until the input ends."""
    if arguments:
        print("usage: tools.pyz observe", file=sys.stderr)
        return 2
    gc.disable()  # nothing here makes cycles, and a collection would be a stall
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    except PermissionError:
        pass  # a stall is then noticed more often, and said
    Observer(sys.stdin.fileno(), sys.stdout.fileno()).run()
    return 0
