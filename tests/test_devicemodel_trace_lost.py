"""A trace that ends while the guest goes on is a loss that is told, not a silent gap."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.devicemodel.exit_record import ExitRecord
from harness.devicemodel.model import DeviceModel, Settings
from harness.qemu import trace
from harness.qemu.arguments import Machine

PATIENCE = 60.0

pytestmark = pytest.mark.qemu


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_trace_that_cannot_be_read_any_more_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a device model in this process, with its guest at work
    model = DeviceModel(
        Settings(
            name="vm0",
            machine=Machine(memory=32),
            monitor=tmp_path / "monitor.sock",
            rtc_time=1718452800,
            trace_log=tmp_path / "trace.log",
            stdin=None,
        )
    )
    records: list[ExitRecord] = []
    thread = threading.Thread(target=lambda: records.append(model.run()))
    thread.start()
    deadline = Deadline(PATIENCE)
    while b"name 'rtc'" not in _content(tmp_path / "trace.log"):
        assert not deadline.expired and thread.is_alive()
        time.sleep(0.01)  # a file of another thread's: it can only be looked at
    # when reading its trace fails, and the guest writes on
    monkeypatch.setattr(trace, "sample_clocks", _fail)
    model._qemu.qmp.execute("system_reset", deadline)
    # then the device model ends, and says why
    thread.join(PATIENCE)
    assert [(record.fault, record.reason) for record in records] == [("infrastructure", "trace-lost")]


def _fail() -> None:
    raise MemoryError("no room for a line")


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
