"""Saves a stopped machine's state to a file, and starts machines from it: QEMU's migration, through pipes.

A descriptor given over QMP works with every version, has no path to be quoted, and needs no shell.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.qemu.process import Qemu

_NAME = "state"
_CHUNK = 1 << 20
_LOOK = 0.005
"""Seconds between two looks at a migration whose stream has ended, and at a QEMU that may have."""


def save(qemu: Qemu, file: Path, deadline: Deadline) -> None:
    """Write the state of a machine that has been stopped into a new file.

    Raises InfrastructureError when QEMU cannot, OSError when the disk does not take it.
    """
    read_end, write_end = os.pipe()
    try:
        with file.open("xb", buffering=0) as kept:
            _hand_over(qemu, write_end, deadline)
            os.close(write_end)
            write_end = -1
            qemu.qmp.execute("migrate", deadline, uri=f"fd:{_NAME}")
            while data := _read(read_end, deadline):
                while data:
                    data = data[kept.write(data) or 0 :]
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)
    while (status := _status(qemu, deadline)) in {"setup", "active", "device"}:
        select.select([], [], [], _LOOK)
    if status != "completed":
        raise InfrastructureError(f"QEMU did not save its state: {status}", awaited="the end of its migration")


class Incoming:
    """A machine that was started with `Machine.incoming` and waits for its state.

    event: to be given QEMU's QMP events.
    """

    def __init__(self) -> None:
        self._over = threading.Event()

    def event(self, event: Mapping[str, Any]) -> None:
        """Take an event of QMP's, whatever it is."""
        if event.get("event") == "MIGRATION" and event.get("data", {}).get("status") in {"completed", "failed"}:
            self._over.set()

    def load(self, qemu: Qemu, file: Path, deadline: Deadline) -> None:
        """Give it the state in `file`; it stands still then, as it did when that was saved, until QMP's `cont`.

        Raises InfrastructureError when QEMU does not take it, OSError for a file that cannot be read.
        """
        read_end, write_end = os.pipe()
        with file.open("rb", buffering=0) as state:
            pump = threading.Thread(target=_pump, args=(state.fileno(), write_end), name="state", daemon=True)
            try:
                _hand_over(qemu, read_end, deadline)
            except BaseException:  # whatever it was, the pump that would have closed it is not started
                os.close(write_end)
                raise
            finally:
                os.close(read_end)
            pump.start()
            try:
                wanted = [{"capability": "events", "state": True}]
                qemu.qmp.execute("migrate-set-capabilities", deadline, capabilities=wanted)
                qemu.qmp.execute("migrate-incoming", deadline, uri=f"fd:{_NAME}")
                while not self._over.wait(_LOOK):
                    if deadline.expired or qemu.exit_code() is not None:
                        raise _refused(qemu, deadline)
            finally:
                pump.join(deadline.remaining)
        state_now = qemu.qmp.execute("query-status", deadline)
        if not isinstance(state_now, dict) or state_now.get("status") != "paused":
            raise _refused(qemu, deadline)


def _hand_over(qemu: Qemu, descriptor: int, deadline: Deadline) -> None:
    qemu.qmp.execute("getfd", deadline, descriptor=descriptor, fdname=_NAME)


def _status(qemu: Qemu, deadline: Deadline) -> str:
    answer = qemu.qmp.execute("query-migrate", deadline)
    return str(answer.get("error-desc") or answer.get("status")) if isinstance(answer, dict) else repr(answer)


def _read(descriptor: int, deadline: Deadline) -> bytes:
    if not select.select([descriptor], [], [], deadline.remaining)[0]:
        raise InfrastructureError("QEMU does not save its state", awaited="its state", waited=deadline.elapsed)
    return os.read(descriptor, _CHUNK)


def _pump(source: int, sink: int) -> None:
    """Until the file ends, or QEMU wants no more of it."""
    try:
        at = 0
        while sent := os.sendfile(sink, source, at, _CHUNK):
            at += sent
    except BrokenPipeError:
        pass  # QEMU says why, or has ended
    finally:
        os.close(sink)


def _refused(qemu: Qemu, deadline: Deadline) -> InfrastructureError:
    return InfrastructureError(
        "QEMU did not take the saved state",
        awaited="a machine as it was saved",
        waited=deadline.elapsed,
        last_lines=list(qemu.stderr_lines),
    )
