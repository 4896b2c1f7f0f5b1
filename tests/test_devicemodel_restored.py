"""A vRTC that begins with the registers of an earlier life: the device model's and the judge's mean the same by it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from harness.devicemodel.__main__ import main
from harness.devicemodel.guest_rtc import DmGuestRtc
from harness.devicemodel.trace_worker import TraceLog
from harness.judge.models import DmModel
from harness.judge.outcomes import Announced
from harness.judge.witness import Access, Started, WitnessParser
from harness.vm_event import RtcChange, VmEventService

START_NS = 5_500_000_000
RTC = 1_718_452_800
WRITES = ((0x04, 0x05), (0x09, 0x25), (0x00, 0x31), (0x0B, 0x02), (0x04, 0x85))
PLACES = ("addr 0x70 value {:#x} size 1 name 'rtc-index'", "addr 0x71 value {:#x} size 1 name 'rtc'")


def line(place: int, value: int) -> bytes:
    return b"memory_region_ops_write cpu 0 mr 0x1 " + PLACES[place].format(value).encode()


@pytest.mark.parametrize("registers", [None, *itertools.product((0x26, 0x00, 0x76), (0x02, 0x00, 0x06, 0x04))])
def test_what_is_announced_after_such_a_start_is_what_the_judge_expects(
    registers: tuple[int, int] | None, tmp_path: Path
) -> None:
    # given a device model's vRTC that begins with these registers, and the record that it leaves of that
    sent: list[RtcChange] = []
    service = VmEventService("vm0")

    def keep(change: RtcChange, *, stamp_ns: int | None = None) -> bool:
        sent.append(change)
        return True

    service.send = keep  # type: ignore
    log = TraceLog(tmp_path / "trace.log")
    rtc = DmGuestRtc(service, log, RTC, START_NS, registers)
    log.close()
    (started,) = WitnessParser().feed((tmp_path / "trace.log").read_text(encoding="utf-8").rstrip("\n"))
    assert isinstance(started, Started)
    assert (started.register_a, started.register_b) == (registers or (None, None))
    # when a guest writes to it
    model, expected = DmModel(started), []
    for number, (index, value) in enumerate(WRITES):
        stamp_ns = START_NS + (number + 2) * 10**9
        rtc.feed(stamp_ns, line(0, index))
        rtc.feed(stamp_ns, line(1, value))
        outcome = model.write(Access(stamp_ns, stamp_ns, index, value, False))
        if isinstance(outcome, Announced):
            expected.append(RtcChange(outcome.last_time, outcome.new_time - outcome.last_time))
    # then every announcement is the one that the judge expects
    assert sent == expected and len(sent) >= 2


@pytest.mark.parametrize("held", [-1, 256, 2.0, "2", True])
def test_a_record_with_what_is_no_byte_cannot_be_read(held: object) -> None:
    record = {"event": "start", "stamp_ns": 1, "rtc_time": RTC, "vrtc": "dm", "vm": "v"}
    record |= {"register_a": 38, "register_b": held}
    (problem,) = WitnessParser().feed("# " + json.dumps(record))
    assert "unreadable record" in problem.text  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["0x26", "0x26,2,3", "a,b", "256,2", "-1,2", ""])
def test_registers_that_are_none_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--cmd_monitor", "/nowhere/s", f"--rtc-registers={text}", "vm0"])
    assert "--rtc-registers" in capsys.readouterr().err


def test_a_state_that_is_not_there_ends_the_device_model_with_its_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status = main(["--cmd_monitor", str(tmp_path / "s"), "--restore", str(tmp_path / "state"), "--no-console", "vm0"])
    assert status == 10
    assert str(tmp_path / "state") in capfd.readouterr().err
