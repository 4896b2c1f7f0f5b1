"""A host that SSH reaches: programs, commands, files and streams over channels of one connection, or several."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import paramiko

from harness.bench import SshHostSpec
from harness.deadline import Deadline
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.hosts.base import CommandResult, HostKind, LinkLost
from harness.hosts.results import bare_name, ended_badly, ran_too_long, read_source, shown
from harness.hosts.ssh_command import RemoteCommand, new_mark
from harness.hosts.ssh_config import Target, resolve
from harness.hosts.ssh_link import Link, NotReached
from harness.hosts.ssh_links import Links
from harness.hosts.ssh_process import ConsolePump, SshProcess
from harness.hosts.ssh_session import LOADER, Session, first_words
from harness.onhost.pack import archive

log = logging.getLogger(__name__)

START_TIMEOUT = 20.0
"""Seconds for a host, however busy, to start a program or the session."""

END_TIMEOUT = 8.0
"""Seconds for a keeper to end its program: 1 s for its input's end, 3 s for SIGTERM, SIGKILL, and some more."""

_BETWEEN_TRIES = 0.3
FIRST_PATIENCE = 2.0
"""Seconds for the first try to get into a host that boots, more for each further one: something may accept the
connection long before the host does, as QEMU's network and some switches do."""
_STATUS_IS_LATE = 1.0


class SshHost:
    """A machine that SSH reaches; a context manager, or `open` and `close`, which may be done again.

    address_override: where to connect, whatever the spec's address is; that one remains the name by which the host's
    key is known. booting: as a context manager, have the spec's boot_timeout for it to come up.
    """

    def __init__(
        self,
        spec: SshHostSpec,
        *,
        address_override: tuple[str, int] | None = None,
        name: str | None = None,
        kind: HostKind = "ssh",
        booting: bool = False,
    ) -> None:
        self.spec = spec
        self.name = name or spec.address
        self.kind: HostKind = kind
        self.python = spec.python
        self._override = address_override
        self._booting = booting
        self._target: Target | None = None
        self._lock = threading.RLock()
        self._links = Links(self._link_ended)
        self._session: Session | None = None
        self._running: dict[RemoteCommand, str] = {}
        self._sent: dict[str, str] = {}
        self._failure: InfrastructureError | None = None
        self._lost = threading.Event()
        self._on_lost: list[Callable[[InfrastructureError], object]] = []
        self._closing = False

    # -- its life --------------------------------------------------------------------------------------------------

    def __enter__(self) -> SshHost:
        patience = self.spec.boot_timeout if self._booting else self.spec.connect_timeout
        self.open(Deadline(patience), booting=self._booting)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close(Deadline(2 * END_TIMEOUT))
        except InfrastructureError as left:
            if error is None:
                raise
            log.error("%s", left)  # the error that is under way is the cause

    def open(self, deadline: Deadline, *, booting: bool = False) -> None:
        """Connect, log in, begin the session.

        booting: whoever does not answer yet is tried again until the deadline.
        Raises ConfigurationError where the user has to mend something, InfrastructureError otherwise.
        """
        self._failure = None
        self._closing = False
        self._lost.clear()
        self._target = resolve(self.spec, override=self._override)
        started = Deadline(0)
        patience = FIRST_PATIENCE
        while True:
            try:
                self._begin(deadline.within(patience) if booting else deadline)
                return
            except NotReached as error:
                self._close_links()
                if not booting:
                    raise
                if deadline.expired:
                    error.awaited, error.waited = f"{self._target.shown} to let us in", started.elapsed
                    raise
            except BaseException:  # whatever it was, the connection is ours to close
                self._close_links()
                raise
            time.sleep(min(_BETWEEN_TRIES, deadline.remaining))  # that a machine is up can only be tried
            patience *= 1.5

    def _begin(self, deadline: Deadline) -> None:
        assert self._target is not None
        link = self._links.open(self._target, deadline)
        session = Session(self._target.shown, self._lose)
        mark = new_mark()
        patience = Deadline(START_TIMEOUT)
        self.python = self.spec.python
        with _cut_at(patience, link):
            remote = self._execute(
                [self.python, "-I", "-c", LOADER], mark, output=session.output, lines=session.line, what="session"
            )
            words = first_words(archive(), self.spec.folder, mark)
            session.begin(remote, words, patience, python=self.python)
        with self._lock:
            self._running.pop(remote, None)
            self._session = session
            self.python = session.facts["executable"]  # without whatever its name in PATH goes through

    def close(self, deadline: Deadline) -> None:
        """End what still runs, have the session's folder removed, disconnect.

        Raises InfrastructureError naming what is still there; after a lost link nothing: what was there ends itself.
        """
        with self._lock:
            self._closing = True
            session, self._session = self._session, None
            running = list(self._running)
        survivors: list[str] = []
        if session is not None and self._failure is None:
            for remote in running:
                remote.end_input()
            for remote in running:
                remote.done.wait(deadline.within(END_TIMEOUT).remaining)
            survivors = session.close(deadline)
        elif session is not None:
            session.stop_watching()
        self._close_links()
        if survivors:
            raise InfrastructureError(f"on {self.name}, though it was given back: {', '.join(survivors)}")

    def _close_links(self) -> None:
        with self._lock:
            self._running.clear()
            self._sent.clear()
        self._links.close()

    # -- the link --------------------------------------------------------------------------------------------------

    @property
    def failure(self) -> InfrastructureError | None:
        """Why the host cannot be reached any more; None while it can."""
        return self._failure

    def on_lost(self, callback: Callable[[InfrastructureError], object]) -> None:
        """Have `callback` called, from a thread, once the link is lost; at once if it is."""
        with self._lock:
            if self._failure is None:
                self._on_lost.append(callback)
                return
            failure = self._failure
        callback(failure)

    def await_failure(self) -> InfrastructureError | None:
        """The failure, for which is waited a moment: that the link was cut is told after what it cut has ended."""
        self._lost.wait(_STATUS_IS_LATE)
        return self._failure

    def _lose(self, why: str) -> None:
        with self._lock:
            if self._closing or self._failure is not None:
                return
            cut = sorted(self._running.values())
            told = f"; it cut: {'; '.join(cut)}" if cut else "; no command was under way"
            shown_name = self._target.shown if self._target is not None else self.name
            self._failure = LinkLost(f"the link to {shown_name} was lost: {why}{told}")
            session = self._session
            callbacks, self._on_lost = self._on_lost, []
        self._lost.set()
        if session is not None:
            session.stop_watching()
        for callback in callbacks:
            callback(self._failure)
        self._links.close()

    def _link_ended(self, why: str) -> None:
        """While nothing has begun, whoever begins sees it."""
        if self._session is not None:
            self._lose(why)

    def _require(self, what: Sequence[str]) -> Session:
        with self._lock:
            if self._failure is not None:
                raise self._cut(what)
            if self._session is None:
                raise InfrastructureError(f"{self.name} is not in use: {shown(what)} cannot be started")
            return self._session

    def _cut(self, what: Sequence[str]) -> LinkLost:
        return LinkLost(f"on {self.name}: the link cut the command {shown(what)}: {self._why()}")

    def _why(self) -> str:
        return self._failure.problem if self._failure is not None else "the connection was closed"

    # -- commands --------------------------------------------------------------------------------------------------

    def _execute(
        self,
        command: Sequence[str],
        mark: str,
        *,
        output: Callable[[bytes], object],
        lines: Callable[[bytes], object],
        what: str,
        told: Sequence[str] = (),
    ) -> RemoteCommand:
        """Start a command on a channel of its own. SSH needs one string: it is made here and nowhere else.

        told: how the command is called when the link cuts it. Raises LinkLost.
        """
        whole = ["sudo", "-n", *command] if self.spec.sudo else list(command)
        try:
            channel = self._links.channel()
            remote = RemoteCommand(channel, mark, output=output, lines=lines, name=what)
            with self._lock:
                self._running[remote] = shown(told or command)
            channel.exec_command(shlex.join(whole))
        except (paramiko.SSHException, OSError, EOFError) as error:
            if self._session is None:
                raise NotReached(f"{self.name}: the connection ended: {error}") from error
            self.await_failure()
            raise self._cut(told or command) from error
        remote.begin()
        remote.on_done(lambda: self._over(remote))
        return remote

    def _over(self, remote: RemoteCommand) -> None:
        if remote.status is None:
            self.await_failure()  # who was cut is to be named
        with self._lock:
            self._running.pop(remote, None)

    def _tool(self, folder: str, tool: str, mark: str, *arguments: str) -> list[str]:
        return [self.python, "-IS", f"{folder}/tools.pyz", tool, "--folder", folder, "--mark", mark, *arguments]

    def _no_word(self, remote: RemoteCommand, command: Sequence[str], deadline: Deadline) -> BenchError:
        """A tool did not get as far as its first word."""
        if remote.done.is_set() and (self.await_failure() if remote.status is None else self._failure) is not None:
            return self._cut(command)
        return InfrastructureError(
            f"on {self.name}: {shown(command)} was not started",
            awaited="the start of it",
            waited=deadline.elapsed,
            last_lines=bytes(remote.before).decode("utf-8", "replace").splitlines()[-20:],
        )

    def start(self, command: Sequence[str], *, log: Path, terminal: bool = False) -> SshProcess:
        """Start a program below a keeper; see harness.hosts.base.Host."""
        folder = self._require(command).folder
        process = SshProcess(self, command, log)
        try:
            remote = self._kept(
                command, folder, ["--terminal"] if terminal else [], process.output, process.line
            )
        except BaseException:  # whatever it was, its console is ours to close
            process.close(Deadline(0))
            raise
        process.begun(remote)
        return process

    def _kept(
        self,
        command: Sequence[str],
        folder: str,
        options: list[str],
        output: Callable[[bytes], object],
        lines: Callable[[bytes], object],
    ) -> RemoteCommand:
        """A program that runs below a keeper. Raises as `start`."""
        mark = new_mark()
        deadline = Deadline(START_TIMEOUT)
        whole = self._tool(folder, "keep", mark, *options, "--", *command)
        remote = self._execute(whole, mark, output=output, lines=lines, what=command[0], told=command)
        facts = remote.await_mark(deadline)
        if facts is None:
            remote.end_input()
            raise self._no_word(remote, command, deadline)
        started = remote.await_start(deadline)
        if started is not None and "pid" in started:
            return remote
        if started is None and "failed" not in facts:
            remote.end_input()
            raise self._no_word(remote, command, deadline)
        why = facts.get("failed") or (started or {}).get("why")
        raise ConfigurationError(f"on {self.name}: {why}")

    def run(
        self, command: Sequence[str], deadline: Deadline, *, data: bytes = b"", check: bool = True
    ) -> CommandResult:
        """Run a program to its end below a keeper; see harness.hosts.base.Host."""
        folder = self._require(command).folder
        output = bytearray()
        errors: list[bytes] = []
        remote = self._kept(command, folder, ["--input", str(len(data))], output.extend, errors.append)
        if data:
            threading.Thread(target=_feed, args=(remote, data), name="ssh-data", daemon=True).start()
        if not remote.done.wait(deadline.remaining):
            remote.end_input()
            remote.done.wait(END_TIMEOUT)
            raise self._cut(command) if self._failure is not None else ran_too_long(
                self.name, command, deadline.elapsed
            )
        if remote.ended is None:
            self.await_failure()
            raise self._cut(command)
        if remote.ended["survivors"]:
            left = ", ".join(remote.ended["survivors"])
            raise InfrastructureError(f"on {self.name}: {shown(command)} ended, and still there is {left}")
        text = b"".join(errors).decode("utf-8", "replace")
        result = CommandResult(int(remote.ended["status"]), bytes(output), text)
        if check and result.status != 0:
            raise ended_badly(self.name, command, result)
        return result

    # -- files, streams --------------------------------------------------------------------------------------------

    @property
    def folder(self) -> str:
        """The session's folder on the host."""
        return self._require(["the session's folder"]).folder

    @property
    def facts(self) -> dict[str, Any]:
        """What the session says of the host: python (its version), user (its id), host (its name)."""
        return self._require(["the session"]).facts

    def put(self, source: Path | bytes, name: str, deadline: Deadline, *, executable: bool = False) -> str:
        """Bring a file to the session's folder; see harness.hosts.base.Host."""
        data = source if isinstance(source, bytes) else read_source(source)
        told = ["put", bare_name(name)]
        folder = self._require(told).folder
        digest = hashlib.sha256(data).hexdigest()
        mode = "700" if executable else "600"
        if self._sent.get(name) == f"{digest} {mode}":
            return f"{folder}/{name}"
        mark = new_mark()
        errors: list[bytes] = []
        command = self._tool(folder, "receive", mark, name, str(len(data)), digest, mode)
        remote = self._execute(command, mark, output=lambda data: None, lines=errors.append, what="put", told=told)
        threading.Thread(target=_feed, args=(remote, data), name="ssh-put", daemon=True).start()
        facts = remote.await_mark(deadline)
        if facts is None:
            remote.end_input()
            raise self._no_word(remote, told, deadline)
        if "failed" in facts:
            raise InfrastructureError(f"on {self.name}: {facts['failed']}", hint="is there room on the host's disk?")
        self._sent[name] = f"{digest} {mode}"
        return f"{folder}/{name}"

    def tools(self, deadline: Deadline) -> str:
        """The tools archive: the session brought it."""
        return f"{self.folder}/tools.pyz"

    def connect(self, address: str, deadline: Deadline) -> socket.socket:
        """A stream to a unix socket, a terminal device or HOST:PORT as the host sees it, by a relay there."""
        told = ["connect", address]
        folder = self._require(told).folder
        mark = new_mark()
        pump = ConsolePump("relay")
        started = Deadline(0)
        wait = f"{deadline.remaining:.3f}"
        try:
            command = self._tool(folder, "relay", mark, "--wait", wait, address)
            remote = self._execute(
                command, mark, output=pump.output, lines=lambda line: None, what="relay", told=told
            )
            facts = remote.await_mark(Deadline(deadline.remaining + START_TIMEOUT))
            if facts is None:
                remote.end_input()
                raise self._no_word(remote, told, started)
            if "failed" in facts:
                raise InfrastructureError(
                    f"on {self.name}: nobody accepts a connection to {address}: {facts['failed']}",
                    awaited=f"a connection to {address}",
                    waited=started.elapsed,
                )
        except BaseException:  # whatever it was, both ends are ours to close
            pump.close()
            raise
        pump.feed(remote)
        remote.on_done(pump.release)
        pump.console.setblocking(False)
        return pump.console


def _feed(remote: RemoteCommand, data: bytes) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        remote.send(data)


@contextlib.contextmanager
def _cut_at(deadline: Deadline, link: Link) -> Iterator[None]:
    """Close the link at the deadline: whatever waits for an answer on it waits no longer."""
    timer = threading.Timer(deadline.remaining + 1, link.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
