"""A host that the harness makes itself: the user's ACRN image in QEMU with nested VMX, then a host that SSH reaches."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from pathlib import Path
from types import TracebackType

from harness.bench import NestedHostSpec
from harness.deadline import Deadline
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.guests.console_log import ConsoleLog
from harness.hosts.nested_console import BootEnd
from harness.hosts.nested_machine import NestedMachine
from harness.hosts.nested_preflight import require
from harness.hosts.ssh import FIRST_PATIENCE, SshHost
from harness.hosts.ssh_link import NotReached

log = logging.getLogger(__name__)

NAME = "nested"
"""What ssh_config and known_hosts may call the machine; its address is a port of this machine's loopback."""

BOOTS = 2
"""So often a machine is started whose hypervisor stops at the assertion that is known to come and go."""

_CLOSE_TIMEOUT = 10.0
_SSH_CLOSE_TIMEOUT = 4.0
_BETWEEN_TRIES = 0.3
_DMESG_TIMEOUT = 30.0
_CAUSE_IS_LATE = 1.5
"""Seconds in which a cut link's cause is told: that QEMU has ended, or what the console said."""


class NotAcrn(ConfigurationError):
    """The machine is up, and nothing in it says that ACRN runs it."""


class NestedHost(SshHost):
    """A machine in QEMU that lives as long as the host is in use; its SSH is a port of this machine's loopback.

    folder: the run's, for `nested-console.log` (and `.raw`) and `nested.jsonl`, which has every boot and what came of
    it. Once it is in use it is an SshHost, with one more cause for a link to be lost: the machine's own end, by name.
    """

    def __init__(self, spec: NestedHostSpec, folder: Path) -> None:
        super().__init__(spec.ssh.at(NAME, boot_timeout=spec.boot_timeout), name=NAME, kind="nested")
        self._nested = spec
        self._logs = folder
        self._machine: NestedMachine | None = None
        self._console_log: ConsoleLog | None = None
        self._ended = threading.Event()
        self.notes: list[str] = []
        """What went wrong and was mended by a second try: infrastructure, and to be told."""

    def __enter__(self) -> NestedHost:
        """Boot it and log in.

        Raises ConfigurationError where this machine cannot run it (each reason with what mends it), where QEMU refuses
        its arguments, where SSH lets nobody in, and NotAcrn; InfrastructureError for a boot that fails or takes too
        long, with how far it came.
        """
        require(self._nested)
        for boot in range(1, BOOTS + 1):
            try:
                self._boot(Deadline(self._nested.boot_timeout))
                self._record(boot, "up")
                return self
            except BaseException as error:  # whatever it was, the machine is ours to destroy
                end = self._machine.end if self._machine is not None else None
                self._destroy()
                if end is None or not end.transient or boot == BOOTS or not isinstance(error, BenchError):
                    self._record(boot, error.problem if isinstance(error, BenchError) else type(error).__name__)
                    raise
                self._record(boot, end.problem)
                self._retried(end)
        raise AssertionError("a boot either succeeds or raises")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what runs there, then destroy the machine: a Service VM is not shut down."""
        try:
            # What is left there ends with the machine, whatever the session says.
            try:
                self.close(Deadline(_SSH_CLOSE_TIMEOUT))
            except InfrastructureError as left:
                log.debug("before the machine was destroyed: %s", left)
        finally:
            self._destroy()

    def _boot(self, deadline: Deadline) -> None:
        self._ended.clear()
        try:
            self._console_log = ConsoleLog(self._logs / "nested-console.log")
        except OSError as error:
            raise InfrastructureError(f"the nested machine's console log cannot be written: {error}") from error
        machine = self._machine = NestedMachine(self._nested, self._console_log, self._machine_ended)
        self._override = ("127.0.0.1", machine.ssh_port(deadline))
        self._log_in(machine, deadline)
        self._require_acrn(deadline)

    def _log_in(self, machine: NestedMachine, deadline: Deadline) -> None:
        started, patience = Deadline(0), FIRST_PATIENCE
        while True:
            try:
                # QEMU accepts a connection before anybody in the machine listens: one try must not take all the time.
                self.open(deadline.within(patience))
                return
            except NotReached as error:
                if machine.wait(_CAUSE_IS_LATE if self._ended.is_set() else 0):
                    raise self._with_console(machine.why_it_ended(), started) from error
                if deadline.expired:
                    problem = f"the nested machine does not answer by SSH; it has come as far as {machine.stage}"
                    raise self._with_console(InfrastructureError(problem), started) from error
            time.sleep(min(_BETWEEN_TRIES, deadline.remaining))  # that a machine is up can only be tried
            patience = min(1.5 * patience, self.spec.connect_timeout)

    def _require_acrn(self, deadline: Deadline) -> None:
        if self._nested.detects is None:
            return
        said = self.run(["dmesg"], deadline.within(_DMESG_TIMEOUT))
        if not re.search(self._nested.detects.encode(), said.output):
            lines = [line for line in said.output.decode("utf-8", "replace").splitlines() if "ypervisor" in line]
            raise NotAcrn(
                f"the nested machine is up, and its dmesg has no {self._nested.detects!r}: ACRN does not run it",
                last_lines=lines[-5:],
                log=self._logs / "nested-console.log",
                hint="does the image's GRUB start ACRN by default, or the plain kernel beside it? For a machine that is"
                " no ACRN (a rehearsal) say in the bench file what `detects` it",
            )

    def _with_console(self, error: BenchError, started: Deadline) -> BenchError:
        error.awaited, error.waited = "SSH into the nested machine", started.elapsed
        if self._console_log is not None:
            error.last_lines = (*error.last_lines, *self._console_log.last_lines[-12:])
        error.log = self._logs / "nested-console.log"
        return error

    # -- its end ---------------------------------------------------------------------------------------------------

    def _machine_ended(self, end: BootEnd | None) -> None:
        """From a thread: the machine has died by itself."""
        self._ended.set()
        self._lose("the nested machine has ended")

    def _lose(self, why: str) -> None:
        """The link may be lost before it is known why: the machine's end is the true cause."""
        machine = self._machine
        if machine is not None and machine.wait(_CAUSE_IS_LATE):
            why = machine.why_it_ended().problem
        super()._lose(why)

    def _destroy(self) -> None:
        """Raises InfrastructureError naming what is left."""
        machine, self._machine = self._machine, None
        record, self._console_log = self._console_log, None
        try:
            if machine is not None:
                machine.close(Deadline(_CLOSE_TIMEOUT))
        finally:
            if record is not None:
                try:
                    record.close()
                except OSError as error:
                    log.warning("the nested machine's console log is not complete: %s", error)

    def _retried(self, end: BootEnd) -> None:
        note = f"the nested machine was booted a second time: {end.problem} (known to come and go)"
        self.notes.append(note)
        log.warning("%s", note)

    def _record(self, boot: int, outcome: str) -> None:
        line = json.dumps({"t_ns": time.monotonic_ns(), "boot": boot, "outcome": outcome})
        try:
            with (self._logs / "nested.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            log.warning("what came of the nested machine's boot is not recorded: %s", error)
