"""The witness on a bench: what a guest's agent says that it did, on the harness's clock, before the judge looks."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.clock_map import ClockLog, ClockMap, Stamp
from harness.deadline import Deadline
from harness.engine.rundir import append_line, disk_error
from harness.errors import InfrastructureError
from harness.guests.rtc_reading import RtcReading
from harness.guests.steps import AgentReport

FORMAT = 1

TOLERANCE_S = 1
"""How far payloads may be off: the guest's clock, its host's and the harness's tick at moments of their own."""

DRIFT_PPM = {"linux": 1_000, "bare": 12_000}
"""How wrong a guest's clock may run: a kernel that has measured its TSC by the PIT is off by hundreds of ppm until it
has measured again, and slews by 500. The bare guest measures its own for 2 ms and takes what is within 1 %: 40 to 370
ppm in QEMU, 7,500 in QEMU below QEMU. It costs little: samples are taken right after what they are for.
"""

READ_EVERY_NS = 10_000_000_000
"""A user's guest has its RTC read again when that is longer ago: whoever else sets it is seen by then."""

_BEYOND_NS = 1_000_000
"""So far beyond its bounds a stamp may lie, for the agent's way from its access to its own clock."""


class Watch(Protocol):
    """A guest whose clock and RTC can be looked at."""

    def now(self, deadline: Deadline) -> tuple[int, int, int]:
        """(sent_ns, guest_ns, received_ns)."""

    def read_rtc(self, deadline: Deadline) -> RtcReading:
        """What its RTC shows, with its registers A and B."""


@dataclass(frozen=True)
class WitnessAbout:
    """What the judge has to know of the guest.

    vm: the name that its events carry. vrtc: whose virtual RTC it has (dm, hv). service: who sends its events.
    system: what it runs (linux, bare), by which its clock may be wrong.
    """

    vm: str
    vrtc: str
    service: str
    window_ns: int
    system: str = "linux"


class BenchWitness:
    """Writes `witness.jsonl` and `clock.jsonl` of one guest. From the lane's thread; `end` from any."""

    def __init__(self, folder: Path, about: WitnessAbout) -> None:
        self._folder = folder
        self._about = about
        self._clock = ClockMap(DRIFT_PPM[about.system], keep=self._keep)
        self._clock_log: ClockLog | None = None
        self._read_ns = 0
        self._last_ns = 0
        self._begun = self._ended = False
        self._lock = threading.Lock()
        self.uncertainty_ns = 0
        """Of the last stamp."""

    def sample(self, guest: Watch, deadline: Deadline) -> None:
        """Ask for the guest's clock: the nearer to what it has to stamp, the better that is known."""
        self._clock.add(*guest.now(deadline))

    def start(self, reading: RtcReading) -> None:
        """The guest's RTC showed this: what it is from here on is known. Raises InfrastructureError for a full disk."""
        about = self._about
        self._begun = True
        self._shown(
            reading,
            event="start",
            format=FORMAT,
            vm=about.vm,
            vrtc=about.vrtc,
            window_ns=about.window_ns,
            service=about.service,
        )

    @property
    def is_old(self) -> bool:
        """Whether the RTC was read so long ago that it is worth reading it again."""
        return time.monotonic_ns() - self._read_ns > READ_EVERY_NS

    def anchor(self, reading: RtcReading) -> None:
        """The guest's RTC shows this, in the middle of its life: it should be what its accesses explain."""
        self._shown(reading, event="anchor")

    def _shown(self, reading: RtcReading, **about: object) -> None:
        """What the guest's RTC showed, and when."""
        self._clock.add(reading.sent_ns - reading.grain_ns, reading.guest_ns, reading.received_ns)
        stamp = self._ours(reading.guest_ns, reading.grain_ns, reading.sent_ns, reading.received_ns)
        self._read_ns = time.monotonic_ns()
        self._write(
            {
                **about,
                "stamp_ns": stamp.ns,
                "uncertainty_ns": stamp.uncertainty_ns,
                "rtc_time": reading.time,
                "register_a": reading.register_a,
                "register_b": reading.register_b,
                "tolerance_s": TOLERANCE_S,
            }
        )

    def reported(self, report: AgentReport) -> None:
        """The guest did this.

        Raises InfrastructureError where its clock says what cannot be, and for a full disk.
        """
        writes, reads = iter(report.writes), iter(report.reads)
        for kind in report.kinds:
            register, value, guest_ns = next(writes if kind == "w" else reads)
            stamp = self._ours(guest_ns, report.grain_ns, report.start_ns, report.end_ns)
            self._write(
                {
                    "event": "write" if kind == "w" else "read",
                    "stamp_ns": stamp.ns,
                    "uncertainty_ns": stamp.uncertainty_ns,
                    "guest_ns": guest_ns,
                    "register": register,
                    "value": value,
                }
            )

    def end(self, reason: str) -> None:
        """Nothing more is to be known of the guest. Idempotent; a full disk has been told of already."""
        with self._lock:
            if self._ended or not self._begun:
                return
            self._ended = True
        try:
            self._write({"event": "end", "stamp_ns": time.monotonic_ns(), "reason": reason})
        except InfrastructureError:
            pass

    def _ours(self, guest_ns: int, grain_ns: int, sent_ns: int, received_ns: int) -> Stamp:
        """A moment of the guest's, up to `grain_ns` later than it says, and between two of ours."""
        early = self._clock.ours(guest_ns, not_after_ns=received_ns)
        half = grain_ns // 2
        stamp = Stamp(early.ns + half, early.uncertainty_ns + half)
        if stamp.latest_ns + _BEYOND_NS < sent_ns or stamp.earliest_ns - _BEYOND_NS > received_ns:
            outside = max(sent_ns - stamp.latest_ns, stamp.earliest_ns - received_ns)
            raise InfrastructureError(
                f"the guest's clock runs wrong: what it did lies {outside / 1e6:.1f} ms outside of the time in which"
                " it was asked to",
                log=self._folder / "clock.jsonl",
                hint="which clock source does the guest have? One that is busy measures its TSC wrong while it boots",
            )
        self.uncertainty_ns = stamp.uncertainty_ns
        return stamp

    def _write(self, record: dict[str, Any]) -> None:
        record["stamp_ns"] = self._last_ns = max(record["stamp_ns"], self._last_ns)  # as the lines stand
        append_line(self._folder / "witness.jsonl", record)

    def _keep(self, record: dict[str, object]) -> None:
        path = self._folder / "clock.jsonl"
        try:
            if self._clock_log is None:
                self._clock_log = ClockLog(path, guest=self._about.vm)
            self._clock_log(record)
        except OSError as error:
            raise disk_error(path, error) from error
