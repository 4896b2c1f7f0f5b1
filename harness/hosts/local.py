"""This machine as the host: device models are child processes that cannot outlive the harness."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.base import CommandResult
from harness.hosts.channel import Channel, DescriptorChannel
from harness.hosts.local_process import LocalProcess
from harness.hosts.results import bare_name, ended_badly, ran_too_long, read_source

__all__ = ["LocalHost", "LocalProcess"]


class LocalHost:
    """This machine."""

    name = "local"
    kind: Literal["local"] = "local"
    python = sys.executable
    failure: InfrastructureError | None = None
    """Always None: there is no link that could be lost."""

    def __init__(self) -> None:
        self._made: Path | None = None
        self._lock = threading.Lock()
        self._sent: dict[str, str] = {}

    def __enter__(self) -> LocalHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            made, self._made = self._made, None
            self._sent.clear()
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)

    @property
    def folder(self) -> str:
        """A folder for this user alone; made when it is first asked for, removed when the host is given back."""
        with self._lock:
            if self._made is None:
                self._made = Path(tempfile.mkdtemp(prefix="rtc-bench-"))
            return str(self._made)

    def on_lost(self, callback: Callable[[InfrastructureError], object]) -> None:
        """Nothing: this machine is not lost without the harness."""

    def start(self, command: Sequence[str], *, log: Path, terminal: bool = False) -> LocalProcess:
        """Start a program here; with `terminal` below a keeper, which gives it a terminal.

        Raises ConfigurationError when the command cannot be started at all.
        """
        if terminal:
            program = shutil.which(command[0])
            if program is None:
                raise ConfigurationError(f"{command[0]} cannot be started: no such program")
            tools = self.tools(Deadline(30))
            command = [self.python, "-I", tools, "keep", "--terminal", "--", program, *command[1:]]
        return LocalProcess(command, log=log)

    def run(
        self, command: Sequence[str], deadline: Deadline, *, data: bytes = b"", check: bool = True
    ) -> CommandResult:
        """Run a program here to its end; see harness.hosts.base.Host."""
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigurationError(f"{command[0]} cannot be started: {error}") from error
        try:
            output, errors = process.communicate(data, timeout=deadline.remaining)
        except subprocess.TimeoutExpired:
            raise ran_too_long(self.name, command, deadline.elapsed) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        result = CommandResult(process.returncode, output, errors.decode("utf-8", "replace"))
        if check and result.status != 0:
            raise ended_badly(self.name, command, result)
        return result

    def put(self, source: Path | bytes, name: str, deadline: Deadline, *, executable: bool = False) -> str:
        """Copy to `folder`. Raises InfrastructureError when that fails, ConfigurationError for a missing source."""
        target = Path(self.folder) / bare_name(name)
        data = source if isinstance(source, bytes) else read_source(source)
        digest = f"{hashlib.sha256(data).hexdigest()} {executable}"
        if self._sent.get(name) == digest:
            return str(target)
        unfinished = target.with_name(f".{name}.{threading.get_ident()}")
        try:
            unfinished.write_bytes(data)
            unfinished.chmod(0o700 if executable else 0o600)
            unfinished.replace(target)
        except OSError as error:
            raise InfrastructureError(f"{name} cannot be put to {target.parent}: {error}") from error
        self._sent[name] = digest
        return str(target)

    def tools(self, deadline: Deadline) -> str:
        """The tools archive in `folder`."""
        from harness.onhost.pack import archive

        return self.put(archive(), "tools.pyz", deadline, executable=True)

    def connect(self, address: str, deadline: Deadline) -> Channel:
        """A stream to a unix socket, a terminal device or HOST:PORT. Raises InfrastructureError at the deadline."""
        from harness.onhost.relay import connected

        try:
            descriptor, _ = connected(address, deadline.remaining)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise InfrastructureError(
                f"nobody accepts a connection to {address}: {why}",
                awaited=f"a connection to {address}",
                waited=deadline.elapsed,
            ) from error
        return DescriptorChannel(descriptor)
