"""The RTC's ports in QEMU's trace: which writes reach the vRTC, and which lines are a reset of the machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.devicemodel.rtc_port import RtcPort

PREFIX = "19433@1795511679.603286:"
PREFIX_OF_11_1 = "2026-11-24T14:29:36.925420Z "
RUNNING = "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)"
RESET_INDEX = 0x0D


class Port:
    """A port with a vRTC that notes what it is told."""

    def __init__(self, prefix: str = PREFIX, *, hypervisors: bool = False) -> None:
        self.seen: list[object] = []
        self._prefix = prefix
        told = lambda full: self.seen.append("full reset" if full else "reset")  # noqa: E731
        self._port = RtcPort(self, told, index=0, index_at_reset=None) if hypervisors else RtcPort(self, told)

    def write(self, index: int, value: int) -> bool:
        self.seen.append((index, value))
        return True

    def read(self, index: int) -> int:
        self.seen.append(("read", index))
        return 0

    def line(self, text: str) -> None:
        self._port.feed((self._prefix + text).encode())

    def out(self, address: int, value: int, *, size: int = 1, region: str = "") -> None:
        """A port write as QEMU traces it."""
        self._access("write", address, value, size, region)

    def inp(self, address: int, value: int = 0, *, size: int = 1, region: str = "") -> None:
        """A port read as QEMU traces it."""
        self._access("read", address, value, size, region)

    def _access(self, way: str, address: int, value: int, size: int, region: str) -> None:
        name = region or {0x70: "rtc-index", 0x71: "rtc", 0xCF9: "piix3-reset-control"}[address]
        self.line(
            f"memory_region_ops_{way} cpu 0 mr 0x55d0 addr {address:#x} value {value:#x} size {size} name '{name}'"
        )

    def reset(self, tree: str) -> None:
        self.line(f"resettable_reset obj={tree} cold=0")

    def boot(self) -> None:
        """The resets at the start of every QEMU 7.2, and the machine's first running."""
        for tree in ("0xb0", "0xb0", "0x30", "0xc0"):
            self.reset(tree)
        self.line(RUNNING)


# -- index and data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [PREFIX, PREFIX_OF_11_1, ""])
def test_a_data_write_goes_to_the_register_of_the_index_write_before_it(prefix: str) -> None:
    port = Port(prefix)
    port.out(0x70, 0x09)
    port.out(0x71, 0x24)
    assert port.seen == [(0x09, 0x24)]


def test_bit_7_of_the_index_masks_the_nmi_and_is_no_part_of_it() -> None:
    port = Port()
    port.out(0x70, 0x8B)
    port.out(0x71, 0x82)
    assert port.seen == [(0x0B, 0x82)]


def test_an_index_holds_until_the_next_one_whatever_is_written_in_between() -> None:
    port = Port()
    port.out(0x70, 0x04)
    port.out(0x71, 0x11)
    port.out(0x3F8, 0x02, region="serial")
    port.out(0x71, 0x12)
    port.out(0x70, 0x07)
    port.out(0x70, 0x08)
    port.out(0x71, 0x05)
    assert port.seen == [(0x04, 0x11), (0x04, 0x12), (0x08, 0x05)]


def test_before_any_index_write_the_index_is_what_a_reset_leaves() -> None:
    port = Port()
    port.out(0x71, 0x55)
    assert port.seen == [(RESET_INDEX, 0x55)]


def test_a_wide_access_is_its_two_single_ones_both_of_them_in_the_index_ports_region() -> None:
    # given 16-bit accesses to the index port, as QEMU 7.2 to 11.1 trace them: the second byte is data
    port = Port()
    port.out(0x70, 0x09)
    port.out(0x71, 0x05, region="rtc-index")
    port.inp(0x70, 0xFF, region="rtc-index")
    port.inp(0x71, 0x05, region="rtc-index")
    port.out(0x71, 0x06)
    assert port.seen == [(0x09, 0x05), ("read", 0x09), (0x09, 0x06)]


@pytest.mark.parametrize("size", [2, 4])
def test_an_access_that_is_traced_as_a_wide_one_is_not_taken(size: int) -> None:
    port = Port()
    port.out(0x70, 0x04)
    port.out(0x70, 0x3409, size=size)
    port.out(0x71, 0x9999, size=size)
    port.inp(0x71, 0x9999, size=size)
    port.out(0x71, 0x34)
    assert port.seen == [(0x04, 0x34)]


@pytest.mark.parametrize("region", ["serial", "pic", "rtc-index-2", "RTC", "hpet"])
def test_other_regions_are_not_the_rtc_even_at_its_addresses(region: str) -> None:
    port = Port()
    port.out(0x70, 0x09)
    port.out(0x70, 0x02, region=region)
    port.out(0x71, 0x24, region=region)
    port.out(0x71, 0x25)
    assert port.seen == [(0x09, 0x25)]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "memory_region_ops_read cpu 0 mr 0x55 addr 0x71 value 0x2 size 1 name 'rt",
        "memory_region_ops_rewrite cpu 0 mr 0x55 addr 0x71 value 0x2 size 1 name 'rtc'",
        "memory_region_ops_write cpu 0 mr 0x55 addr 0x71 value 0x2 size 1 name 'rt",
        "memory_region_ops_write cpu 0 mr",
        "resettable_reset obj=",
        "runstate_set",
    ],
)
def test_torn_lines_say_nothing(line: str) -> None:
    port = Port()
    port.line(line)
    assert port.seen == []


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255))))
def test_every_pair_arrives_in_its_order(pairs: list[tuple[int, int]]) -> None:
    port = Port()
    for index, value in pairs:
        port.out(0x70, index)
        port.out(0x71, value)
    assert port.seen == [(index & 0x7F, value) for index, value in pairs]


def test_a_read_is_of_the_register_of_the_index_write_before_it() -> None:
    port = Port()
    port.out(0x70, 0x8A)
    port.inp(0x71, 0x26)
    port.inp(0x71, 0xA6)
    assert port.seen == [("read", 0x0A), ("read", 0x0A)]


def test_reading_the_index_port_or_another_region_moves_nothing() -> None:
    port = Port()
    port.out(0x70, 0x04)
    port.inp(0x70, 0xFF)
    port.inp(0x71, 0x0909, size=2)
    port.inp(0x71, 0x09, region="serial")
    port.inp(0xCF9, 0x0E)
    port.out(0x71, 0x11)
    assert port.seen == [(0x04, 0x11)]


# -- resets --------------------------------------------------------------------------------------------------


def test_the_resets_of_the_start_are_none() -> None:
    port = Port()
    port.boot()
    assert port.seen == []


def test_of_the_trees_that_qemu_resets_only_the_machines_own_counts() -> None:
    # given a machine that runs
    port = Port()
    port.boot()
    # when it is reset: QEMU resets two trees by themselves, and then the one that came last at the start
    for tree in ("0xb0", "0x30", "0xc0"):
        port.reset(tree)
    assert port.seen == ["reset"]


def test_resets_before_the_machine_first_runs_choose_the_tree_and_later_ones_do_not() -> None:
    port = Port()
    port.boot()
    port.reset("0xee")
    port.line(RUNNING)
    port.reset("0xee")
    port.reset("0xc0")
    assert port.seen == ["reset"]


def test_another_state_than_running_is_no_first_run() -> None:
    port = Port()
    port.reset("0xb0")
    port.line("runstate_set current_run_state 9 (running) new_state 4 (paused)")
    port.reset("0xc0")
    port.line(RUNNING)
    port.reset("0xb0")
    port.reset("0xc0")
    assert port.seen == ["reset"]


def test_several_resets_in_a_row_are_told_each() -> None:
    port = Port()
    port.boot()
    port.reset("0xc0")
    port.reset("0xc0")
    assert port.seen == ["reset", "reset"]


def test_after_a_reset_the_index_is_a_resets_again() -> None:
    port = Port()
    port.boot()
    port.out(0x70, 0x09)
    port.reset("0xb0")
    port.out(0x71, 0x01)
    port.reset("0xc0")
    port.out(0x71, 0x02)
    assert port.seen == [(0x09, 0x01), "reset", (RESET_INDEX, 0x02)]


@pytest.mark.parametrize(
    ("start", "each"),
    [
        (("cpu", "cpu", "system", "apic"), ("cpu", "system", "apic")),
        (("cpu", "container", "cpu", "apic"), ("container", "cpu", "apic")),
        (("cpu", "container", "cpu"), ("container", "cpu")),
        (("cpu", "ap", "container", "cpu", "ap", "apic", "apic1"), ("ap", "container", "cpu", "ap", "apic", "apic1")),
    ],
    ids=["QEMU 7.2", "QEMU 10.0 and 11.1", "no APIC, QEMU 10.0", "two processors, QEMU 10.0"],
)
def test_each_reset_of_a_machine_is_told_once_in_every_order_that_was_measured(
    start: tuple[str, ...], each: tuple[str, ...]
) -> None:
    # given a machine whose objects are reset in this order before it runs
    objects = {name: f"{number:#x}" for number, name in enumerate(dict.fromkeys(start), 0xB0)}
    port = Port()
    for name in start:
        port.reset(objects[name])
    port.line(RUNNING)
    # when it is reset twice, and a second processor is started in between
    for name in (*each, *(("ap",) if "ap" in start else ()), *each):
        port.reset(objects[name])
    assert port.seen == ["reset", "reset"]


def test_in_the_hypervisor_the_index_begins_with_0_and_outlives_a_reset() -> None:
    port = Port(hypervisors=True)
    port.inp(0x71)
    port.boot()
    port.out(0x70, 0x09)
    port.reset("0xc0")
    port.out(0x71, 0x01)
    assert port.seen == [("read", 0x00), "reset", (0x09, 0x01)]


# -- port 0xCF9 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ((0x02, 0x06), "reset"),
        ((0x02, 0x0E), "full reset"),
        ((0x0E,), "full reset"),
        ((0x0C,), "full reset"),
        ((0x08,), "reset"),
        ((0x0A, 0x06), "reset"),
        ((0x0E, 0x06), "reset"),
        ((), "reset"),
    ],
)
def test_a_reset_is_full_where_bit_3_was_set_in_the_write_that_caused_it(
    written: tuple[int, ...], told: str
) -> None:
    port = Port()
    port.boot()
    for value in written:
        port.out(0xCF9, value)
    port.reset("0xc0")
    assert port.seen == [told]


@pytest.mark.parametrize("region", ["piix3-reset-control", "lpc-reset-control"])
def test_the_port_counts_on_either_machine(region: str) -> None:
    port = Port()
    port.boot()
    port.out(0xCF9, 0x0E, region=region)
    port.reset("0xc0")
    assert port.seen == ["full reset"]


def test_one_request_makes_one_full_reset() -> None:
    # given what SeaBIOS does after a full reset: it asks for a plain one
    port = Port()
    port.boot()
    port.out(0xCF9, 0x0E)
    port.reset("0xc0")
    port.reset("0xc0")
    assert port.seen == ["full reset", "reset"]


def test_the_reset_of_another_tree_does_not_use_up_the_request() -> None:
    port = Port()
    port.boot()
    port.out(0xCF9, 0x0E)
    port.reset("0xb0")
    port.reset("0xc0")
    assert port.seen == ["full reset"]
