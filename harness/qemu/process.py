"""One QEMU process from start to proven end."""

from __future__ import annotations

import collections
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.qemu.arguments import Channels, Machine, qemu_command
from harness.qemu.qmp import QmpMonitor
from harness.qemu.trace import TraceDrain
from harness.qemu.version import find_qemu

_KEPT_LINES = 40


class Qemu:
    """QEMU with its console, QMP and trace channels; a context manager that owns them all.

    console: our end of the serial console. trace: the drain that reads its trace. pidfd: readable once
    QEMU is dead. on_event: gets QMP's events, in the QMP thread.

    Raises ConfigurationError when there is no such QEMU binary.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        on_event: Callable[[Mapping[str, Any]], object] = lambda event: None,
        on_trace_end: Callable[[], object] = lambda: None,
    ) -> None:
        binary = find_qemu(machine.binary)
        self.trace = TraceDrain(on_trace_end)
        self.stderr_lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self.console, console = socket.socketpair()
        ours, qmp = socket.socketpair()
        self.qmp = QmpMonitor(ours, on_event)
        channels = Channels(qmp=qmp.fileno(), console=console.fileno(), trace=self.trace.write_end)
        self.command = qemu_command(machine, channels)
        try:
            # setpriv has the kernel kill QEMU with us, however we end, without code between fork and exec.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", binary, *self.command[1:]],
                pass_fds=(channels.qmp, channels.console, channels.trace),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            self.console.close()
            self.qmp.close(0)
            self.trace.close(0)
            raise InfrastructureError(f"QEMU could not be started: {error}") from error
        finally:
            console.close()
            qmp.close()
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self.trace.start()
        self.qmp.start()
        self._stderr = threading.Thread(target=self._read_stderr, name="qemu-stderr", daemon=True)
        self._stderr.start()

    def __enter__(self) -> Qemu:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(Deadline(10))

    def exit_code(self) -> int | None:
        """QEMU's exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, deadline: Deadline) -> int | None:
        """QEMU's exit code once it has ended; None when it still runs at the deadline."""
        select.select([self.pidfd], [], [], deadline.remaining)
        return self.exit_code()

    def await_last_words(self, timeout: float) -> None:
        """Once QEMU has ended: wait until all that it printed on its standard error is in `stderr_lines`."""
        self._stderr.join(timeout)

    def close(self, deadline: Deadline) -> None:
        """Kill QEMU if it runs, read its trace to the end, and prove that nothing of it is left.

        Raises InfrastructureError naming what survived.
        """
        survivors = []
        if self.pidfd >= 0:
            if self.exit_code() is None:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            if self.wait(deadline) is None:
                survivors.append(f"QEMU process {self.pid}")
        self.console.close()
        for name, gone in (
            ("trace reader", self.trace.close(deadline.remaining)),
            ("QMP session", self.qmp.close(deadline.remaining)),
        ):
            if not gone:
                survivors.append(name)
        self._stderr.join(deadline.remaining)
        if self.pidfd >= 0:  # not before the trace's reader, which asks it, has ended
            os.close(self.pidfd)
            self.pidfd = -1
        if survivors:
            raise InfrastructureError(
                f"still there after the guest was closed: {', '.join(survivors)}",
                awaited="the end of QEMU",
                waited=deadline.elapsed,
            )

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self.stderr_lines.append(line.decode("utf-8", "replace").rstrip())
