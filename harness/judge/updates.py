"""From the witness to the settled events that must come: announcing writes, updates, expectations."""

from __future__ import annotations

from dataclasses import dataclass

from harness.judge.chain import Chain
from harness.judge.coverage import Coverage
from harness.judge.expected import ExpectedEvent, RawEvent, Timing, expected_event, latest_ns
from harness.judge.models import MODELS, Model
from harness.judge.outcomes import Announced, Moved, Outcome, Withheld
from harness.judge.possible import event_of, raw_of
from harness.judge.witness import Access, ServiceRestart, Started, SystemReset
from harness.judge.worlds import Possible, WorldsModel

__all__ = ["Chronicle", "ExpectedEvent", "RawEvent", "SilentMove", "Timing", "Update", "WithheldEvent", "event_of"]

AMBIGUOUS_NS = 50_000_000
"""A gap this close to the window may be read as one update or as two: both readings are admitted. On a bench the
uncertainties of the two stamps come on top."""

MOST_CUTS = 8
"""So many ambiguous gaps are looked at in a run; beyond them plain arithmetic decides, lest a guest that
writes every second costs ever more."""


@dataclass(frozen=True)
class SilentMove:
    """A write that moved the RTC by some seconds without a raw event, as the hypervisor's vRTC does."""

    register: int
    value: int
    seconds: int


class Update:
    """A run of announcing writes with gaps shorter than the window.

    cuts: positions in raws before which the gap is so close to the window that two updates may be read.
    doubtful_before: so close to the window is the gap to the update before, that both may be read as one.
    absorbed_by: the number of the later update that this one is part of, in the reading that is in force.
    ended_by_restart_ns: the service was restarted after these writes.
    silent_moves: what moved the RTC unannounced within it or before it, since the update before.
    events: the expectations in the reading that is in force; the plain one until another explains more.
    """

    def __init__(self, timing: Timing, *, doubtful_before: bool = False) -> None:
        self._timing = timing
        self.raws: list[RawEvent] = []
        self.cuts: list[int] = []
        self.doubtful_before = doubtful_before
        self.absorbed_by: int | None = None
        self.ended_by_restart_ns: int | None = None
        self.silent_moves: list[SilentMove] = []
        self.events: list[ExpectedEvent] = []
        self._delta: int | None = 0
        self._estimated = self._lost = False

    def add(self, raw: RawEvent) -> None:
        """One more announcing write; the plain reading is in force again."""
        self._delta = None if self._delta is None or raw.delta is None else self._delta + raw.delta
        self._estimated |= raw.estimated
        self._lost |= raw.lost
        self.raws.append(raw)
        self.events = [self.plain()]

    def plain(self) -> ExpectedEvent:
        """The one settled event that arithmetic expects."""
        if self.raws[-1].ways:
            return event_of(self.raws, self._timing)
        first, last, count = self.raws[0], self.raws[-1], len(self.raws)
        return expected_event(first, last, count, self._delta, self._estimated, self._lost, self._timing)

    @property
    def first_ns(self) -> int:
        """Stamp of the first announcing write."""
        return self.raws[0].stamp_ns

    @property
    def last_ns(self) -> int:
        """Stamp of the last announcing write so far."""
        return self.raws[-1].stamp_ns

    @property
    def due_ns(self) -> int:
        """When silence after the last announcing write is complete."""
        return self.raws[-1].stamp_ns + self._timing.window_ns

    @property
    def latest_ns(self) -> int:
        """Until when the last event of the update is in time."""
        return latest_ns(self.raws[-1], self._timing)


@dataclass(frozen=True)
class WithheldEvent:
    """A write by which a known defect of the vRTC kept an event back."""

    write_no: int
    stamp_ns: int
    defect: str
    new_time: int


class Chronicle:
    """All that the guest wrote and all that must be heard of it, in the order of the trace.

    The lists only grow. Of the updates only the last can still change; `changed_from` is the first
    update that did since the caller last took note (and set it to None). ambiguous: the numbers of the
    updates that may be read in several ways.

    Of a guest on a bench (agent_witness.py): coverage says when its witness tells of it, form (the last start record)
    how its events are worded, doubts what cannot be told, each with a stamp; most_uncertain_ns: of any write so far.
    """

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.writes: list[Access] = []
        self.announced: list[bool] = []
        self.write_stamps: list[int] = []
        self.raws: list[RawEvent] = []
        self.update_of_raw: list[int] = []
        self.raw_stamps: list[int] = []
        self.updates: list[Update] = []
        self.firsts: list[int] = []
        self.lasts: list[int] = []
        self.ambiguous: list[int] = []
        self.withheld: list[WithheldEvent] = []
        self.changed_from: int | None = None
        self.coverage = Coverage()
        self.doubts: list[tuple[int, str]] = []
        self.form: Started | None = None
        self.most_uncertain_ns = 0
        self._worlds: WorldsModel | None = None
        self._model: Model | None = None
        self._chain = Chain()
        self._silent_moves: list[SilentMove] = []

    @property
    def started(self) -> bool:
        """Whether the record says from which time the vRTC began: without it nothing can be expected."""
        return self._model is not None or self.form is not None

    @property
    def source(self) -> str:
        """The vRTC's name, by which its events call it; empty before the start."""
        if self.form is not None:
            return self.form.vrtc
        return "" if self._model is None else self._model.source

    def start(self, record: Started) -> None:
        """A device model begins, and with it the vRTC and the event service; `record.vrtc` is one of MODELS."""
        if record.service is not None:
            self._start_on_bench(record)
            return
        self._model = MODELS[record.vrtc](record)
        self._begin_service(record.stamp_ns)

    def system_reset(self, record: SystemReset | ServiceRestart) -> bool:
        """The guest was reset: where that resets its RTC, the service is told; what is pending stays.

        Returns whether the RTC begins anew.
        """
        if self.form is not None:
            self._lose_sight(record.stamp_ns)
            return False
        if self._model is None:
            return False
        begins_anew = self._model.system_reset(record.stamp_ns)
        self._tell(record.stamp_ns)
        return begins_anew

    def service_restart(self, record: ServiceRestart) -> bool:
        """A full reset: a system reset, and the service forgets its chain and what was pending."""
        begins_anew = False if self.form is not None else self.system_reset(record)
        self._begin_service(record.stamp_ns)
        return begins_anew

    def _begin_service(self, stamp_ns: int) -> None:
        self._chain = Chain()
        self._tell(stamp_ns)
        if self._worlds is not None:
            self._worlds.forget_chain(stamp_ns)
        self._silent_moves = []
        if self.updates and self.updates[-1].ended_by_restart_ns is None:
            self.updates[-1].ended_by_restart_ns = stamp_ns
            self._note_change(len(self.updates) - 1)

    def _tell(self, stamp_ns: int) -> None:
        time = None if self._model is None else self._model.told(stamp_ns)
        if time is not None:
            self._chain.set_rtc(time, stamp_ns)

    def _start_on_bench(self, record: Started) -> None:
        """The guest has read its RTC: from here on it is known, and the service is as it was, unless it had ended."""
        self.form = record
        self._worlds = WorldsModel(record)
        self._worlds.doubts = self.doubts
        self.coverage.begin(record.stamp_ns)
        self._silent_moves = []

    def anchor(self, record: Started) -> bool:
        """The guest has read its RTC again. Whether it showed what it was to show."""
        return self._worlds is None or self._worlds.anchor(record)

    def end(self, stamp_ns: int) -> None:
        """The device model of a guest on a bench has ended, and with it the service."""
        if self.form is not None:
            self._lose_sight(stamp_ns)
            self._begin_service(stamp_ns)

    def _lose_sight(self, stamp_ns: int) -> None:
        """What the guest's RTC shows is not known until it has been read again."""
        self._worlds = None
        self.coverage.end(stamp_ns)

    def read(self, access: Access) -> None:
        """One read of the data port. It says nothing, but the hypervisor's vRTC minds it."""
        if self._model is not None:
            self._model.read(access)
        elif self._worlds is not None:
            self._worlds.read(access)

    def write(self, access: Access) -> None:
        """One write to the data port."""
        write_no = len(self.writes)
        self.writes.append(access)
        self.write_stamps.append(access.stamp_ns)
        self.announced.append(False)
        outcome: Outcome | Possible
        if self.form is not None:
            outcome = self._write_on_bench(access)
        else:
            outcome = None if self._model is None else self._model.write(access)
        if isinstance(outcome, Moved):
            if outcome.seconds:
                self._silent_moves.append(SilentMove(access.register, access.value, outcome.seconds))
        elif isinstance(outcome, Withheld):
            self.withheld.append(WithheldEvent(write_no, access.stamp_ns, outcome.defect, outcome.new_time))
        elif isinstance(outcome, Announced):
            self.announced[write_no] = True
            self._announce(write_no, access, outcome)
        elif isinstance(outcome, Possible):
            self.announced[write_no] = True
            self._take(raw_of(write_no, access, outcome))

    def _write_on_bench(self, access: Access) -> Outcome | Possible:
        self.most_uncertain_ns = max(self.most_uncertain_ns, access.uncertainty_ns)
        if self._worlds is None:
            self.doubts.append((access.stamp_ns, "the RTC had not been read again since the guest was reset or ended"))
            return None
        pending = self.updates[-1] if self.updates and self.updates[-1].ended_by_restart_ns is None else None
        if pending is None:
            return self._worlds.write(access, first=True)
        gap_ns = access.stamp_ns - pending.last_ns
        doubtful_ns = AMBIGUOUS_NS + access.uncertainty_ns + pending.raws[-1].uncertainty_ns
        cut = abs(gap_ns - self.timing.window_ns) <= doubtful_ns
        return self._worlds.write(access, first=gap_ns >= self.timing.window_ns, cut=cut)

    def _announce(self, write_no: int, access: Access, outcome: Announced) -> None:
        link = self._chain.add(outcome.last_time, outcome.new_time, access.stamp_ns)
        raw = RawEvent(
            write_no,
            access.stamp_ns,
            access.arrival_ns,
            link.before,
            link.after,
            link.delta,
            link.estimated,
            link.lost,
        )
        self._take(raw)

    def _take(self, raw: RawEvent) -> None:
        self._join(raw)
        self.updates[-1].silent_moves += self._silent_moves
        self._silent_moves.clear()
        self.raws.append(raw)
        self.raw_stamps.append(raw.stamp_ns)
        number = len(self.updates) - 1
        self.update_of_raw.append(number)
        self._note_change(number)

    def _join(self, raw: RawEvent) -> None:
        """Appends to the pending update, or begins one after a window of silence or a restart."""
        doubtful = False
        if self.updates and self.updates[-1].ended_by_restart_ns is None:
            update = self.updates[-1]
            gap_ns = raw.stamp_ns - update.last_ns
            doubtful_ns = AMBIGUOUS_NS + raw.uncertainty_ns + update.raws[-1].uncertainty_ns
            doubtful = abs(gap_ns - self.timing.window_ns) <= doubtful_ns
            if gap_ns < self.timing.window_ns:
                if doubtful and len(update.cuts) < MOST_CUTS:
                    self._note_ambiguous(len(self.updates) - 1)
                    update.cuts.append(len(update.raws))
                update.add(raw)
                self.lasts[-1] = raw.stamp_ns
                return
        if doubtful:
            self._note_ambiguous(len(self.updates))
        update = Update(self.timing, doubtful_before=doubtful)
        update.add(raw)
        self.updates.append(update)
        self.firsts.append(raw.stamp_ns)
        self.lasts.append(raw.stamp_ns)

    def _note_ambiguous(self, number: int) -> None:
        if not self.ambiguous or self.ambiguous[-1] != number:
            self.ambiguous.append(number)

    def _note_change(self, number: int) -> None:
        if self.changed_from is None or number < self.changed_from:
            self.changed_from = number
