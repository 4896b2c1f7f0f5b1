"""Whole seconds since 1970 UTC to the bytes of a CMOS RTC and back: the judge's own arithmetic.

Source: MC146818A data sheet for the encodings; ACRN.md, where it tells of the two vRTCs, for what counts as a
valid date.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from datetime import date

SECOND_NS = 1_000_000_000

SECOND, MINUTE, HOUR, DAY_OF_WEEK, DAY, MONTH, YEAR, CENTURY = 0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32
DATE_TIME = (SECOND, MINUTE, HOUR, DAY, MONTH, YEAR, CENTURY)
"""The seven registers; the day of week is not one of them."""

BINARY = 0x04
HOURS_24 = 0x02
PM = 0x80

_EPOCH = date(1970, 1, 1).toordinal()
_CYCLE_YEARS, _CYCLE_DAYS = 400, 146_097
"""The calendar repeats after 400 years; Python's ends with the year 9999, a binary century does not."""


def civil_to_days(year: int, month: int, day: int) -> int | None:
    """Days from 1 January 1970 to a Gregorian date, or None where there is no such date."""
    cycles = max(0, (year - 2000) // _CYCLE_YEARS)
    try:
        ordinal = date(year - cycles * _CYCLE_YEARS, month, day).toordinal()
    except ValueError:
        return None
    return ordinal - _EPOCH + cycles * _CYCLE_DAYS


def days_to_civil(days: int) -> tuple[int, int, int]:
    """The (year, month, day) that lies `days` after 1 January 1970; days >= 0."""
    cycles, rest = divmod(days, _CYCLE_DAYS)
    found = date.fromordinal(_EPOCH + rest)
    return found.year + cycles * _CYCLE_YEARS, found.month, found.day


def number(byte: int, format_bits: int) -> int | None:
    """The number a register byte stands for; None for a byte that is no BCD number in BCD format."""
    if format_bits & BINARY:
        return byte
    tens, ones = byte >> 4, byte & 0x0F
    return tens * 10 + ones if tens < 10 and ones < 10 else None


def byte_of(value: int, format_bits: int) -> int:
    """The register byte for a number from 0 to 99 (binary: to 255)."""
    return (value if format_bits & BINARY else (value // 10 << 4) | value % 10) & 0xFF


def hour_of(byte: int, format_bits: int) -> int | None:
    """The hour 0 to 23 an hour byte stands for, in 12 h format with the PM bit; None where it is none."""
    if format_bits & HOURS_24:
        hour = number(byte, format_bits)
        return hour if hour is not None and hour < 24 else None
    hour = number(byte & ~PM, format_bits)
    if hour is None or not 1 <= hour <= 12:
        return None
    return hour % 12 + (12 if byte & PM else 0)


def hour_byte(hour: int, format_bits: int) -> int:
    """The hour byte for an hour from 0 to 23."""
    if format_bits & HOURS_24:
        return byte_of(hour, format_bits)
    return byte_of(hour % 12 or 12, format_bits) | (PM if hour >= 12 else 0)


def decode(
    registers: Sequence[int], format_bits: int, *, last_year_byte: int = 99, last_year: int | None = None
) -> int | None:
    """Seconds since 1970 of the date in the registers, read as register B's format bits say.

    None for an invalid date: a byte that is no number in that format, a field out of range, a day the
    month does not have, a year before 1970 (or after last_year), a year of the century beyond last_year_byte.
    The day of week is not looked at.
    """
    second, minute, day, month, year, century = (
        number(registers[index], format_bits) for index in (SECOND, MINUTE, DAY, MONTH, YEAR, CENTURY)
    )
    hour = hour_of(registers[HOUR], format_bits)
    if second is None or minute is None or hour is None:
        return None
    if day is None or month is None or year is None or century is None:
        return None
    full_year = century * 100 + year
    if second > 59 or minute > 59 or year > last_year_byte or full_year < 1970:
        return None
    if last_year is not None and full_year > last_year:
        return None
    days = civil_to_days(full_year, month, day)
    if days is None:
        return None
    return ((days * 24 + hour) * 60 + minute) * 60 + second


def encode(time: int, registers: MutableSequence[int], format_bits: int) -> None:
    """Puts a time (seconds since 1970, >= 0) and its day of week (Sunday 1) into the registers."""
    days, second_of_day = divmod(time, 86_400)
    year, month, day = days_to_civil(days)
    registers[SECOND] = byte_of(second_of_day % 60, format_bits)
    registers[MINUTE] = byte_of(second_of_day // 60 % 60, format_bits)
    registers[HOUR] = hour_byte(second_of_day // 3_600, format_bits)
    registers[DAY_OF_WEEK] = byte_of((days + 4) % 7 + 1, format_bits)
    registers[DAY] = byte_of(day, format_bits)
    registers[MONTH] = byte_of(month, format_bits)
    registers[YEAR] = byte_of(year % 100, format_bits)
    registers[CENTURY] = byte_of(year // 100, format_bits)
