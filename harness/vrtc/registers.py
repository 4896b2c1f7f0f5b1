"""The CMOS RTC's register map and its date encodings (MC146818 data sheet; century at 0x32 as on PCs)."""

from __future__ import annotations

import calendar
import time

SECOND = 0x00
ALARM_SECOND = 0x01
MINUTE = 0x02
ALARM_MINUTE = 0x03
HOUR = 0x04
ALARM_HOUR = 0x05
DAY_OF_WEEK = 0x06
DAY_OF_MONTH = 0x07
MONTH = 0x08
YEAR = 0x09
REGISTER_A = 0x0A
REGISTER_B = 0x0B
REGISTER_C = 0x0C
REGISTER_D = 0x0D
CENTURY = 0x32

TIME_REGISTERS = frozenset({SECOND, MINUTE, HOUR, DAY_OF_MONTH, MONTH, YEAR, CENTURY})
"""The seven registers whose writes make an update; the day of week is not one of them."""

A_UPDATE_IN_PROGRESS = 0x80
A_DIVIDER = 0x70
A_DIVIDER_RUNNING = 0x20

B_SET = 0x80
B_PERIODIC = 0x40
B_ALARM = 0x20
B_UPDATE = 0x10
B_BINARY = 0x04
B_24_HOUR = 0x02
B_INTERRUPTS = B_PERIODIC | B_ALARM | B_UPDATE

C_INTERRUPT = 0x80
C_PERIODIC = 0x40
C_ALARM = 0x20
C_UPDATE = 0x10

D_POWER = 0x80

PM = 0x80
"""Bit 7 of the hour in the 12-hour format."""

ALARM_ANY = 0xC0
"""An alarm byte of this or above matches every value."""

FIRST_YEAR, LAST_YEAR = 1970, 9999
"""ACRN's device model takes no earlier year, and aborts on a later one; the model calls both invalid."""


def encode(value: int, register_b: int) -> int:
    """A number of 0 to 99 as the register byte that the format bits of register B ask for."""
    if register_b & B_BINARY:
        return value
    return (value // 10) << 4 | value % 10


def decode(byte: int, register_b: int) -> int | None:
    """The number that a register byte means; None where it is no BCD number."""
    if register_b & B_BINARY:
        return byte
    tens, units = byte >> 4, byte & 0x0F
    return tens * 10 + units if tens <= 9 and units <= 9 else None


def encode_hour(hour: int, register_b: int) -> int:
    """An hour of 0 to 23 in the 12- or 24-hour format of register B."""
    if register_b & B_24_HOUR:
        return encode(hour, register_b)
    return encode(hour % 12 or 12, register_b) | (PM if hour >= 12 else 0)


def decode_hour(byte: int, register_b: int) -> int | None:
    """The hour of 0 to 23 that a register byte means; None where it means none."""
    if register_b & B_24_HOUR:
        hour = decode(byte, register_b)
        return hour if hour is not None and hour <= 23 else None
    hour = decode(byte & ~PM, register_b)
    if hour is None or not 1 <= hour <= 12:
        return None
    return hour % 12 + (12 if byte & PM else 0)


def encode_date(seconds: int, register_b: int) -> dict[int, int]:
    """The date registers, day of week included, for a time in seconds since 1970 UTC."""
    date = time.gmtime(seconds)
    return {
        SECOND: encode(date.tm_sec, register_b),
        MINUTE: encode(date.tm_min, register_b),
        HOUR: encode_hour(date.tm_hour, register_b),
        DAY_OF_WEEK: encode((date.tm_wday + 1) % 7 + 1, register_b),
        DAY_OF_MONTH: encode(date.tm_mday, register_b),
        MONTH: encode(date.tm_mon, register_b),
        YEAR: encode(date.tm_year % 100, register_b),
        CENTURY: encode(date.tm_year // 100, register_b),
    }


def decode_date(
    registers: bytes | bytearray, register_b: int, *, last_year: int = LAST_YEAR, last_year_byte: int = 99
) -> int | None:
    """Seconds since 1970 UTC of the date in the registers; None where they hold no valid date.

    last_year: no later year is valid. last_year_byte: what the year register may hold at most; a binary one
    can exceed 99, and ACRN's two vRTCs treat that differently.
    """
    second = decode(registers[SECOND], register_b)
    minute = decode(registers[MINUTE], register_b)
    hour = decode_hour(registers[HOUR], register_b)
    day = decode(registers[DAY_OF_MONTH], register_b)
    month = decode(registers[MONTH], register_b)
    year_in_century = decode(registers[YEAR], register_b)
    century = decode(registers[CENTURY], register_b)
    if second is None or minute is None or hour is None or second > 59 or minute > 59:
        return None
    if day is None or month is None or year_in_century is None or century is None or year_in_century > last_year_byte:
        return None
    year = century * 100 + year_in_century
    if not FIRST_YEAR <= year <= last_year or not 1 <= month <= 12:
        return None
    if not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    return calendar.timegm((year, month, day, hour, minute, second))
