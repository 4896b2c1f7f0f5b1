"""Reads the raw trace log: what the guest really wrote to its RTC and when, untouched by plan and service."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NamedTuple

from harness.judge import dates
from harness.judge.dates import SECOND_NS

INDEX_PORT, DATA_PORT = 0x70, 0x71
FIRST_INDEX = {"dm": 0x0D, "hv": 0x00}
"""Where the index register stands when the vRTC begins. Only the device model's returns there at a reset."""
STAMP_TOLERANCE_NS = 50_000_000
"""Two stamps may differ from their raw wall clocks by this much: more could change how an update is read."""

_PREFIX = r"(?:\d+@(\d+)\.(\d+):|(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)\.(\d+)Z )?"
"""QEMU's own stamp: process and seconds since 1970, in newer ones (11.1) the time of day in UTC; or nothing."""
_ACCESS = re.compile(
    _PREFIX + r"memory_region_ops_(write|read) cpu -?\d+ mr \S+ addr 0x([0-9a-f]+)"
    r" value 0x([0-9a-f]+) size (\d+) name '(?:rtc|rtc-index)'"
)
_RESET = re.compile(r"resettable_reset obj=(0x[0-9a-f]+)")


class Access(NamedTuple):
    """One access to the RTC's data port. Stamps are monotonic nanoseconds."""

    stamp_ns: int
    arrival_ns: int
    register: int
    value: int
    is_read: bool
    uncertainty_ns: int = 0


@dataclass(frozen=True)
class Started:
    """The vRTC began with `rtc_time` (seconds since 1970) at `stamp_ns`.

    offset_s: what a former VM in the same place of the hypervisor has moved its clock by. register_a, register_b: what
    these held, where the guest went on from a saved state; None: what a start leaves in them.

    On a bench (`service` says which form its events have) the guest read `rtc_time`, A and B of its RTC at `stamp_ns`,
    which may be wrong by `uncertainty_ns`; `tolerance_s`: by how much payload times may differ, which includes the
    second that the unknown phase of the RTC's tick makes. anchor: the guest only read its RTC again.
    """

    stamp_ns: int
    rtc_time: int
    vrtc: str
    vm: str
    window_ns: int | None
    offset_s: int = 0
    register_a: int | None = None
    register_b: int | None = None
    service: str | None = None
    uncertainty_ns: int = 0
    tolerance_s: int = 1
    anchor: bool = False


@dataclass(frozen=True)
class SystemReset:
    """The guest was reset: the device model's vRTC starts anew, the event service goes on."""

    stamp_ns: int


@dataclass(frozen=True)
class ServiceRestart:
    """The device model was reset in full: a pending update died with the service."""

    stamp_ns: int


@dataclass(frozen=True)
class ClockStep:
    """The wall clock was stepped; stamps around it were clamped."""

    stamp_ns: int


@dataclass(frozen=True)
class Ended:
    """The device model closed the trace."""

    stamp_ns: int
    reason: str


@dataclass(frozen=True)
class Problem:
    """A part of the record that cannot be trusted, between two stamps as far as they are known.

    suspected: the stamps alone are in doubt, and a clock step recorded nearby would explain it. Else a line
    could not be read, which may have been an access: from there on nobody knows the state of the vRTC.
    """

    stamp_ns: int
    until_ns: int
    text: str
    suspected: bool = False


Record = Access | Started | SystemReset | ServiceRestart | ClockStep | Ended | Problem


def _wall_clock(
    seconds: str | None, micros: str | None, year: str | None, month: str, day: str, *time_of_day: str
) -> int | None:
    """Nanoseconds since 1970 of a line's own stamp; None for a line without, or with one that is no date."""
    if seconds is not None and micros is not None:
        return int(seconds) * SECOND_NS + int(micros) * 1_000
    if year is None or (days := dates.civil_to_days(int(year), int(month), int(day))) is None:
        return None
    hour, minute, second, fraction = time_of_day
    whole_s = ((days * 24 + int(hour)) * 60 + int(minute)) * 60 + int(second)
    return whole_s * SECOND_NS + int(fraction) * 1_000


_HELD = ("register_a", "register_b")


def _byte(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 0xFF:
        raise ValueError(f"{value!r} is no byte")
    return value


class WitnessParser:
    """Turns the lines of a trace log into records, in their order."""

    def __init__(self) -> None:
        self.line = 0
        self.last_arrival_ns = 0
        self._started = False
        self._vrtc = "dm"
        self._index = FIRST_INDEX[self._vrtc]
        self._last_stamp_ns = 0
        self._last_clocks: tuple[int, int] | None = None
        self._reset_object: str | None = None
        self._running = False

    def feed(self, line: str) -> list[Record]:
        """The records of one complete line: mostly none, for most lines have nothing to do with the RTC."""
        self.line += 1
        if line.startswith("# "):
            return self._device_model_record(line[2:])
        arrival, _, rest = line.partition(" ")
        stamp, _, raw = rest.partition(" ")
        if not (arrival.isdecimal() and stamp.isdecimal()):
            return [self._problem(f"neither a record nor a traced line: {line[:120]!r}")]
        self.last_arrival_ns = int(arrival)
        if "name 'rtc" in raw:
            return self._access(int(arrival), int(stamp), raw)
        if "resettable_reset obj=" in raw:
            return self._reset(int(stamp), raw)
        if not self._running and "(running)" in raw and "runstate_set" in raw:
            self._running = True
        return []

    def _problem(self, text: str, *, suspected: bool = False) -> Problem:
        until_ns = max(self._last_stamp_ns, self.last_arrival_ns)
        return Problem(self._last_stamp_ns, until_ns, f"trace.log line {self.line}: {text}", suspected)

    def _device_model_record(self, text: str) -> list[Record]:
        try:
            record = json.loads(text)
            event, stamp_ns = record["event"], int(record["stamp_ns"])
            if event == "start":
                rtc_time, vrtc, vm = int(record["rtc_time"]), str(record["vrtc"]), str(record["vm"])
                window, offset_s = record.get("window_ns"), int(record.get("offset_s", 0))
                if self._started:
                    self._running, self._reset_object = False, None
                self._started, self._vrtc, self._index = True, vrtc, FIRST_INDEX.get(vrtc, 0)
                held = (None if (byte := record.get(name)) is None else _byte(byte) for name in _HELD)
                register_a, register_b = held
                return [Started(stamp_ns, rtc_time, vrtc, vm, window, offset_s, register_a, register_b)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return [self._problem(f"an unreadable record of the device model ({error!r}): {text[:120]!r}")]
        if event == "clock-step":
            self._last_clocks = None
            return [ClockStep(stamp_ns)]
        if event == "service-restart":
            self._reset_index()
            return [ServiceRestart(stamp_ns)]
        if event == "end":
            return [Ended(stamp_ns, str(record.get("reason", "")))]
        return []

    def _access(self, arrival_ns: int, stamp_ns: int, raw: str) -> list[Record]:
        match = _ACCESS.match(raw)
        if match is None:
            return [self._problem(f"an RTC access that cannot be read: {raw[:120]!r}")]
        *own_stamp, kind, address, value, size = match.groups()
        wall_ns = _wall_clock(*own_stamp)
        records: list[Record] = [] if wall_ns is None else self._check_stamps(stamp_ns, wall_ns)
        stamp_ns = max(stamp_ns, self._last_stamp_ns)
        self._last_stamp_ns = stamp_ns
        if size != "1":
            return records
        port = int(address, 16)
        if port == INDEX_PORT and kind == "write":
            self._index = int(value, 16) & 0x7F
        elif port == DATA_PORT:
            records.append(Access(stamp_ns, arrival_ns, self._index, int(value, 16) & 0xFF, kind == "read"))
        return records

    def _check_stamps(self, stamp_ns: int, wall_ns: int) -> list[Record]:
        """Stamps are QEMU's wall clock on another base: from line to line both must move by the same."""
        before, self._last_clocks = self._last_clocks, (stamp_ns, wall_ns)
        if before is None:
            return []
        moved, wall_moved = stamp_ns - before[0], wall_ns - before[1]
        if abs(moved - wall_moved) <= STAMP_TOLERANCE_NS:
            return []
        text = f"the stamp moved by {moved / 1e9:.3f} s while QEMU's clock moved by {wall_moved / 1e9:.3f} s"
        return [self._problem(text, suspected=True)]

    def _reset(self, stamp_ns: int, raw: str) -> list[Record]:
        match = _RESET.search(raw)
        if match is None:
            return [self._problem(f"a reset that cannot be read: {raw[:120]!r}")]
        if not self._running:
            self._reset_object = match[1]
            return []
        if match[1] != self._reset_object:
            return []
        self._reset_index()
        stamp_ns = max(stamp_ns, self._last_stamp_ns)
        self._last_stamp_ns = stamp_ns
        return [SystemReset(stamp_ns)]

    def _reset_index(self) -> None:
        """The hypervisor's index register stays where it is, whatever becomes of the guest."""
        if self._vrtc != "hv":
            self._index = FIRST_INDEX["dm"]
