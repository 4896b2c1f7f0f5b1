"""The RTC's ports of a real QEMU, worked by the test: what the device model makes of accesses of every width."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.driven_machine import BASE, driven

YEAR = 0x09
TO_2030 = 189_302_400

pytestmark = pytest.mark.qemu


def test_the_second_byte_of_a_16_bit_write_to_the_index_port_is_data(tmp_path: Path) -> None:
    with driven(tmp_path / "vm0") as machine:
        # when index and value are written at once
        machine.do(f"outw 0x70 {0x30 << 8 | YEAR:#x}")
        event = machine.next_event()
        # then it is an update like any other, as it is to QEMU's own RTC
        assert (event.raw_events, event.delta_time, event.source) == (1, TO_2030, "dm")
        assert event.last_time is not None and 0 <= event.last_time - BASE < 60
    assert machine.heard.empty()
