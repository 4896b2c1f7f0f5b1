"""Models of ACRN's virtual RTCs: register accesses in, raw RTC-change events out."""

from __future__ import annotations

from harness.vrtc.dm import DmVrtc
from harness.vrtc.hv import HvVrtc
from harness.vrtc.registers import (
    CENTURY,
    DAY_OF_MONTH,
    DAY_OF_WEEK,
    HOUR,
    MINUTE,
    MONTH,
    SECOND,
    TIME_REGISTERS,
    YEAR,
)

__all__ = [
    "CENTURY",
    "DAY_OF_MONTH",
    "DAY_OF_WEEK",
    "HOUR",
    "MINUTE",
    "MONTH",
    "SECOND",
    "TIME_REGISTERS",
    "YEAR",
    "DmVrtc",
    "HvVrtc",
]
