"""The guest and the update that the judge's tests begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.judge import GuestJudge, Verdict
from tests.judge_run import RTC0, SECOND, T0, RunWriter, settled

AT = T0 + 5 * SECOND
"""When the first item's first write happens: the RTC shows RTC0 + 5."""
DUE = AT + SECOND
HOUR_ON = settled(RTC0 + 5, RTC0 + 3605, 3600, 1)
END = AT + 30 * SECOND


def registered_guest(folder: Path, rtc_time: int = RTC0, **start: Any) -> RunWriter:
    """A guest whose listener is registered, at 12:00:00; `start` are fields of the start record."""
    run = RunWriter(folder)
    run.start(T0, rtc_time, **start)
    run.journal("connected", t_ns=T0 + 1)
    run.journal("ack", t_ns=T0 + 2, object={"ack": 0})
    return run


def hour_on(run: RunWriter, name: str = "a", start_ns: int = AT, **fields: Any) -> int:
    """An item that writes 13 to the hour at 12 o'clock."""
    return run.do(name, start_ns, [(0, 0x04, 0x13)], **fields)


def final(run: RunWriter, *, end: bool = True) -> dict[str, Verdict]:
    if end:
        run.journal("end", t_ns=END)
    with GuestJudge(run.dir) as judge:
        judge.refresh()
        return {verdict.item: verdict for verdict in judge.decide(END, final=True)}


def only(run: RunWriter, *, end: bool = True) -> Verdict:
    (verdict,) = final(run, end=end).values()
    return verdict
