"""The hypervisor process's command line: `python -m harness.hypervisor --socket PATH`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import resource
import signal
import sys
from pathlib import Path

from harness.errors import EXIT_CONFIGURATION
from harness.hypervisor.server import Hypervisor
from harness.vm_event import MonitorError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.hypervisor",
        description="Holds the virtual RTC that ACRN's hypervisor has for real-time VMs, for all guests of a run: "
        "device models connect (--vrtc hv --hypervisor PATH). Ends with its standard input, or by SIGTERM or SIGINT.",
    )
    parser.add_argument("--socket", metavar="PATH", type=Path, required=True, help="where device models connect")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Serve until the end; the exit status is 0, or that of a configuration error (harness/errors.py)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    _allow_many_descriptors()
    try:
        hypervisor = Hypervisor(options.socket)
    except MonitorError as error:
        print(f"configuration error: the hypervisor's socket cannot be had: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    with hypervisor:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: hypervisor.end())
        if sys.stdin is not None:
            with contextlib.suppress(OSError):  # a file or /dev/null has no end to wait for: a signal will do it
                hypervisor.end_with(sys.stdin.fileno())
        logging.info("listening at %s", options.socket)
        hypervisor.serve()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it is on its way
    return 0


def _allow_many_descriptors() -> None:
    """A VM takes four descriptors: as many as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
