"""The registers by name, dates as register values, and ACRN.md's transitions, for the tests of the judge's clocks."""

from __future__ import annotations

import calendar
from datetime import datetime, timezone

SEC, MIN, HOUR, DOW, DAY, MONTH, YEAR, A, B, CENTURY = 0, 2, 4, 6, 7, 8, 9, 0x0A, 0x0B, 0x32
REGISTERS = (SEC, MIN, HOUR, DAY, MONTH, YEAR, CENTURY)


def utc(year: int, month: int = 1, day: int = 1, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc).timestamp())


def fields(time: int) -> dict[int, int]:
    at = datetime.fromtimestamp(time, timezone.utc)
    values = (at.second, at.minute, at.hour, at.day, at.month, at.year % 100, at.year // 100)
    return dict(zip(REGISTERS, values, strict=True))


def bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


def exists(date: dict[int, int]) -> bool:
    year = date[CENTURY] * 100 + date[YEAR]
    return year >= 1970 and 1 <= date[DAY] <= calendar.monthrange(year, date[MONTH])[1]


JUNE = utc(2024, 6, 15, 12)
TRANSITIONS = {
    "31 Jan -> 29 Feb 2024": (utc(2024, 1, 31, 12), utc(2024, 2, 29, 12)),
    "29 Feb 2024 -> 28 Feb 2023": (utc(2024, 2, 29, 12), utc(2023, 2, 28, 12)),
    "1999 -> 2000": (utc(1999, 12, 31, 23, 59, 59), utc(2000, 1, 1)),
    "31 Mar -> 30 Apr": (utc(2024, 3, 31, 1), utc(2024, 4, 30, 1)),
    "5 May 2024 -> 26 Oct 1985": (utc(2024, 5, 5), utc(1985, 10, 26, 1, 21)),
    "15 Jun 2024 -> 20 Jul 2025": (JUNE, utc(2025, 7, 20, 13, 14, 15)),
}
