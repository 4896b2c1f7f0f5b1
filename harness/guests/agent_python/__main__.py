"""Starts the agent on the console that is its standard input and output."""

from __future__ import annotations

import gc
import os
import signal
import sys
import termios
import tty
from typing import NoReturn

from harness.guests.agent_python.agent import Agent, Ending
from harness.guests.agent_python.machine import text_of


def end(number: int, frame: object) -> NoReturn:
    """A console that hangs up, or whoever ends processes."""
    raise Ending(number)


def main() -> None:
    """`rtc.nonce=NONCE` as the only word where it was not this guest's host that made the kernel's command line."""
    gc.disable()
    before = None
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    if os.isatty(0):
        before = termios.tcgetattr(0)
        tty.setraw(0, termios.TCSANOW)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(99))
    except OSError:
        pass  # its pauses are longer then, no less
    try:
        Agent(sys.argv[1] if len(sys.argv) > 1 else text_of("/proc/cmdline")).serve()
    finally:
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


if __name__ == "__main__":
    main()
