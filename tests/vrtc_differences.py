"""Where QEMU's MC146818 and ACRN's virtual RTCs are known to differ: a table by name, and what leads there.

docs/second-opinion.md explains each name. All of it holds for a clock that stands; how time passes is in
test_vrtc_beside_qemu_running.py.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from harness.vrtc import DmVrtc, HvVrtc
from harness.vrtc import registers as r
from tests.qtest import Access

BASE = 1_718_452_800
"""2024-06-15T12:00:00Z, a Saturday."""

FORMAT = r.B_BINARY | r.B_24_HOUR
PS2_CENTURY = 0x37
HV_END = 0x38
"""Beyond it no guest writes (ACRN.md); our model keeps such bytes apart."""


def accesses(text: str) -> list[Access]:
    """`wII=VV` is a write, `rII` a read; all in hexadecimal."""
    found = []
    for word in text.split():
        index, _, value = word[1:].partition("=")
        found.append(Access(int(index, 16), int(value, 16) if word[0] == "w" else None))
    return found


QUIET = accesses(
    "wa=26 wb=82 w0=45 w2=30 w4=12 w7=15 w8=06 w9=24 w32=20 w6=7 w1=0 w3=0 w5=0 wb=02 r0 rc"
)
"""Leaves any of the three RTCs at 2024-06-15 12:30:45, 24 h BCD, no interrupts, all bytes fresh."""

DATE = "r0 r2 r4 r6 r7 r8 r9 r32"


@dataclass(frozen=True)
class Difference:
    """After QUIET these accesses give these bytes: QEMU's differ from those of ACRN's vRTC."""

    name: str
    accesses: str
    qemu: str
    vrtc: str


DM_DIFFERENCES = [
    Difference("invalid-date", f"w8=02 w7=31 {DATE}", "45 30 12 07 02 03 24 20", "45 30 12 05 31 02 24 20"),
    Difference("invalid-date", f"w8=13 {DATE}", "45 30 12 04 15 01 25 20", "45 30 12 07 15 13 24 20"),
    Difference("invalid-date", f"w0=60 {DATE}", "00 31 12 07 15 06 24 20", "60 30 12 07 15 06 24 20"),
    Difference("invalid-date", f"wb=82 w7=32 wb=02 {DATE}", "45 30 12 03 02 07 24 20", "45 30 12 07 32 06 24 20"),
    Difference("invalid-date", "wb=00 w4=13 r4", "01", "13"),
    Difference("invalid-date", "wb=00 w4=00 r4", "12", "00"),
    Difference("invalid-bcd", f"w2=1a {DATE}", "45 20 12 07 15 06 24 20", "45 1a 12 07 15 06 24 20"),
    Difference("invalid-bcd", f"w2=ff {DATE}", "45 59 11 07 15 06 24 20", "45 ff 12 07 15 06 24 20"),
    Difference("hour-bit-7", "w4=92 r4", "12", "92"),
    Difference("second-bit-7", "w0=85 r0 r2", "25 31", "05 30"),
    Difference("second-bit-7", "wb=82 w0=85 r0", "85", "05"),
    Difference("after-2262", "w32=22 w9=62 r0 r32 r9", "12 16 77", "45 22 62"),
    Difference("before-1970", "w32=19 w9=69 r6 r32 r9", "01 19 69", "07 19 69"),
    Difference("format-with-halt", "wb=86 r0 r2 r4", "45 30 12", "2d 1e 0c"),
    Difference("format-with-unhalt", "wb=82 w4=10 wb=06 r0 r2 r4", "2d 1e 0a", "45 30 10"),
    Difference("update-interrupt-while-halted", "wb=82 wb=92 rb", "82", "92"),
    Difference("flags-at-a-jump", "wb=12 w4=10 rc", "00", "90"),
    Difference("flags-at-a-jump", "wb=22 w1=c0 w3=c0 w5=c0 w4=10 rc", "00", "a0"),
    Difference("divider-reserved", "wa=36 w4=10 r4 wa=26 r4", "10 12", "10 10"),
    Difference("divider-format", "wa=66 wb=06 r0 r2 r4", "45 30 12", "2d 1e 0c"),
    Difference("ps2-century", "w37=19 r37 r32", "19 19", "19 20"),
]

HV_DIFFERENCES = [
    Difference("invalid-date", f"w8=02 w7=31 {DATE}", "45 30 12 07 02 03 24 20", "45 30 12 07 31 02 24 20"),
    Difference("invalid-bcd", f"w2=1a {DATE}", "45 20 12 07 15 06 24 20", "45 1a 12 07 15 06 24 20"),
    Difference("hour-bit-7", "w4=92 r4", "12", "92"),
    Difference("second-bit-7", "w0=85 r0 r2", "25 31", "05 30"),
    Difference("hv-years", "w9=38 r6 r9", "03 38", "07 38"),
    Difference("hv-no-halt", "wb=82 w6=3 r6", "03", "07"),
    Difference("hv-no-halt", "wb=92 rb", "82", "92"),
    Difference("format-while-halted", "wb=82 w4=10 wb=86 r0 w32=14 w9=18 wb=06 r4", "45 10", "2d 0a"),
    Difference("hv-register-a", "wa=66 ra", "66", "26"),
    Difference("hv-alarm-bit-7", "w1=c5 r1", "c5", "45"),
    Difference("hv-stale-format", "wb=06 w4=10 r4 r7", "10 0f", "10 15"),
    Difference("hv-nothing-above-the-century", "w33=12 r33", "12", "ff"),
]

TIMED_DIFFERENCES = ("second-starts-anew", "stale-bytes", "update-in-progress", "flags-at-a-tick")
START_DIFFERENCES = ("start-values",)


def dm_difference(vrtc: DmVrtc, access: Access) -> str | None:
    """The name of the difference that this access would lead to, QEMU and the vRTC being alike so far; else None."""
    index, value = access
    if index == PS2_CENTURY:
        return "ps2-century"
    register_b = _peek(vrtc, r.REGISTER_B)
    halted = bool(register_b & r.B_SET)
    if value is None:
        return None
    if index == r.SECOND and value & 0x80:
        return "second-bit-7"
    if index == r.REGISTER_A and value & r.A_DIVIDER != r.A_DIVIDER_RUNNING:
        return "divider-reserved"
    if index == r.REGISTER_B:
        becomes_halted = bool(value & r.B_SET)
        if becomes_halted != halted and (value ^ register_b) & FORMAT:
            return "format-with-halt" if becomes_halted else "format-with-unhalt"
        if halted and becomes_halted and value & r.B_UPDATE:
            return "update-interrupt-while-halted"
    return _date_difference(vrtc, access, 2262)


def hv_difference(vrtc: HvVrtc, access: Access) -> str | None:
    """The same for the hypervisor's vRTC."""
    index, value = access
    if index > r.CENTURY:
        return "hv-nothing-above-the-century"
    if value is None:
        return None
    if index == r.REGISTER_A and value != 0x26:
        return "hv-register-a"
    if index in (r.ALARM_SECOND, r.ALARM_MINUTE, r.ALARM_HOUR) and value & 0x80:
        return "hv-alarm-bit-7"
    if index == r.SECOND and value & 0x80:
        return "second-bit-7"
    if index == r.REGISTER_B and value & r.B_SET:
        return "hv-no-halt"
    return _date_difference(vrtc, access, 2038)


def _date_difference(vrtc: DmVrtc | HvVrtc, access: Access, year: int) -> str | None:
    """Whether the access would leave no date that both take, or raise a flag by the jump (found out on a copy)."""
    later = copy.deepcopy(vrtc)
    assert access.value is not None
    done = later.write(access.register, access.value)
    if not done or later.time == -1:
        return "invalid-date"
    if _peek(later, r.REGISTER_C):
        return "flags-at-a-jump"
    if later.time is not None and later.time >= (year - 1970) * 31_556_952 - 86_400:
        return "after-2262"
    return None


def _peek(vrtc: DmVrtc | HvVrtc, index: int) -> int:
    return copy.deepcopy(vrtc).read(index)
