"""Register bytes to times and back, against Python's own calendar and by hand."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.judge import dates
from harness.judge.dates import BINARY, HOURS_24

FORMATS = (0, BINARY, HOURS_24, BINARY | HOURS_24)
LAST = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc).timestamp())


def registers(**values: int) -> bytearray:
    found = bytearray(128)
    for name, value in values.items():
        found[getattr(dates, name)] = value
    return found


@given(st.integers(0, LAST), st.sampled_from(FORMATS))
def test_what_is_encoded_is_decoded(time: int, format_bits: int) -> None:
    bytes_ = bytearray(128)
    dates.encode(time, bytes_, format_bits)
    assert dates.decode(bytes_, format_bits) == time


@given(st.integers(0, LAST))
def test_the_bcd_bytes_read_as_the_calendar_says(time: int) -> None:
    bytes_ = bytearray(128)
    dates.encode(time, bytes_, HOURS_24)
    at = datetime.fromtimestamp(time, timezone.utc)
    shown = "".join(f"{bytes_[i]:02x}" for i in (0x32, 0x09, 0x08, 0x07, 0x04, 0x02, 0x00))
    assert shown == f"{at.year:04d}{at:%m%d%H%M%S}"
    assert bytes_[0x06] == at.isoweekday() % 7 + 1


@pytest.mark.parametrize(
    ("byte", "hour"),
    [(0x12, 0), (0x01, 1), (0x11, 11), (0x92, 12), (0x81, 13), (0x91, 23), (0x00, None), (0x13, None), (0x80, None)],
)
def test_twelve_hour_bytes_carry_pm_in_bit_7(byte: int, hour: int | None) -> None:
    assert dates.hour_of(byte, 0) == hour
    if hour is not None:
        assert dates.hour_byte(hour, 0) == byte


@pytest.mark.parametrize(
    "wrong",
    [
        {"SECOND": 0x60},
        {"SECOND": 0x1A},
        {"MINUTE": 0x60},
        {"HOUR": 0x24},
        {"DAY": 0x00},
        {"DAY": 0x31, "MONTH": 0x04},
        {"DAY": 0x29, "MONTH": 0x02, "YEAR": 0x23},
        {"DAY": 0x29, "MONTH": 0x02, "YEAR": 0x00, "CENTURY": 0x21},
        {"MONTH": 0x00},
        {"MONTH": 0x13},
        {"YEAR": 0xA0},
        {"YEAR": 0x69, "CENTURY": 0x19},
        {"CENTURY": 0x00},
    ],
)
def test_a_date_that_does_not_exist_has_no_time(wrong: dict[str, int]) -> None:
    right = {"SECOND": 0, "MINUTE": 0, "HOUR": 0, "DAY": 0x15, "MONTH": 0x06, "YEAR": 0x24, "CENTURY": 0x20}
    assert dates.decode(registers(**right), HOURS_24) is not None
    assert dates.decode(registers(**{**right, **wrong}), HOURS_24) is None


def test_a_binary_year_has_no_hundreds() -> None:
    right = registers(DAY=1, MONTH=1, YEAR=99, CENTURY=20)
    assert dates.decode(right, BINARY | HOURS_24) is not None
    assert dates.decode(registers(DAY=1, MONTH=1, YEAR=100, CENTURY=20), BINARY | HOURS_24) is None


def test_leap_days_and_the_epoch() -> None:
    epoch = registers(DAY=0x01, MONTH=0x01, YEAR=0x70, CENTURY=0x19)
    leap = registers(DAY=0x29, MONTH=0x02, YEAR=0x00, CENTURY=0x20)
    assert dates.decode(epoch, HOURS_24) == 0
    assert dates.decode(leap, HOURS_24) == 951_782_400


def test_a_binary_century_goes_beyond_the_calendar_of_python() -> None:
    far = registers(DAY=1, MONTH=3, YEAR=0, CENTURY=120)
    time = dates.decode(far, BINARY | HOURS_24)
    assert time is not None
    days = time // 86_400
    assert dates.days_to_civil(days) == (12_000, 3, 1)
    assert dates.days_to_civil(days - 1) == (12_000, 2, 29)
