"""Finds the true cause of a lost guest: what its device model says of its own end."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path

from harness.devicemodel.exit_record import HYPERVISOR_LOST, ExitRecord, parse_exit_record
from harness.engine.hypervisor import Hypervisor
from harness.engine.rundir import write_whole
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.hosts.base import HostProcess

log = logging.getLogger(__name__)

EXIT_GRACE = 1.0
"""Seconds for the device model's own word on why it ended, once its console or event stream has."""


def true_cause(
    problem: BenchError, process: HostProcess, vm: str, folder: Path, hypervisor: Hypervisor | None = None
) -> BenchError:
    """The error that the device model's exit record tells of, if it ended; else the problem as it was met.

    folder: the guest's; a device model that was killed, or found the disk full, leaves no record there and gets one.
    hypervisor: the process that the guest's vRTC is in; a guest that was lost with it has that as its cause.
    """
    if isinstance(problem, ConfigurationError):
        return problem
    gone = threading.Event()
    process.on_exit(gone.set)
    gone.wait(EXIT_GRACE)
    status = process.exit_status()
    if status is None:
        return problem
    log_file = folder / "device-model.log"
    record = next(filter(None, map(parse_exit_record, reversed(process.last_lines))), None)
    silent = f"the device model of {vm} ended with status {status} and said not why"
    if not end_is_told(folder):
        leave_record(folder / "exit.json", record or ExitRecord("infrastructure", "device-model-died", silent))
    if hypervisor is not None and record is not None and record.reason == HYPERVISOR_LOST:
        lost = hypervisor.failure_within(EXIT_GRACE)
        if lost is not None:
            return lost
    if record is None:
        return InfrastructureError(silent, last_lines=process.last_lines, log=log_file)
    return error_of(record, vm, log_file, problem)


def error_of(record: ExitRecord, vm: str, log_file: Path | None, problem: BenchError | None = None) -> BenchError:
    """The error that a device model's exit record tells of; problem: how it was met."""
    family = ConfigurationError if record.fault == "configuration" else InfrastructureError
    return family(
        f"guest {vm}: {record.problem} ({record.reason})",
        awaited=None if problem is None else problem.awaited,
        waited=None if problem is None else problem.waited,
        last_lines=[*record.stderr[-5:], *record.console[-8:]] or ([] if problem is None else problem.last_lines),
        log=log_file,
    )


def end_is_told(folder: Path) -> bool:
    """Whether the judge can know from the guest's folder how its device model ended."""
    try:
        return parse_exit_record((folder / "exit.json").read_text(encoding="utf-8")) is not None
    except OSError:
        return False


def leave_record(path: Path, record: ExitRecord) -> None:
    """The judge has to know that the stream's end is nobody's fault."""
    ended_ns = record.ended_ns or time.monotonic_ns()
    try:
        write_whole(path, replace(record, ended_ns=ended_ns).as_json() + "\n")
    except OSError as error:
        log.error("%s: %s", path, error)
