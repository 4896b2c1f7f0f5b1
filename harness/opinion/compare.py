"""Compares each settled event of one guest with what QEMU's own RTC said (RTC_CHANGE) and what the guest read."""

from __future__ import annotations

import bisect
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.opinion import grain
from harness.opinion.case import Before, Case, Standing
from harness.opinion.grain import Lag
from harness.opinion.moves import (
    CLOCK_STEP,
    DAY_OF_WEEK,
    LAST_TIME,
    LAST_YEAR,
    SECOND_NS,
    UNREADABLE,
    Move,
    RtcTrace,
    read_trace,
)
from harness.opinion.opinions import CONSISTENT, INCONSISTENT, NO_OPINION, Opinion, Said
from harness.opinion.read_back import said_by_reads
from harness.opinion.records import (
    RtcChange,
    RtcChanges,
    Settled,
    faulted_events,
    read_backs,
    rtc_changes,
    settled_events,
)

EARLY_NS = 1_000_000
LATE_NS = 500_000_000
"""An event later than this may belong to another write."""
AMBIGUOUS_NS = 50_000_000
THROTTLE_NS = 1_500_000_000
"""QEMU holds an RTC_CHANGE back for up to a second; the rest is for the way."""
CLOCK_STEP_NS = 3 * SECOND_NS
RESTORED = "restored: QEMU's reference clock is taken from this one"
REFERENCE_S = 1
"""What QEMU's offset counts from is known to a second either way."""
IMPOSSIBLE = "a time that QEMU's RTC cannot have"
CARRY = "a carry in mid-update"


def opinions_of_guest(folder: Path) -> list[Opinion]:
    """The second opinion on every settled event of the guest whose records lie in `folder`.

    Raises OSError where they cannot be read.
    """
    with (folder / "trace.log").open("r", encoding="utf-8", errors="replace", newline="\n") as lines:
        trace = read_trace(lines)
    changes = rtc_changes(folder)
    comparison = _Comparison(folder.name, trace, changes)
    events = [event for event in settled_events(folder) if event.source == trace.vrtc]
    for event in events:
        comparison.take(event)
    faulted = faulted_events(folder)
    return [replace(said, faulted=said.t_ns in faulted) for said in _with_read_backs(comparison, folder, trace)]


def _with_read_backs(comparison: _Comparison, folder: Path, trace: RtcTrace) -> list[Opinion]:
    opinions, standings = comparison.opinions, comparison.standings
    times = [opinion.t_ns for opinion in opinions]
    stamps = [stamp for stamp, _ in trace.dates]
    for reading in read_backs(folder):
        position = bisect.bisect_right(times, reading.start_ns) - 1
        standing = standings[position] if position >= 0 else None
        if standing is None:
            continue
        moved = bisect.bisect_right(stamps, reading.start_ns) - bisect.bisect_right(stamps, standing.stamp_ns)
        if moved or any(standing.stamp_ns < at < reading.end_ns for at, _ in trace.breaks):
            continue  # written again since, without an event: nothing to hold it against
        said = said_by_reads(reading, standing.time, standing.stamp_ns, standing.lag)
        opinions[position] = replace(opinions[position], read_back=said)
    return opinions


class _Comparison:
    """Goes through one guest's settled events in order."""

    def __init__(self, vm: str, trace: RtcTrace, changes: RtcChanges | None) -> None:
        self.opinions: list[Opinion] = []
        self.standings: list[Standing | None] = []
        self._vm = vm
        self._trace = trace
        self._changes = changes
        self._stamps = [move.stamp_ns for move in trace.moves]
        self._silent = [move.register == DAY_OF_WEEK for move in trace.moves]
        # What ACRN announces: on the device model's vRTC what moves QEMU's, on the hypervisor's any date register.
        self._written = [stamp for stamp, _ in trace.dates]
        if trace.vrtc != "hv":
            self._written = [move.stamp_ns for move in trace.moves if move.register != DAY_OF_WEEK]
        self._of_move = _attributed(trace.moves, changes.changes if changes else ())
        self._done = -1
        self._reference = _reference(trace)
        self._before: Before | None = None
        if trace.ran_ns is not None and not trace.restored:
            lag = grain.at_start(trace.ran_ns - trace.started_ns)
            self._before = Before(lag, 0, trace.rtc_time, trace.started_ns)

    def take(self, event: Settled) -> None:
        """The next settled event."""
        standing: Standing | None = None
        position, why = self._explained_by(event)
        if position is None:
            said, self._before = Said(NO_OPINION, why), None
        else:
            said, standing = self._compare(event, position)
        self.opinions.append(Opinion(self._vm, event.t_ns, event.new_time, said))
        self.standings.append(standing)

    # -- which write it is about -------------------------------------------------------------------------

    def _explained_by(self, event: Settled) -> tuple[int | None, str]:
        """The move that QEMU's RTC stands at since the event's last write; or None, and why."""
        latest = event.t_ns - self._trace.window_ns + EARLY_NS
        written = self._written
        last = bisect.bisect_right(written, latest) - 1
        if last < 0 or event.t_ns - self._trace.window_ns - written[last] > LATE_NS:
            return None, "no write is its last"
        if last + 1 < len(written) and written[last + 1] < event.t_ns:
            return None, "another write in its window"
        position = bisect.bisect_left(self._stamps, written[last])
        if position == len(self._stamps) or self._stamps[position] > event.t_ns:
            return None, "QEMU's RTC was still halted"
        following = bisect.bisect_right(self._stamps, event.t_ns - EARLY_NS)
        while position + 1 < following and self._silent[position + 1]:
            position += 1  # QEMU takes all registers again when the day of the week is written
        return position, ""

    # -- the comparison ----------------------------------------------------------------------------------

    def _compare(self, event: Settled, position: int) -> tuple[Said, Standing | None]:
        case = self._case(event, position)
        why = self._hindrance(case)
        self._done, self._before = position, None
        if why:
            return Said(NO_OPINION, why), None
        if case.lag is None or case.lag.too_coarse:
            return Said(NO_OPINION, case.move.doubt or "too few registers known to be alike"), None
        said = self._by_qmp(case, case.lag)
        if said.opinion == CONSISTENT and not case.ambiguous:
            said = self._change_of_offset(case, said)
        if said.opinion != CONSISTENT and said.why != RESTORED:
            return said, None
        if case.change is None or case.time >= LAST_TIME:
            return said, None
        self._before = Before(case.lag, case.change.offset, case.time, case.move.stamp_ns)
        return said, Standing(case.written_ns, case.time, case.lag)

    def _case(self, event: Settled, position: int) -> Case:
        first, ambiguous = self._first_of_update(position)
        before = self._before if first == self._done + 1 else None  # else QEMU's RTC was moved without an event
        since = self._stamps[self._done] if self._done >= 0 else 0
        if any(since < at <= self._stamps[position] for at, _ in self._trace.breaks):
            before = None
        lag = before.lag if before else None
        for index in range(first, position + 1):
            lag = grain.after(
                self._trace.moves[index], lag, self._stamps[index] - self._stamps[index - 1] if index else None
            )
        return Case(
            event=event,
            move=self._trace.moves[position],
            moves=position - first + 1,
            first_ns=self._stamps[first],
            written_ns=self._last_write(event),
            change=self._of_move.get(position),
            next_ns=self._stamps[position + 1] if position + 1 < len(self._stamps) else None,
            before=before,
            lag=lag,
            ambiguous=ambiguous,
        )

    def _first_of_update(self, position: int) -> tuple[int, bool]:
        """The first move of the update that this one belongs to; and whether a gap may be read either way."""
        window, ambiguous = self._trace.window_ns, False
        first = position
        while self._silent[first] and first > self._done + 1:
            first -= 1
        for index in range(first - 1, self._done, -1):
            gap = self._stamps[first] - self._stamps[index]
            if self._silent[index]:
                continue
            if gap >= window + AMBIGUOUS_NS:
                break
            ambiguous |= gap > window - AMBIGUOUS_NS
            first = index
        return first, ambiguous

    def _hindrance(self, case: Case) -> str:
        """Why the event cannot be compared, whatever QEMU said; "" where it can."""
        stamp = case.move.stamp_ns
        if case.event.new_time is None or case.time < 0:
            return IMPOSSIBLE
        if case.time >= LAST_TIME and not case.unhalted:
            return IMPOSSIBLE
        if case.event.overrun:
            return "the service says that it lost some"
        if self._changes is None:
            return "RTC_CHANGE was not recorded"
        doubts = (CLOCK_STEP, UNREADABLE)
        near = [what for at, what in self._trace.breaks if what in doubts and abs(at - stamp) < CLOCK_STEP_NS]
        if near:
            return near[0]
        if case.change is None:
            if self._changes.ended_ns < stamp + THROTTLE_NS:
                return "the recording had ended"
            if case.next_ns is not None and case.next_ns < stamp + THROTTLE_NS:
                return "superseded by the next update"
        return ""

    def _by_qmp(self, case: Case, lag: Lag) -> Said:
        if case.change is None:
            return Said(INCONSISTENT, "QEMU told of no RTC_CHANGE for its last write", {"write_ns": case.move.stamp_ns})
        wall_s = case.change.wall_us // 1_000_000
        expected = case.time + (case.move.stamp_ns - case.written_ns) // SECOND_NS
        if self._reference is None:
            if why := self._qemu_may_differ(case):
                return Said(NO_OPINION, why)
            self._reference = _int32(expected - case.change.offset - wall_s)
            return Said(NO_OPINION, RESTORED)
        behind = _int32(expected - case.change.offset - wall_s - self._reference)
        qemu = expected - behind
        evidence = {"qemu_time": qemu, "offset": case.change.offset, "lag": [lag.least, lag.most]}
        near = lag.wider(-REFERENCE_S, REFERENCE_S)
        if near.holds(behind):
            return Said(CONSISTENT, "", evidence)
        written = case.move.bytes.date() if case.whole else None
        if written is not None and near.holds(_int32(written - qemu)):
            # QEMU took the registers as they are, and so did ACRN, unless it ticked while they were written.
            if self._acrn_ticked(case):
                return Said(NO_OPINION, CARRY)
        elif why := self._qemu_may_differ(case):
            return Said(NO_OPINION, why)
        return Said(
            INCONSISTENT, f"new_time {case.time}, but QEMU's RTC was set to {qemu} by the same writes", evidence
        )

    def _acrn_ticked(self, case: Case) -> bool:
        """Whether ACRN's vRTC ticked, or may have, while the registers were written: a carry may be overwritten."""
        if case.unhalted:
            return case.move.halted_ns is not None and self._carries(case, case.move.halted_ns)
        phase = self._trace.started_ns if self._trace.vrtc == "hv" else 0
        return (case.first_ns - phase) // SECOND_NS != (case.move.stamp_ns - phase) // SECOND_NS

    def _qemu_may_differ(self, case: Case) -> str:
        """Why QEMU may rightly not have set what was written; "" where it must have."""
        if case.unhalted:
            return CARRY if self._acrn_ticked(case) else ""
        if case.event.estimated or self._trace.vrtc == "hv" or case.before is None:
            return "invalid-date"  # on the way: QEMU makes another date of it, and goes on from there
        years = [time.gmtime(seconds).tm_year for seconds in (case.before.time, case.time)]
        on_the_way = [century // 100 * 100 + year % 100 for century in years for year in years]
        if max(on_the_way) >= LAST_YEAR:
            return IMPOSSIBLE
        return CARRY if self._carries(case, case.first_ns) or self._acrn_ticked(case) else ""

    def _carries(self, case: Case, since_ns: int) -> bool:
        """Whether a minute may have ended on either side while registers were written, or stood for those that were."""
        if case.before is None:
            return True
        first_ns = min(since_ns, case.first_ns)
        span_s = 2 + case.moves + (case.move.stamp_ns - first_ns) // SECOND_NS
        old = case.before.time + (first_ns - case.before.stamp_ns) // SECOND_NS
        seconds = {shown % 60 for shown in range(old - case.before.lag.most, old - case.before.lag.least + span_s)}
        written = case.move.bytes.number(0x00)
        return written is None or written + span_s >= 60 or 0 in seconds

    def _change_of_offset(self, case: Case, said: Said) -> Said:
        """The event's delta_time against what QEMU's offset changed by, where both ends are known."""
        before, delta = case.before, case.event.delta_time
        if self._trace.vrtc == "hv" or case.event.estimated or delta is None or before is None:
            return said
        assert case.lag is not None and case.change is not None
        changed = case.change.offset - before.offset
        admitted = Lag(case.lag.least - before.lag.most, case.lag.most - before.lag.least)
        admitted = admitted.wider(-2 * REFERENCE_S, 2 * REFERENCE_S)
        if admitted.too_coarse or admitted.holds(_int32(delta - changed)):
            return said
        why = f"delta_time {delta}, but QEMU's offset changed by {changed} with the same writes"
        return Said(INCONSISTENT, why, {**said.evidence, "offset_before": before.offset})

    def _last_write(self, event: Settled) -> int:
        """The stamp of the write that the event's new_time stands at."""
        latest = event.t_ns - self._trace.window_ns + EARLY_NS
        return self._written[bisect.bisect_right(self._written, latest) - 1]


def _attributed(moves: Sequence[Move], changes: Sequence[RtcChange]) -> dict[int, RtcChange]:
    """The RTC_CHANGE of each move that QEMU told of: its stamp lies between that of the write and the next one's."""
    known = [(move.wall_us, position) for position, move in enumerate(moves) if move.wall_us is not None]
    stamps = [wall for wall, _ in known]
    found = {}
    for change in changes:
        at = bisect.bisect_right(stamps, change.wall_us) - 1
        if at >= 0:
            found[known[at][1]] = change
    return found


def _reference(trace: RtcTrace) -> int | None:
    """What is to be added to the wall clock to have what QEMU's offsets count from; None where that is not known.

    It is the time of `-rtc base`, and the whole seconds of the wall clock since QEMU started.
    """
    if trace.restored or trace.started_wall_us is None:
        return None
    earliest, latest = (wall_us // 1_000_000 for wall_us in trace.started_wall_us)
    return None if latest - earliest > 2 * REFERENCE_S else trace.rtc_time - (earliest + latest) // 2


def _int32(seconds: int) -> int:
    """Seconds as QEMU's offset holds them: up to 7.2 it is a 32-bit number, and wraps."""
    return (seconds + 2**31) % 2**32 - 2**31
