"""Why a guest on a bench was lost: the host, the link, the device model, the console, or the guest itself."""

from __future__ import annotations

import threading
from pathlib import Path

from harness.devicemodel.exit_record import ExitRecord, parse_exit_record
from harness.engine.bench_host import BenchUse
from harness.engine.cause import EXIT_GRACE, end_is_told, error_of, leave_record
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.guests.console import ConsoleClosed, ConsoleEnded
from harness.hosts.base import HostProcess

LINK_LOST = 255
"""The exit status of a process whose host is not reached any more."""


class ConsoleLost(InfrastructureError):
    """The way to the guest's console was cut, while device model and host live."""

    hint = "look at the console's adapter, socket or pty; whether the guest lives is not known"


class DeviceModelDied(InfrastructureError):
    """The guest's device model ended without having been asked to."""

    hint = "see the device model's log; nothing is known about the event service from this"


def true_cause(
    problem: BenchError, use: BenchUse | None, process: HostProcess | None, vm: str, folder: Path
) -> BenchError:
    """The first of host, device model, console and guest that is lost; else the problem as it was met.

    folder: the guest's; a device model that ended by itself gets a record there, for the judge.
    """
    if use is None or isinstance(problem, ConfigurationError):
        return problem
    if _wait_for_more(problem, use, process) and use.failure is not None:
        leave_record(folder / "exit.json", ExitRecord("infrastructure", "host-lost", use.failure.problem))
        return use.failure
    if process is not None and process.exit_status() is not None:
        return _death_of(process, vm, folder, problem)
    if isinstance(problem, ConsoleEnded):
        return ConsoleLost(
            f"the console of {vm} ended, and its device model did not",
            awaited=problem.awaited,
            waited=problem.waited,
            last_lines=problem.last_lines,
            log=problem.log,
        )
    return problem


def _wait_for_more(problem: BenchError, use: BenchUse, process: HostProcess | None) -> bool:
    """Whether something below the guest is lost: what the end of a console is due to is known a moment later."""
    known = threading.Event()
    use.host.on_lost(lambda failure: known.set())
    if process is not None and process.exit_status() != LINK_LOST:
        process.on_exit(known.set)
    if isinstance(problem, (ConsoleEnded, ConsoleClosed)) and use.failure is None:
        known.wait(EXIT_GRACE)
    return use.failure is not None


def _death_of(process: HostProcess, vm: str, folder: Path, problem: BenchError) -> BenchError:
    log_file = folder / "device-model.log"
    record = next(filter(None, map(parse_exit_record, reversed(process.last_lines))), None)
    silent = f"the device model of {vm} ended with status {process.exit_status()} without having been asked to"
    if not end_is_told(folder):
        leave_record(folder / "exit.json", record or ExitRecord("infrastructure", "device-model-died", silent))
    if record is not None:
        return error_of(record, vm, log_file, problem)
    return DeviceModelDied(
        silent,
        awaited=problem.awaited,
        waited=problem.waited,
        last_lines=[*process.last_lines[-8:], *problem.last_lines[-8:]],
        log=log_file,
    )
