"""QEMU's MC146818 beside our vRTCs, the same accesses to both: what they differ in is named, all else is equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.vrtc import DmVrtc, HvVrtc
from harness.vrtc import registers as r
from tests.qtest import Access, QtestRtc, qemu_rtc
from tests.vrtc_differences import (
    BASE,
    DM_DIFFERENCES,
    FORMAT,
    HV_DIFFERENCES,
    QUIET,
    START_DIFFERENCES,
    TIMED_DIFFERENCES,
    Difference,
    accesses,
    dm_difference,
    hv_difference,
)

DOCUMENT = Path(__file__).parents[1] / "docs" / "second-opinion.md"
Vrtc = DmVrtc | HvVrtc
pytestmark = pytest.mark.qemu


def dm() -> DmVrtc:
    """The device model's, with a clock that stands."""
    return DmVrtc(lambda change: None, BASE, lambda: 1000)


def hv() -> HvVrtc:
    """The hypervisor's, with a clock that stands."""
    return HvVrtc(lambda change: None, BASE, lambda: 1000)


def reads_of(vrtc: Vrtc, steps: Sequence[Access]) -> list[int]:
    """The bytes that the reads give."""
    found = []
    for index, value in steps:
        if value is None:
            found.append(vrtc.read(index))
        else:
            vrtc.write(index, value)
    return found


def qemu_reads(rtc: QtestRtc, steps: Sequence[Access]) -> list[int]:
    return [answer.value for answer in rtc.access(steps) if answer.value is not None]


@pytest.fixture(scope="module")
def standing() -> Iterator[QtestRtc]:
    """QEMU's RTC with a clock that stands."""
    with qemu_rtc("vm") as rtc:
        yield rtc


# -- what is different, by name ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "difference"),
    [
        pytest.param(make, difference, id=f"{make.__name__}-{difference.name}-{number}")
        for make, table in ((dm, DM_DIFFERENCES), (hv, HV_DIFFERENCES))
        for number, difference in enumerate(table)
    ],
)
def test_a_named_difference_is_as_the_table_says_on_both_sides(
    standing: QtestRtc, make: Callable[[], Vrtc], difference: Difference
) -> None:
    # Given both at the same time and format
    vrtc = make()
    assert qemu_reads(standing, QUIET)[-2:] == reads_of(vrtc, QUIET)[-2:]

    # When the same accesses go to both
    steps = accesses(difference.accesses)
    found = {"qemu": qemu_reads(standing, steps), "vrtc": reads_of(vrtc, steps)}

    # Then each answers as the table says, and not alike
    assert found == {"qemu": list(bytes.fromhex(difference.qemu)), "vrtc": list(bytes.fromhex(difference.vrtc))}
    assert found["qemu"] != found["vrtc"]


def test_start_values_differ() -> None:
    with qemu_rtc("vm") as fresh:
        qemu = qemu_reads(fresh, accesses("r0 r4 r9 r32 ra rb rd"))
    ours = reads_of(dm(), accesses("r0 r4 r9 r32 ra rb rd"))
    assert qemu == [0x00, 0x12, 0x24, 0x20, 0x26, 0x02, 0x80]
    assert ours == [0x00, 0x12, 0x24, 0x20, 0x20, 0x02, 0x80]


def test_every_difference_is_explained() -> None:
    names = {difference.name for difference in [*DM_DIFFERENCES, *HV_DIFFERENCES]}
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in sorted(names | set(TIMED_DIFFERENCES) | set(START_DIFFERENCES)):
        assert f"`{name}`" in text, f"docs/second-opinion.md does not explain {name}"


# -- and all else is equal -----------------------------------------------------------------------------------

DATE_REGISTERS = sorted(r.TIME_REGISTERS)
INDICES = st.one_of(
    st.sampled_from([*DATE_REGISTERS, r.DAY_OF_WEEK, 0x37]), st.integers(0x00, r.REGISTER_D), st.integers(0x00, 0x7F)
)


@st.composite
def dates(draw: st.DrawFn) -> list[Access]:
    """The date registers of a valid date in a format that register B may have, in any order, some left out."""
    time = draw(st.integers(0, (2262 - 1970) * 31_556_952))
    register_b = draw(st.sampled_from([0, r.B_24_HOUR, r.B_BINARY, FORMAT]))
    fields = r.encode_date(time, register_b)
    order = draw(st.permutations(sorted(fields)))
    return [Access(index, fields[index]) for index in order[draw(st.integers(0, 3)) :]]


REGISTER_B = st.builds(
    lambda form, more: form | more,
    st.sampled_from([0, r.B_24_HOUR, r.B_BINARY, FORMAT]),
    st.sampled_from([0, 0, r.B_SET, r.B_SET, r.B_SET | r.B_UPDATE, r.B_UPDATE, r.B_ALARM, r.B_PERIODIC, 9]),
)
STEPS = st.lists(
    st.one_of(
        dates(),
        st.lists(st.builds(Access, st.just(r.REGISTER_B), REGISTER_B), max_size=1),
        st.lists(st.builds(Access, INDICES, st.none()), max_size=4),
        st.lists(st.builds(Access, INDICES, st.integers(0, 255)), max_size=4),
    ),
    max_size=14,
).map(lambda groups: [access for group in groups for access in group])


def common(vrtc: Vrtc, steps: Sequence[Access]) -> tuple[list[Access], list[int]]:
    """The steps less those which lead to a named difference; the last of all reads everything. And what it reads."""
    done, found = [], []
    written = {access.register for access in QUIET}
    everything = [Access(index) for index in range(0x80)]
    for access in [*steps, *everything]:
        if access.value is None and access.register > r.REGISTER_D and access.register not in written | {r.CENTURY}:
            continue  # NVRAM has what the firmware left there: start-values
        difference = dm_difference(vrtc, access) if isinstance(vrtc, DmVrtc) else hv_difference(vrtc, access)
        if difference is None:
            found += reads_of(vrtc, [access])
            done.append(access)
            written.add(access.register)
    return done, found


STANDING = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@STANDING
@given(steps=STEPS)
@example(steps=accesses("wb=82 w8=12 w7=31 w4=23 w2=59 w0=59 w9=99 w32=19 wb=02 wb=00 r4 wb=06 r4 r9"))
def test_all_other_traffic_reads_back_alike_on_the_device_models(standing: QtestRtc, steps: list[Access]) -> None:
    # Given both at the same time and format
    vrtc = dm()
    start = reads_of(vrtc, QUIET)

    # When the same random accesses go to both, but for those that lead to a named difference
    done, expected = common(vrtc, steps)
    found = qemu_reads(standing, [*QUIET, *done])

    # Then every read gives the same byte, and so do all registers at the end
    assert found == start + expected, done


@STANDING
@given(steps=STEPS)
def test_all_other_traffic_reads_back_alike_on_the_hypervisors(standing: QtestRtc, steps: list[Access]) -> None:
    vrtc = hv()
    start = reads_of(vrtc, QUIET)
    fresh = [each for access in steps for each in (access, Access(r.SECOND))]  # stale bytes: hv-stale-format
    done, expected = common(vrtc, fresh)
    assert qemu_reads(standing, [*QUIET, *done]) == start + expected, done
