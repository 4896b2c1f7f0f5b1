"""Judges a guest that somebody else runs and does things with: it is listened to, and nothing is asked of it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.engine.cause import error_of, leave_record
from harness.engine.judging import Judging
from harness.engine.rundir import RunDirectory
from harness.engine.running_guest import RunningGuest, TraceCopy, find_guest
from harness.errors import BenchError, InfrastructureError
from harness.judge.verdict import INCONCLUSIVE, MOST_INCONCLUSIVE, Verdict
from harness.listener import EventListener, ListenerProcess

CONNECT_TIMEOUT = 10.0
"""Seconds: the service is there already; what stands between it and us may still be starting."""

DEATH_NOTICE = 1.0
"""Seconds after the end of its event stream in which a device model that died is seen to be dead."""


@dataclass(frozen=True)
class AttachSettings:
    """Whom to attach to and what to leave behind.

    trace: None: the device model says where it is. event_socket: None: the device model's; `{vm}`: the guest's name.
    seconds: for how long; None: until the guest ends or somebody says so.
    """

    run_dir: Path
    seed: int
    socket: Path
    trace: Path | None = None
    event_socket: str | None = None
    seconds: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Attachment:
    """One guest, from now on, for one thread; a context manager.

    on_verdict: called with each verdict, and each revision of one, once it is on disk.

    Raises ConfigurationError where there is no such guest, or it cannot be judged.
    """

    def __init__(
        self, settings: AttachSettings, *, on_verdict: Callable[[Verdict], object] = lambda verdict: None
    ) -> None:
        self._settings = settings
        self._on_verdict = on_verdict
        self._guest = guest = find_guest(settings.socket, settings.trace)
        self._end = contextlib.ExitStack()
        self._end.callback(os.close, guest.pidfd)
        self._changed = threading.Event()
        self._asked: str | None = None
        self._verdicts: dict[str, Verdict] = {}
        self._stream_ended: Deadline | None = None
        self._closed = False
        self._listener: EventListener | None = None
        self.ended: str | None = None
        """Why it is over; None while it is not."""

        self.guest_gone = False
        """Whether the guest had ended when listening did."""

        self.errors: list[BenchError] = []
        """What was in the way of judging."""

        template = settings.event_socket
        self._events = settings.socket if template is None else Path(template.replace("{vm}", guest.vm))
        with contextlib.ExitStack() as undo:
            undo.enter_context(self._end)
            self.rundir = RunDirectory(settings.run_dir, settings.seed, self._details())
            self.rundir.add_guest(guest.vm, self._about())
            self._folder = self.rundir.guest(guest.vm)
            self._copy = TraceCopy(guest.trace, guest.begin, self._folder / "trace.log")
            self._end.callback(self._copy.close)
            self._judge = Judging(
                self.rundir, self._folder, window_ns=guest.window_ns, estimate_tolerance=0, watched=True
            )
            self._end.callback(self._judge.close)
            undo.pop_all()

    @property
    def guest(self) -> RunningGuest:
        """What is known of the guest."""
        return self._guest

    def start(self) -> None:
        """Register as the guest's event client: from now on its updates are judged.

        Raises InfrastructureError where somebody else is registered, or nobody answers.
        """
        listening = self._end.enter_context(ListenerProcess())
        self._listener = listening.listener(self._events, self._folder / "events.jsonl", self._changed.set)
        self._end.callback(self._listener.close)
        self._time = Deadline(self._settings.seconds) if self._settings.seconds is not None else None
        try:
            self._listener.connect(Deadline(CONNECT_TIMEOUT), lambda: self._guest.is_gone)
        except InfrastructureError as error:
            self._failed(error)
            raise

    def watch(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for something to happen, and judge what has; False once it is over."""
        if self.ended is None:
            self._changed.wait(timeout)
            self._changed.clear()
            try:
                self._look()
                self.ended = self._asked or self._over()
            except (InfrastructureError, OSError) as error:
                self._failed(error)
                self.ended = "judging failed"
        return self.ended is None

    def interrupt(self) -> bool:
        """Ctrl-C: end in order, at the next look; False where that is under way already.

        Only sets what `watch` looks at: a signal's handler may have come in the middle of anything.
        """
        if self._asked is not None or self.ended is not None:
            return False
        self._asked = "Ctrl-C"
        return True

    def close(self, *, abort: bool = False) -> None:
        """Listen no more, and judge what is known by then. The guest goes on. Idempotent.

        abort: as of an engine; here it changes nothing, for there is no work to be cut.
        """
        if self._closed:
            return
        self._closed = True
        listener = self._listener
        self.ended = self.ended or "broken off"
        with self._end:
            if listener is not None:
                listener.close()
                try:
                    self._look(final=True)
                except (InfrastructureError, OSError) as error:
                    self._failed(error)
        self._too_little_known()
        self.rundir.add_guest(self._guest.vm, {**self._about(), "ended": self.ended})
        self.rundir.end()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close(abort=exc_info[0] is not None)

    # -- for whoever reports a run ------------------------------------------------------------------------

    @property
    def aborting(self) -> bool:
        """Whether it is being ended."""
        return self._asked is not None or self.ended is not None

    def beside(self) -> list[Verdict]:
        """The latest verdict on each update."""
        return list(self._verdicts.values())

    def vrtc(self, vm: str) -> str | None:
        """Whose virtual RTC the guest has."""
        return str(self._guest.start["vrtc"])

    @property
    def repeated(self) -> int:
        """Nothing is ever repeated here."""
        return 0

    @property
    def inconclusive_share(self) -> float:
        """Which part of all updates could not be judged; those that were cut off at either end left aside."""
        whole = [verdict for verdict in self._verdicts.values() if not verdict.cut]
        return sum(verdict.verdict == INCONCLUSIVE for verdict in whole) / len(whole) if whole else 0.0

    # -- inside -------------------------------------------------------------------------------------------

    def _details(self) -> dict[str, Any]:
        guest = self._guest
        return {
            "bench": {"file": None, "name": "attached"},
            "attached": {"socket": str(guest.socket), "trace_log": str(guest.trace), "pid": guest.pid},
            "rtc_base": guest.start["rtc_time"],
            "window_ns": guest.window_ns,
            "estimate_tolerance": 0,
            **self._settings.details,
        }

    def _about(self) -> dict[str, Any]:
        return {"vrtc": self._guest.start["vrtc"], "event_socket": str(self._events)}

    def _look(self, *, final: bool = False) -> None:
        gone = self._guest.is_gone  # asked first: what it wrote until then is copied next
        self._copy.pump()
        if final and gone:
            self._take_last_words()
        for verdict in self._judge.decide(time.monotonic_ns(), final=final):
            self._verdicts[verdict.item] = verdict
            self._on_verdict(verdict)

    def _over(self) -> str | None:
        """Why it is over, by itself. Raises InfrastructureError where nothing can be heard any more."""
        assert self._listener is not None
        if self._listener.failure is not None:
            raise InfrastructureError(f"{self._guest.vm}: {self._listener.failure}")
        if self._guest.is_gone:
            return "the guest ended"
        if self._listener.ended is not None:
            self._stream_ended = self._stream_ended or Deadline(DEATH_NOTICE)
            if self._stream_ended.expired:
                return f"the event stream ended: {self._listener.ended}"
        if self._time is not None and self._time.expired:
            return f"{self._settings.seconds:g} s are over"
        return None

    def _take_last_words(self) -> None:
        """The judge has to know how the device model ended, and so has whoever reads the run."""
        record = self._guest.last_words(self._folder / "trace.log")
        leave_record(self._folder / "exit.json", record)
        self.guest_gone = True
        self.ended = f"the guest ended: {record.problem} ({record.reason})"
        if record.fault is not None:
            self._failed(error_of(record, self._guest.vm, self._guest.exit_record))

    def _too_little_known(self) -> None:
        if self.inconclusive_share > MOST_INCONCLUSIVE:
            problem = (
                f"{self.inconclusive_share:.1%} of the updates could not be judged, more than {MOST_INCONCLUSIVE:.0%}:"
                " why stands at each of them"
            )
            self._failed(InfrastructureError(problem, hint="is this machine busy with something else?"))

    def _failed(self, problem: BenchError | OSError) -> None:
        error = problem if isinstance(problem, BenchError) else InfrastructureError(str(problem))
        self.errors.append(error)
        with contextlib.suppress(InfrastructureError):  # a full disk: it is told all the same, by `errors`
            self.rundir.add_error("infrastructure", self._guest.vm, str(error))
