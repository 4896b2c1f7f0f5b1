"""Whether an RTC's alarm goes off between two times, without walking through the years between them."""

from __future__ import annotations

from harness.vrtc import registers as r

_DAY = 86_400


def alarm_within(registers: bytes | bytearray, first: int, last: int) -> bool:
    """Whether the alarm bytes match any second from `first` to `last`, both included.

    The bytes are compared as they stand with the encoded time, as the chip does; a byte of 0xC0 or above
    matches all. More than a day holds every time of day, so no more than a day is looked at: ACRN's model
    visits every second there is (ACRN.md, "Known traps").
    """
    register_b = registers[r.REGISTER_B]
    seconds = _matching(registers[r.ALARM_SECOND], [r.encode(n, register_b) for n in range(60)])
    minutes = _matching(registers[r.ALARM_MINUTE], [r.encode(n, register_b) for n in range(60)])
    hours = _matching(registers[r.ALARM_HOUR], [r.encode_hour(n, register_b) for n in range(24)])
    span = min(last - first, _DAY - 1)
    start = first % _DAY
    return any(
        (hour * 3600 + minute * 60 + second - start) % _DAY <= span
        for hour in hours
        for minute in minutes
        for second in seconds
    )


def _matching(alarm: int, encoded: list[int]) -> list[int]:
    return [n for n, byte in enumerate(encoded) if alarm >= r.ALARM_ANY or alarm == byte]
