"""The QEMU process of a nested host: started with everything watched, destroyed and proven gone; never shut down."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import Any

from harness.bench import NestedHostSpec
from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.nested_command import nested_command
from harness.hosts.nested_console import BootEnd, ConsoleWatch, Log
from harness.qemu.qmp import QmpMonitor
from harness.qemu.user_network import forwarded_port
from harness.qemu.version import find_qemu

_KEPT_LINES = 30
_LAST_WORDS = 1.0
_BENCH_TROUBLE = ("kvm", "allocate memory", "No space left", "Resource temporarily", "Failed to get")
"""Words of QEMU's about this machine rather than about the bench file."""


class NestedMachine:
    """QEMU with its console and control; whoever makes it closes it.

    on_end: called from a thread, once, when the machine dies of something: what its console said, or None for the end
    of QEMU itself (`why_it_ended` says more). A machine whose console names its death is killed: a hypervisor that
    stopped at an assertion would stand there for ever.
    Raises ConfigurationError when there is no QEMU, InfrastructureError when it cannot be started.
    """

    def __init__(self, spec: NestedHostSpec, log: Log, on_end: Callable[[BootEnd | None], object]) -> None:
        self._lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._shutdown: Mapping[str, Any] | None = None
        self._on_end = on_end
        self._told = threading.Lock()
        self._closing = False
        self._reaped = threading.Event()
        ours, theirs = socket.socketpair()
        ours_qmp, theirs_qmp = socket.socketpair()
        try:
            self.command = nested_command(spec, qmp=theirs_qmp.fileno(), console=theirs.fileno())
            binary = find_qemu(self.command[0])
            # setpriv has the kernel kill QEMU with us, however we end.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", binary, *self.command[1:]],
                pass_fds=(theirs_qmp.fileno(), theirs.fileno()),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
            )
        except OSError as error:
            ours.close()
            ours_qmp.close()
            raise InfrastructureError(f"QEMU could not be started: {error}") from error
        except BaseException:  # whatever it was, the sockets are ours to close
            ours.close()
            ours_qmp.close()
            raise
        finally:
            theirs.close()
            theirs_qmp.close()
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._stderr = threading.Thread(target=self._read_stderr, name="nested-stderr", daemon=True)
        self._stderr.start()
        self._qmp = QmpMonitor(ours_qmp, self._event)
        self._qmp.start()
        self._watch = ConsoleWatch(ours, log, self._console_ended)
        self._waiter = threading.Thread(target=self._await_end, name="nested-end", daemon=True)
        self._waiter.start()

    @property
    def stage(self) -> str:
        """How far it has booted, as its console says."""
        return self._watch.stage

    @property
    def end(self) -> BootEnd | None:
        """What it died of, as its console says."""
        return self._watch.end

    @property
    def is_gone(self) -> bool:
        """Whether QEMU has ended."""
        return self._reaped.is_set()

    @property
    def last_lines(self) -> list[str]:
        """The last lines of QEMU's standard error."""
        return list(self._lines)

    def ssh_port(self, deadline: Deadline) -> int:
        """The loopback port that leads to the machine's SSH. Raises as `why_it_ended`, or InfrastructureError."""
        try:
            return forwarded_port(self._qmp, deadline)
        except InfrastructureError:
            if self.wait(_LAST_WORDS):
                raise self.why_it_ended() from None
            raise

    def wait(self, timeout: float) -> bool:
        """Whether QEMU has ended, or does so by then, and all that it said is known."""
        if not self._reaped.wait(timeout):
            return False
        self._stderr.join(_LAST_WORDS)
        self._watch.join(_LAST_WORDS)
        return True

    def why_it_ended(self) -> ConfigurationError | InfrastructureError:
        """The error for a machine that has ended though nobody asked it to."""
        end = self.end
        if end is not None:
            return InfrastructureError(f"the nested machine is dead: {end.problem}", hint=end.hint)
        code = self._process.returncode
        said = self.last_lines
        if code is not None and code > 0 and not any(word in " ".join(said) for word in _BENCH_TROUBLE):
            first = next((line for line in said if "warning" not in line), "and said nothing")
            hint = "see the host's `arguments` in the bench file, and the other keys of it"
            return ConfigurationError(f"QEMU ended with exit code {code}: {first}", last_lines=said[-8:], hint=hint)
        if code is not None and code < 0:
            how = f"was ended by signal {-code} ({signal.Signals(-code).name})"
        elif code:
            how = f"ended with exit code {code}"
        else:
            reason = str((self._shutdown or {}).get("reason", "unknown"))
            how = f"ended: the machine was reset or shut down from inside ({reason})"
        return InfrastructureError(f"the nested machine is gone: QEMU {how}", last_lines=said[-8:])

    def close(self, deadline: Deadline) -> None:
        """Destroy it, and prove that it is gone. Again does nothing. Raises InfrastructureError naming what is left."""
        with self._told:
            self._closing = True
        left = []
        self._kill()
        if not self.wait(deadline.remaining):
            left.append(f"QEMU process {self.pid}")
        if not self._qmp.close(deadline.remaining):
            left.append("the QMP session")
        if not self._watch.join(deadline.remaining):
            left.append("the console's reader")
        self._waiter.join(deadline.remaining)
        if left:
            raise InfrastructureError(
                f"still there after the nested machine was destroyed: {', '.join(left)}",
                awaited="the end of QEMU", waited=deadline.elapsed,
            )
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and its number may be another's by now
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _console_ended(self, end: BootEnd) -> None:
        """From the console's reader, which is not to be waited for here."""
        self._kill()

    def _await_end(self) -> None:
        self._process.wait()
        self._reaped.set()
        self._watch.join(_LAST_WORDS)  # what it died of may stand there
        with self._told:
            asked_for = self._closing
        if not asked_for:
            self._on_end(self.end)

    def _event(self, event: Mapping[str, Any]) -> None:
        if event.get("event") == "SHUTDOWN":
            self._shutdown = event.get("data", {})

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self._lines.append(line.decode("utf-8", "replace").rstrip())
