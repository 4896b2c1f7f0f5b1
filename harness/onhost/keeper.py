"""Runs a program that cannot outlive the harness: when the link ends, it and all its descendants are ended.

    keep [--folder FOLDER] [--mark MARK] [--terminal] [--input BYTES] -- PROGRAM ARGUMENT...

The program has a session of its own, with --terminal on a terminal of its own in raw mode. Its standard input and
output are this process's, its standard error too. The end of the standard input, a void lease in FOLDER or a SIGTERM
ends it: its input ends (1 s), SIGTERM (3 s), SIGKILL. With --input the first BYTES of the input are all that it gets.
What the program leaves behind when it ends by itself is ended as well. With a MARK, which is the first word on the
output, lines on standard error say what becomes of it: {"keeper": "started", "pid": N} or {"keeper": "failed", "why":
...}, and as the last one {"keeper": "ended", "status": N, "left": [...], "survivors": [...]}: the program's status
(negative: the signal), who had to be ended after it, and who could not be.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import functools
import json
import os
import select
import signal
import struct
import termios
import time
from collections.abc import Sequence

from harness.onhost import processes
from harness.onhost.lease import Lease
from harness.onhost.words import complain, say

GRACE = 1.0
"""Seconds for a program to end by itself once its input has ended."""

TERM_GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL: the first half is the program's alone, in which it may end its own in order."""

LAST_WORDS = 1.0
"""Seconds for somebody to take the last words."""

_TURN_MS = 500
_MOST = 1 << 16
_ROWS_AND_COLUMNS = (50, 200)


def raw_terminal() -> tuple[int, int]:
    """A new pseudo-terminal in raw mode, that passes every byte as it is: ours, theirs."""
    ours, theirs = os.openpty()
    make_raw(theirs)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *_ROWS_AND_COLUMNS, 0, 0))
    return ours, theirs


def make_raw(terminal: int) -> None:
    """What cfmakeraw does."""
    mode = termios.tcgetattr(terminal)
    mode[0] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
        | termios.ICRNL | termios.IXON
    )  # fmt: skip
    mode[1] &= ~termios.OPOST
    mode[2] = (mode[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
    mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(terminal, termios.TCSANOW, mode)


class Keeper:
    """One program and the streams between it and this process."""

    def __init__(self, command: Sequence[str], *, lease: Lease | None, terminal: bool, amount: int | None) -> None:
        self._lease = lease
        self._amount = amount
        self._to_program = bytearray()
        self._to_harness = bytearray()
        self._input_ended = amount == 0
        self._status: int | None = None
        self._signalled = False
        self.left: list[str] = []
        self.survivors: list[str] = []
        self._wakes, self._waker = os.pipe()
        os.set_blocking(self._wakes, False)
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._asked_to_end)
        processes.adopt_orphans()
        self._terminal: int | None = None
        if terminal:
            self._terminal, theirs = raw_terminal()
            self._input = os.dup(self._terminal)
        else:
            theirs, self._input = os.pipe()
        self.pid = self._spawn(list(command), theirs)
        os.close(theirs)
        os.set_blocking(self._input, False)
        if terminal:
            os.set_blocking(1, False)
        else:
            self._close_output()
        if amount == 0:
            self._end_input()

    def _asked_to_end(self, *_: object) -> None:
        self._signalled = True

    def _spawn(self, command: list[str], theirs: int) -> int:
        """Start the program. Raises OSError when it cannot be."""
        told, tells = os.pipe()
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                processes.die_with_parent(keeper)
                os.setsid()
                if self._terminal is not None:
                    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
                    os.dup2(theirs, 1)
                os.dup2(theirs, 0)
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    signal.signal(number, signal.SIG_DFL)
                environment = dict(os.environ)
                if self._lease is not None:
                    environment[processes.SESSION_VARIABLE] = self._lease.folder
                if self._terminal is not None:
                    environment.setdefault("TERM", "vt100")
                os.execvpe(command[0], command, environment)
            except OSError as error:
                os.write(tells, b"%d" % (error.errno or errno.EINVAL))
            finally:
                os._exit(127)
        os.close(tells)
        why = os.read(told, 16)
        os.close(told)
        if why:
            os.waitpid(pid, 0)
            raise OSError(int(why), os.strerror(int(why)))
        return pid

    def _close_output(self) -> None:
        """Leave the output to the program alone: who reads it learns of its end."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)

    def run(self) -> int:
        """Serve until the program has ended; returns its status, once all that it left is gone."""
        try:
            while self._status is None and not self._must_end():
                self._turn(_TURN_MS)
            if self._status is None:
                self._end()
        finally:
            below = functools.partial(processes.descendants, os.getpid())
            self.left = sorted(below().values())
            self.survivors = processes.end_all(below, TERM_GRACE / 2, reap=self._reap)
            self._drain()
        return self._status if self._status is not None else -int(signal.SIGKILL)

    def _must_end(self) -> bool:
        return self._signalled or self._input_ended_for_good() or (self._lease is not None and self._lease.void)

    def _input_ended_for_good(self) -> bool:
        return self._input_ended and self._amount is None

    def _turn(self, milliseconds: int) -> None:
        poll = select.poll()
        poll.register(self._wakes, select.POLLIN)
        if not self._input_ended_for_good():
            poll.register(0, select.POLLIN if len(self._to_program) < _MOST else 0)
        if self._to_program and self._input >= 0:
            poll.register(self._input, select.POLLOUT)
        if self._terminal is not None and len(self._to_harness) < _MOST:
            poll.register(self._terminal, select.POLLIN)
        if self._to_harness:
            poll.register(1, select.POLLOUT)
        for descriptor, events in poll.poll(milliseconds):
            if descriptor == self._wakes:
                self._take(self._wakes)
                self._reap()
            elif descriptor == 0:
                self._from_harness(events)
            elif descriptor == self._input:
                self._feed()
            elif descriptor == self._terminal:
                self._from_terminal()
            elif descriptor == 1:
                self._pass_on()

    @staticmethod
    def _take(descriptor: int) -> bytes | None:
        """What is there, b"" at the end, None for nothing."""
        try:
            return os.read(descriptor, _MOST)
        except BlockingIOError:
            return None
        except OSError:
            return b""  # what ended badly has ended

    def _from_harness(self, events: int) -> None:
        if not events & select.POLLIN and events & (select.POLLHUP | select.POLLERR):
            self._amount = None  # the link itself has ended
            self._input_ended = True
            return
        data = self._take(0)
        if data is None:
            return
        if not data:
            self._amount = None
            self._input_ended = True
        elif self._amount is None:
            self._to_program += data
        else:
            self._to_program += data[: self._amount]
            self._amount = max(0, self._amount - len(data))
        self._feed()

    def _feed(self) -> None:
        if self._input < 0:
            self._to_program.clear()
        try:
            while self._to_program:
                del self._to_program[: os.write(self._input, self._to_program)]
        except BlockingIOError:
            return
        except OSError:
            self._to_program.clear()  # it takes no more input
        if self._amount == 0:
            self._end_input()

    def _end_input(self) -> None:
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    def _from_terminal(self) -> None:
        assert self._terminal is not None
        data = self._take(self._terminal)
        if data is None:
            return
        self._to_harness += data
        if not data:
            os.close(self._terminal)
            self._terminal = None
        self._pass_on()

    def _pass_on(self) -> None:
        try:
            while self._to_harness:
                del self._to_harness[: os.write(1, self._to_harness)]
        except BlockingIOError:
            return
        except OSError:
            self._to_harness.clear()  # nobody reads any more
        if self._terminal is None:
            self._close_output()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self._status = os.waitstatus_to_exitcode(status)

    def _end(self) -> None:
        """End the program: by its input's end, then by SIGTERM, and all that it started with it then."""
        self._to_program.clear()
        on_terminal = self._terminal is not None
        self._end_input()
        self._amount = None
        for patience in (0.0 if on_terminal else GRACE, TERM_GRACE / 2):
            until = time.monotonic() + patience
            while self._status is None and (ahead := until - time.monotonic()) > 0:
                self._turn(max(1, int(ahead * 1000)))
            if self._status is not None:
                return
            if patience != TERM_GRACE / 2:
                processes.send([self.pid], signal.SIGTERM)

    def _drain(self) -> None:
        """The last words on the terminal, as far as somebody takes them."""
        while self._terminal is not None and select.select([self._terminal], [], [], 0)[0]:
            self._from_terminal()
            if self._to_harness and not select.select([], [1], [], LAST_WORDS)[1]:
                return
        until = time.monotonic() + LAST_WORDS
        while self._to_harness and select.select([], [1], [], max(0.0, until - time.monotonic()))[1]:
            self._pass_on()


def report(**facts: object) -> None:
    """A line on standard error, if somebody takes it: this process must not wait for a link that stands still."""
    try:
        if select.select([], [2], [], LAST_WORDS)[1]:
            os.write(2, b"\n" + json.dumps(facts).encode() + b"\n")
    except OSError:
        pass  # nobody is there any more who could be told


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the program's exit status, 128 + signal for one that was killed."""
    parser = argparse.ArgumentParser(prog="keep")
    parser.add_argument("--folder")
    parser.add_argument("--mark", default="")
    parser.add_argument("--terminal", action="store_true")
    parser.add_argument("--input", type=int)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    lease = None
    if options.folder is not None:
        try:
            lease = Lease(options.folder)
        except OSError as error:
            return complain(options.mark, f"the session in {options.folder} is over: {error}")
    say(options.mark)
    try:
        keeper = Keeper(options.command, lease=lease, terminal=options.terminal, amount=options.input)
    except OSError as error:
        why = f"{options.command[0]} cannot be started: {error.strerror or error}"
        if options.mark:
            report(keeper="failed", why=why)
            return 127
        return complain("", why)
    if options.mark:
        report(keeper="started", pid=keeper.pid)
    status = keeper.run()
    if options.mark:
        report(keeper="ended", status=status, left=keeper.left, survivors=keeper.survivors)
    return status if status >= 0 else 128 - status
