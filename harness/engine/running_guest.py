"""Finds out about a guest that somebody else runs: its device model's process, its trace log, how its vRTC began."""

from __future__ import annotations

import json
import mmap
import os
import select
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.devicemodel.exit_record import ExitRecord, FaultClass, parse_exit_record
from harness.engine.rundir import disk_error
from harness.errors import ConfigurationError, InfrastructureError
from harness.judge.stream import ASKED_FOR
from harness.vm_event import MonitorClient, MonitorError
from harness.vm_event.sockets import connect

_CREDENTIALS = struct.Struct("3i")
_CHUNK = 1 << 20
_OURS = "start the device model with --trace-log FILE (python -m harness.devicemodel); nothing else is a witness"


@dataclass(frozen=True)
class RunningGuest:
    """A guest as its device model's monitor socket and trace log tell of it.

    start: the record with which its trace begins; begin: where in the file. exit_record: where its device model will
    say why it ended, where that is known. pidfd: of its device model; whoever has this owns it.
    """

    socket: Path
    start: Mapping[str, Any]
    trace: Path
    begin: int
    exit_record: Path | None
    pid: int
    pidfd: int

    @property
    def vm(self) -> str:
        """The guest's name."""
        return str(self.start["vm"])

    @property
    def window_ns(self) -> int:
        """The settle window of its event service."""
        return int(self.start["window_ns"])

    @property
    def is_gone(self) -> bool:
        """Whether its device model has ended."""
        return bool(select.select([self.pidfd], [], [], 0)[0])

    def last_words(self, copy: Path) -> ExitRecord:
        """Why its device model has ended: as it says itself, else as the copy of its trace log says."""
        if self.exit_record is not None:
            try:
                record = parse_exit_record(self.exit_record.read_text(encoding="utf-8", errors="replace"))
            except OSError:
                record = None
            if record is not None and (record.ended_ns or 0) >= self.start["stamp_ns"]:  # not a former guest's
                return record
        end = next((record for _, record in _records_backwards(copy) if record.get("event") in {"start", "end"}), {})
        if end.get("event") != "end":
            return ExitRecord("infrastructure", "device-model-died", "its device model ended and said not why")
        reason = str(end.get("reason"))
        fault: FaultClass | None = None if reason in ASKED_FOR else "infrastructure"
        return ExitRecord(fault, reason, "its device model ended it", ended_ns=int(end["stamp_ns"]))


def find_guest(path: Path, trace: Path | None = None) -> RunningGuest:
    """The guest whose device model listens on the monitor socket `path`.

    trace: its trace log; None: its device model says where that is.
    Raises ConfigurationError where nobody listens there, or there is no trace log, or one of another guest.
    """
    exit_record = name = None
    try:
        pid, pidfd = _process_behind(path)
        try:
            if trace is None:
                name, trace, exit_record = _ask(path)
            begin, start = _start_of(trace, name)
            return RunningGuest(path, start, trace.absolute(), begin, exit_record, pid, pidfd)
        except BaseException:  # whatever it was, the descriptor is ours to close
            os.close(pidfd)
            raise
    except MonitorError as error:
        hint = "--attach takes the monitor socket of a running device model (--cmd_monitor)"
        raise ConfigurationError(f"there is no guest to attach to: {error}", hint=hint) from error


def _process_behind(path: Path) -> tuple[int, int]:
    """Who listens on a socket: the kernel knows, and a file descriptor for it cannot be mistaken for another one."""
    with connect(path) as connection:
        pid, _, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        try:
            return pid, os.pidfd_open(pid)
        except OSError as error:
            problem = f"{path}: its process {pid} cannot be watched: {error.strerror}"
            raise ConfigurationError(problem, hint="does it run in another container?") from error


def _ask(path: Path) -> tuple[str, Path, Path | None]:
    """Name, trace log and exit record, as the device model's status has them."""
    with MonitorClient(path) as client:
        status = client.command("status").get("status", {})
    about = status.get("about") or {}
    if "trace_log" not in about:
        hint = f"name it by --attach-trace FILE; if there is none, {_OURS}"
        raise ConfigurationError(f"{path}: its status does not say where the guest's trace log is", hint=hint)
    if about["trace_log"] is None:
        raise ConfigurationError(f"{path}: the device model of {status.get('vm')} writes no trace log", hint=_OURS)
    record = about.get("exit_record")
    return str(status.get("vm")), Path(about["trace_log"]), None if record is None else Path(record)


def _start_of(trace: Path, name: str | None) -> tuple[int, Mapping[str, Any]]:
    """Where in the trace log the present life of the guest begins, and the record that does."""
    if not trace.is_file():
        raise ConfigurationError(f"{trace} is no trace log: no such file")
    for place, record in _records_backwards(trace):
        if record.get("event") == "end":
            raise ConfigurationError(f"the guest that {trace} tells of has ended ({record.get('reason')})")
        if record.get("event") == "start":
            try:
                vm = str(record["vm"])
                int(record["window_ns"]), int(record["stamp_ns"]), int(record["rtc_time"]), str(record["vrtc"])
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigurationError(f"{trace}: its start record cannot be read ({error!r})") from error
            if name not in {None, vm}:
                raise ConfigurationError(f"{trace} tells of the guest {vm}, and {name} is attached to")
            if vm in {"", ".", ".."} or "/" in vm:
                raise ConfigurationError(f"{trace}: {vm!r} is a name for which there can be no folder")
            return place, record
    raise ConfigurationError(f"{trace} is no trace log: it does not say how the guest's RTC began", hint=_OURS)


def _records_backwards(trace: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The device model's own records in a trace log with their places, the last one first."""
    with trace.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            end = len(text)
            while end > 0:
                place = text.rfind(b"\n# ", 0, end) + 1  # 0 where there is none: the first line then
                try:
                    record = json.loads(text[place + 2 : text.find(b"\n", place)])
                except ValueError:
                    record = None
                if isinstance(record, dict) and text[place : place + 2] == b"# ":
                    yield place, record
                end = place - 1


class TraceCopy:
    """Copies a trace log, from the place `begin` on and whole lines only, as it grows.

    So the run has what was known while it lasted, whatever becomes of the original.
    """

    def __init__(self, source: Path, begin: int, target: Path) -> None:
        """Raises InfrastructureError where one cannot be read or the other not be written."""
        self._source, self._target = source, target
        self._read = begin
        self._rest = b""
        try:
            self._from = source.open("rb", buffering=0)
        except OSError as error:
            raise InfrastructureError(f"{source} cannot be read: {error.strerror}") from error
        try:
            self._to = target.open("ab", buffering=0)
        except OSError as error:
            self._from.close()
            raise disk_error(target, error) from error

    def pump(self) -> None:
        """Copy what is new. Raises InfrastructureError where that cannot be done."""
        try:
            while data := os.pread(self._from.fileno(), _CHUNK, self._read):
                self._read += len(data)
                whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
                self._write(whole + newline)
            size = os.fstat(self._from.fileno()).st_size
        except OSError as error:
            raise InfrastructureError(f"{self._source} cannot be read: {error.strerror}") from error
        if size < self._read:
            raise InfrastructureError(
                f"{self._source} was cut from {self._read} bytes to {size}: what the guest wrote is not known any more",
                hint="the trace log of a running guest is not to be emptied; to start a new one, start the guest anew",
            )

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[self._to.write(data) :]
        except OSError as error:
            raise disk_error(self._target, error) from error

    def close(self) -> None:
        """Give the files back."""
        self._from.close()
        self._to.close()
