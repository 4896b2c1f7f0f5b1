"""What an RTC shows is read in each of its formats, and not in the middle of an update of its own."""

from __future__ import annotations

import calendar

import pytest

from harness.guests.rtc_reading import READ_AT_ONCE, decoded, time_shown
from harness.guests.steps import AgentReport

NOON = calendar.timegm((2024, 2, 29, 12, 34, 56))


def held(register_b: int, *values: int) -> dict[int, int]:
    """second, minute, hour, day, month, year, century."""
    return {0x0B: register_b, **dict(zip((0, 2, 4, 7, 8, 9, 0x32), values, strict=True))}


def report(registers: dict[int, int], **last: int) -> AgentReport:
    reads = [(index, registers[index], 1000 + at) for at, index in enumerate(READ_AT_ONCE)]
    reads[-2] = (0, last.get("second", registers[0]), 2000)
    reads[-1] = (0x0A, last.get("a", registers[0x0A]), 2001)
    return AgentReport("read-rtc", True, None, 5, 9, reads=tuple(reads), grain_ns=7)


@pytest.mark.parametrize(
    ("registers", "time"),
    [
        (held(0x02, 0x56, 0x34, 0x12, 0x29, 0x02, 0x24, 0x20), NOON),
        (held(0x06, 56, 34, 12, 29, 2, 24, 20), NOON),
        (held(0x00, 0x56, 0x34, 0x92, 0x29, 0x02, 0x24, 0x20), NOON),
        (held(0x04, 56, 34, 0x80 | 12, 29, 2, 24, 20), NOON),
        (held(0x00, 0x56, 0x34, 0x12, 0x29, 0x02, 0x24, 0x20), NOON - 12 * 3600),
        (held(0x04, 56, 34, 0x80 | 11, 29, 2, 24, 20), NOON + 11 * 3600),
        (held(0x02, 0x80 | 0x56, 0x34, 0x12, 0x29, 0x02, 0x24, 0x20), NOON),  # bit 7 of the second is nobody's
        (held(0x02, 0x56, 0x34, 0x12, 0x30, 0x02, 0x24, 0x20), -1),
        (held(0x02, 0x56, 0x34, 0x92, 0x29, 0x02, 0x24, 0x20), -1),
        (held(0x00, 0x56, 0x34, 0x00, 0x29, 0x02, 0x24, 0x20), -1),
        (held(0x00, 0x56, 0x34, 0x13, 0x29, 0x02, 0x24, 0x20), -1),
        (held(0x02, 0x5A, 0x34, 0x12, 0x29, 0x02, 0x24, 0x20), -1),
        (held(0x02, 0x56, 0x34, 0x12, 0x29, 0x02, 0xFF, 0xFF), -1),
        (held(0x02, 0x56, 0x34, 0x12, 0x29, 0x00, 0x24, 0x20), -1),
    ],
)
def test_the_time_is_that_of_the_format_in_register_b(registers: dict[int, int], time: int) -> None:
    assert time_shown(registers) == time


def test_a_reading_is_stamped_with_its_second_and_says_how_well() -> None:
    registers = {**held(0x02, 0x56, 0x34, 0x12, 0x29, 0x02, 0x24, 0x20), 0x0A: 0x26}
    reading = decoded(report(registers))
    assert reading is not None
    assert (reading.sent_ns, reading.guest_ns, reading.received_ns, reading.grain_ns) == (5, 1001, 9, 7)
    assert (reading.time, reading.register_a, reading.register_b) == (NOON, 0x26, 0x02)


@pytest.mark.parametrize(("first_a", "last"), [(0xA6, {}), (0x26, {"a": 0xA6}), (0x26, {"second": 0x57})])
def test_a_reading_in_mid_update_is_none(first_a: int, last: dict[str, int]) -> None:
    registers = {**held(0x02, 0x56, 0x34, 0x12, 0x29, 0x02, 0x24, 0x20), 0x0A: first_a}
    assert decoded(report(registers, **last)) is None


def test_another_report_is_no_reading() -> None:
    with pytest.raises(ValueError, match="not a reading"):
        decoded(AgentReport("item", True, None, 1, 2, reads=((0, 1, 2),)))
