"""The policy `set-host-rtc`: the host's RTC follows what a guest does to its own, within limits; off by default.

What follows is the **change**, not the time. When a guest moves its clock by `delta_time` seconds, the host's RTC is
moved by as many: read, added, written. So it does not matter how late the event is handled, nor by how much guest and
host differed before, which they keep; and two guests' changes add up in any order. Copying the guest's time instead
would be wrong by the settle window and more, and would undo every difference that was wanted.

What else to know before it is switched on:

- Only the RTC is set, not the system's time. A kernel that is synchronised by NTP writes its own time into the RTC
  every 11 minutes, and undoes it.
- On an ACRN Service VM this is the physical RTC. The hypervisor's vRTCs (real-time VMs) take it up: at their creation
  and every 3 hours they are the physical RTC plus the guest's own offset, so a guest that is followed gets its change
  a second time then. Follow guests of the device model's vRTC (`dm`), or decide that you want this.
- An `acrn-dm`'s sums may be wrong (ACRN.md, "Known traps"). The limits refuse the coarse ones among them.
- An RTC shows whole seconds, so each time the host's may lose or win up to one second.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import logging
import os
import stat
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

from .errors import ActionError
from .events import SettledRtcChange
from .typed import Any

#: _IOR('p', 0x09, struct rtc_time) and _IOW('p', 0x0a, struct rtc_time): <linux/rtc.h>.
RTC_RD_TIME = 0x80247009
RTC_SET_TIME = 0x4024700A

DEVICE = "/dev/rtc0"
MAX_STEP = 3600
MAX_PER_HOUR = 6
YEARS = (2020, 2037)
#: How long to wait for somebody else who has the RTC open (it can be open once), in seconds.
BUSY_PATIENCE = 2.0

#: struct rtc_time: sec, min, hour, mday, mon (from 0), year (from 1900), wday, yday, isdst.
_RTC_TIME = struct.Struct("@9i")
_EPOCH = datetime.datetime(1970, 1, 1)

#: ioctl(descriptor, request, argument): an argument that is a bytearray is written into.
Ioctl = Callable[[int, int, "bytes | bytearray"], object]

_log = logging.getLogger(__name__)


class HostRtc:
    """The host's RTC device, in whole seconds since 1970, as UTC (an RTC in local time is off by its zone)."""

    def __init__(self, device: str = DEVICE, *, ioctl: Ioctl = fcntl.ioctl) -> None:
        self.device = device
        self._ioctl = ioctl
        self._given_up = threading.Event()

    def read(self) -> int:
        """What it shows. Raises OSError, and ValueError for what is no date."""
        descriptor = self._open()
        try:
            return self._read(descriptor)
        finally:
            os.close(descriptor)

    def move(self, delta: int, check: Callable[[int], None]) -> tuple[int, int]:
        """Move it by `delta` seconds; what it showed, and what it was set to.

        `check` is called with the new time and may raise, then nothing is set. Raises OSError; ValueError for what
        is no date, and if the RTC does not show afterwards what it was set to.
        """
        descriptor = self._open()
        try:
            before = self._read(descriptor)
            check(before + delta)
            moment = time.gmtime(before + delta)
            fields = (moment.tm_sec, moment.tm_min, moment.tm_hour, moment.tm_mday, moment.tm_mon - 1)
            days = (moment.tm_year - 1900, (moment.tm_wday + 1) % 7, moment.tm_yday - 1, 0)
            began = time.monotonic()
            self._ioctl(descriptor, RTC_SET_TIME, _RTC_TIME.pack(*fields, *days))
            shown = self._read(descriptor)
            if not -1 <= shown - (before + delta) <= time.monotonic() - began + 2:
                raise ValueError(f"it was set to {before + delta} and shows {shown}")
            return before, before + delta
        finally:
            os.close(descriptor)

    def give_up(self, given_up: bool = True) -> None:
        """Whether to wait no longer for somebody else who has it open."""
        if given_up:
            self._given_up.set()
        else:
            self._given_up.clear()

    def _open(self) -> int:
        until = time.monotonic() + BUSY_PATIENCE
        while True:
            try:
                return os.open(self.device, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() >= until or self._given_up.wait(0.02):
                    raise

    def _read(self, descriptor: int) -> int:
        buffer = bytearray(_RTC_TIME.size)
        self._ioctl(descriptor, RTC_RD_TIME, buffer)
        second, minute, hour, day, month, year, *_ = _RTC_TIME.unpack(buffer)
        try:
            shown = datetime.datetime(year + 1900, month + 1, day, hour, minute, second)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"it shows no date: {error}") from error
        return int((shown - _EPOCH).total_seconds())


class SetHostRtc:
    """An action: the host's RTC follows, and everything that looks wrong is refused, counted and logged.

    Refused are events that are estimated, lost, overrun or have no `delta_time`; steps longer than `max_step`
    seconds; more than `max_per_hour` settings in 3,600 s, counted through restarts of the service; and anything
    by which the guest's or the host's RTC would be outside of the `years` (first and last).
    """

    def __init__(
        self,
        rtc: HostRtc | None = None,
        *,
        max_step: int = MAX_STEP,
        max_per_hour: int = MAX_PER_HOUR,
        years: tuple[int, int] = YEARS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the RTC once. Raises ActionError when that cannot be done."""
        self._rtc = rtc or HostRtc()
        self._max_step = max_step
        self._max_per_hour = max_per_hour
        self._years = years
        self._monotonic = monotonic
        self._set_at: deque[float] = deque()
        self._last_refusal: str | None = None
        self._counts = self._zero()
        try:
            if not stat.S_ISCHR(os.stat(self._rtc.device).st_mode):
                raise ActionError(f"{self._rtc.device}: not a device")
            shows = self._rtc.read()
        except (OSError, ValueError) as error:
            raise ActionError(f"{self._rtc.device}: the host's RTC cannot be read: {_text(error)}") from error
        _log.info(
            "the host's RTC %s shows %s; it follows steps of up to %d s, %d in an hour, from %d to %d",
            self._rtc.device, _date(shows), max_step, max_per_hour, *years,
        )  # fmt: skip

    def begin(self) -> None:
        """Counts begin at 0. The settings of the last hour go on to count."""
        self._rtc.give_up(False)
        self._last_refusal = None
        self._counts = self._zero()

    def act(self, event: SettledRtcChange) -> None:
        """Follow, or refuse."""
        self._counts["run"] += 1
        if event.delta_time == 0:
            self._counts["unchanged"] += 1
            return
        try:
            delta = self._trusted_delta(event)
            before, after = self._rtc.move(delta, self._check)
        except _RefusedError as refused:
            self._counts["refused"] += 1
            self._last_refusal = str(refused)
            _log.warning("%s/%s: the host's RTC does not follow: %s", event.vm, event.source, refused)
        except (OSError, ValueError) as error:
            self._counts["failed"] += 1
            _log.error("%s: the host's RTC could not be set: %s", self._rtc.device, _text(error))
        else:
            self._counts["set"] += 1
            _log.info(
                "%s: the host's RTC follows %s/%s by %+d s: %s -> %s",
                self._rtc.device, event.vm, event.source, delta, _date(before), _date(after),
            )  # fmt: skip

    def interrupt(self) -> None:
        """Wait no longer for somebody else who has the RTC open; nothing else here takes time."""
        self._rtc.give_up()

    def status(self) -> dict[str, Any]:
        """run: events; what became of them: set, unchanged (delta 0), refused, failed; and the last refusal."""
        return {**self._counts, "last_refusal": self._last_refusal}

    def _trusted_delta(self, event: SettledRtcChange) -> int:
        for name in ("estimated", "lost", "overrun"):
            if getattr(event, name):
                raise _RefusedError(f"the event is {name}")
        if event.delta_time is None or event.new_time is None:
            raise _RefusedError("by how much the guest's RTC changed is not known")
        if abs(event.delta_time) > self._max_step:
            raise _RefusedError(f"{event.delta_time:+d} s is more than {self._max_step} s at once")
        self._refuse_implausible(event.new_time, "guest's")
        return event.delta_time

    def _check(self, rtc: int) -> None:
        """The last look, just before it is set."""
        self._refuse_implausible(rtc, "host's")
        self._refuse_too_often()

    def _refuse_implausible(self, rtc: int, whose: str) -> None:
        first, last = self._years
        try:
            year = time.gmtime(rtc).tm_year
        except (OverflowError, ValueError, OSError):
            raise _RefusedError(f"the {whose} RTC would show {rtc}, which is no date") from None
        if not first <= year <= last:
            raise _RefusedError(f"the {whose} RTC would show the year {year}, not {first} to {last}")

    def _refuse_too_often(self) -> None:
        """Counts every attempt that may set it, also one that fails: what fails may have set it all the same."""
        now = self._monotonic()
        while self._set_at and now - self._set_at[0] >= 3600:
            self._set_at.popleft()
        if len(self._set_at) >= self._max_per_hour:
            raise _RefusedError(f"it was set {len(self._set_at)} times within the last hour already")
        self._set_at.append(now)

    @staticmethod
    def _zero() -> dict[str, int]:
        return dict.fromkeys(("run", "set", "unchanged", "refused", "failed"), 0)


class _RefusedError(Exception):
    """A limit says no."""


def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def _text(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
