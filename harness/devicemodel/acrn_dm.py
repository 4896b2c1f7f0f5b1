"""Our device model in the place of `acrn-dm`, for rehearsals: `python -m harness.devicemodel.acrn_dm [options] NAME`.

The options are acrn-dm's (acrn_command.py). The environment variable RTC_BENCH_DM_OPTIONS has options of our device
model besides, as a shell would write them, and two of its own. `--full-events`: events in full on the monitor socket,
for any number of connections, instead of as acrn-dm words them. `--right-sums`: worded as acrn-dm's, but without its
known wrong sums, as of an acrn-dm that has been mended.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import harness
from harness.deadline import Deadline
from harness.devicemodel import __main__ as device_model
from harness.devicemodel.acrn_command import AcrnCommand, parse_command
from harness.devicemodel.exit_record import ExitRecord
from harness.errors import ConfigurationError, InfrastructureError

OPTIONS = "RTC_BENCH_DM_OPTIONS"
FULL_EVENTS = "--full-events"
RIGHT_SUMS = "--right-sums"
HYPERVISOR_TIMEOUT = 30.0

_LOOK = 0.01
"""Seconds between two looks at the hypervisor's socket: that another process listens there can only be tried."""

_HELP = """usage: acrn-dm [-hAWYv] [-B BOOTARGS] [-E ELF] [-k KERNEL] [-l LPC] [-m MEMORY] [-r RAMDISK]
  [-s SLOT,DEVICE[,CONFIGURATION]]... [--ovmf FILE] [--cmd_monitor SOCKET] [--rtvm] [others without effect] NAME
This is not acrn-dm but the device model of the test bench in its place, for rehearsals. Options of its own come
in the environment variable RTC_BENCH_DM_OPTIONS: --full-events, --right-sums, and all of
`python -m harness.devicemodel --help`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one guest to its end; the exit status is that of harness/errors.py, 0 for an asked-for end."""
    try:
        command = parse_command(sys.argv[1:] if arguments is None else arguments)
        ours = _own_options()
    except ConfigurationError as error:
        record = ExitRecord("configuration", "not-started", f"{error.problem}. {error.hint}")
        record.write(None)
        return record.status
    if command.wants_help:
        print(_HELP, end="")
        return 0
    if command.wants_version:
        print("DM version is: none of acrn-dm's; the test bench's device model in its place")
        return 0
    for note in command.notes:
        print(f"acrn-dm rehearsed: {note}", file=sys.stderr)
    sys.stderr.flush()
    try:
        with contextlib.ExitStack() as stack:
            return device_model.main(_device_model_arguments(command, ours, stack))
    except InfrastructureError as error:
        record = ExitRecord("infrastructure", "not-started", error.problem)
        record.write(None)
        return record.status


def _own_options() -> list[str]:
    try:
        return shlex.split(os.environ.get(OPTIONS, ""))
    except ValueError as error:
        raise ConfigurationError(f"{OPTIONS} cannot be read: {error}", hint="quote it as for a shell") from error


def _device_model_arguments(command: AcrnCommand, ours: list[str], stack: contextlib.ExitStack) -> list[str]:
    """All arguments of the device model; what they need is there until the stack's end."""
    monitor = command.monitor
    if monitor is None:  # acrn-dm then has none, and its events are heard by nobody
        monitor = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rtc-dm-"))) / "monitor"
    arguments = command.device_model_arguments(monitor)
    in_full, right = FULL_EVENTS in ours, RIGHT_SUMS in ours
    ours = [word for word in ours if word not in {FULL_EVENTS, RIGHT_SUMS}]
    if not in_full:
        ours += ["--acrn-monitor"] if right else ["--acrn-monitor", "--acrn-sums"]
    if command.real_time and "--hypervisor" not in ours:
        ours += ["--hypervisor", str(stack.enter_context(_hypervisor()))]
    return [*ours, *arguments]


@contextlib.contextmanager
def _hypervisor() -> Iterator[Path]:
    """A hypervisor process for this guest alone, and its socket. It ends with its standard input, whatever we die of.

    Raises InfrastructureError where it does not listen in time.
    """
    deadline = Deadline(HYPERVISOR_TIMEOUT)
    root = str(Path(harness.__file__).parents[1])
    with tempfile.TemporaryDirectory(prefix="rtc-dm-") as folder:
        path = Path(folder) / "hypervisor"
        command = [sys.executable, "-m", "harness.hypervisor", "--socket", str(path)]
        environment = {**os.environ, "PYTHONPATH": root}
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=None
        ) as process:
            try:
                while not _listens(path):
                    if process.poll() is not None:
                        raise InfrastructureError(f"the hypervisor process ended with status {process.returncode}")
                    if deadline.expired:
                        raise InfrastructureError("the hypervisor process does not listen", waited=deadline.elapsed)
                    select.select([], [], [], _LOOK)
                yield path
            finally:
                assert process.stdin is not None
                process.stdin.close()
                try:
                    process.wait(5.0)
                except subprocess.TimeoutExpired:
                    process.kill()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        return probe.connect_ex(str(path)) == 0


if __name__ == "__main__":
    sys.exit(main())
