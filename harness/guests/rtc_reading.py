"""What an RTC shows, from its bytes as a guest read them, in whichever format they are."""

from __future__ import annotations

import calendar
import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from harness.guests.steps import AgentReport

READ_AT_ONCE = (0x0A, 0, 2, 4, 7, 8, 9, 0x32, 0x0B, 0, 0x0A)
"""Registers in the order they are read in: A and the seconds again at the end, so that a change between is seen."""

BROKEN = -1
"""The time of an RTC whose bytes are no date."""

_IN_PROGRESS = 0x80
_BINARY, _HOURS_24 = 0x04, 0x02
_PM = 0x80


@dataclass(frozen=True)
class RtcReading:
    """A guest's RTC at one moment.

    sent_ns, received_ns: this machine's monotonic nanoseconds around it. guest_ns: when by the guest's own clock (to
    within grain_ns, later). time: seconds since 1970 UTC, -1 where the bytes are no date. register_a, register_b: what
    they held.
    """

    sent_ns: int
    guest_ns: int
    received_ns: int
    time: int
    register_a: int
    register_b: int
    grain_ns: int = 0


def decoded(report: AgentReport) -> RtcReading | None:
    """The reading that a report of READ_AT_ONCE is; None where the RTC was updated meanwhile."""
    indices = tuple(index for index, _, _ in report.reads)
    if indices != READ_AT_ONCE:
        raise ValueError(f"not a reading of the RTC: {report.reads}")
    (_, first_a, _), (_, first_second, stamp), *_, (_, last_second, _), (_, last_a, _) = report.reads
    if (first_a | last_a) & _IN_PROGRESS or first_second != last_second:
        return None
    held = {index: value for index, value, _ in report.reads}
    return RtcReading(
        report.start_ns, stamp, report.end_ns, time_shown(held), held[0x0A], held[0x0B], report.grain_ns
    )


def time_shown(held: Mapping[int, int]) -> int:
    """Seconds since 1970 UTC that these registers show by the format in register B; -1 where that is no date.

    Bit 7 of the second counts for nothing, and bit 7 of the hour is PM in 12-hour mode (MC146818).
    """
    binary, hours_24 = held[0x0B] & _BINARY, held[0x0B] & _HOURS_24
    hour = held[4]
    afternoon = bool(hour & _PM) and not hours_24
    raw = {**held, 0: held[0] & 0x7F, 4: hour & 0x7F if not hours_24 else hour}
    second, minute, hour, day, month, year, century = (
        raw[index] if binary else _from_bcd(raw[index]) for index in (0, 2, 4, 7, 8, 9, 0x32)
    )
    if not hours_24:
        if not 1 <= hour <= 12:
            return BROKEN
        hour = hour % 12 + (12 if afternoon else 0)
    try:
        moment = datetime.datetime(century * 100 + year, month, day, hour, minute, second)
    except ValueError:
        return BROKEN
    return calendar.timegm(moment.timetuple())


def _from_bcd(byte: int) -> int:
    """The number in two decimal digits; one that no date has where they are none."""
    high, low = byte >> 4, byte & 0x0F
    return high * 10 + low if high < 10 and low < 10 else 255
