"""The device model: wires one guest's QEMU, trace, vRTC, event service and console together, until an end."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import selectors
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.devicemodel.acrn_monitor import AcrnMonitor
from harness.devicemodel.acrn_sums import AcrnSums
from harness.devicemodel.exit_record import HYPERVISOR_LOST, ExitRecord, FaultClass
from harness.devicemodel.guest_rtc import DmGuestRtc, GuestRtc, HvGuestRtc
from harness.devicemodel.relay import ConsoleRelay
from harness.devicemodel.rtc_change_log import RtcChangeLog
from harness.devicemodel.trace_worker import BLOCKED_AFTER, TraceLog, TraceWorker
from harness.errors import InfrastructureError
from harness.hypervisor.client import HypervisorLost, HypervisorVm
from harness.hypervisor.wire import NewVm
from harness.qemu.arguments import Machine
from harness.qemu.migration import Incoming
from harness.qemu.process import Qemu
from harness.vm_event import VmEventService

log = logging.getLogger(__name__)

CLOSE_TIMEOUT = 5.0
RESTORE_TIMEOUT = 60.0
_BENCH_TROUBLE = ("kvm", "allocate memory", "No space left", "Permission denied", "Resource temporarily")


@dataclass(frozen=True)
class Settings:
    """One guest and its event service; paths None: not wanted. window: seconds of silence.

    hypervisor: the socket of the hypervisor process that has the guest's vRTC; None: the device model has it.
    restore: a saved state of the machine to go on from, instead of a boot; registers: what A and B of its RTC held.
    acrn_monitor: the monitor socket is to behave exactly as acrn-dm's. as_acrn_dm: the guest outlives its console, and
    a real-time one (hypervisor) is not destroyed by a command, as with acrn-dm. acrn_sums: its events have the sums
    that acrn-dm's own service would make, wrong ones included.
    """

    name: str
    machine: Machine
    monitor: Path
    rtc_time: int
    hypervisor: Path | None = None
    restore: Path | None = None
    registers: tuple[int, int] | None = None
    acrn_monitor: bool = False
    as_acrn_dm: bool = False
    acrn_sums: bool = False
    window: float = 1.0
    trace_log: Path | None = None
    rtc_change_log: Path | None = None
    exit_record: Path | None = None
    stdin: int | None = 0
    stdout: int = 1


class DeviceModel:
    """Runs one guest to its end; `run` returns the record of how it ended."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._messages: queue.SimpleQueue[tuple[FaultClass | None, str, str]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._shutdown: Mapping[str, Any] | None = None
        self._service = VmEventService(settings.name, window=settings.window)
        self._sums = AcrnSums()
        self._hypervisor: HypervisorVm | None = None
        self._incoming = Incoming()
        self._log: TraceLog
        self._rtc_changes: RtcChangeLog
        self._qemu: Qemu

    def run(self) -> ExitRecord:
        """Boot the guest and stay with it.

        Raises ConfigurationError and InfrastructureError for what went wrong before the guest ran.
        """
        settings = self._settings
        with contextlib.ExitStack() as stack:
            for descriptor in (self._wake_read, self._wake_write):
                stack.callback(os.close, descriptor)
            stack.enter_context(_signals_to(self._wake_write, self._post))
            try:
                self._log = TraceLog(settings.trace_log)
                stack.callback(self._log.close)
                self._rtc_changes = RtcChangeLog(settings.rtc_change_log)
                stack.callback(self._rtc_changes.close)
            except OSError as error:
                raise InfrastructureError(f"a log of the guest's RTC cannot be opened: {error}") from error
            if settings.restore is not None:
                worker = self._restore(stack, settings.restore)
            else:
                worker = self._boot_in_step(stack) if settings.as_acrn_dm else self._boot(stack)
            try:
                record = self._attend(worker)
            finally:
                self._qemu.close(Deadline(CLOSE_TIMEOUT))
                worked_off = worker.join(CLOSE_TIMEOUT)
                self._rtc_changes.close(self._qemu.qmp.failure)
            if worked_off:  # else the log hangs, and we would with it
                with contextlib.suppress(OSError):  # a full disk has been told of already
                    self._log.record("end", time.monotonic_ns(), reason=record.reason)
        return record

    def _boot(self, stack: contextlib.ExitStack) -> TraceWorker:
        """The guest's RTC and its service are there before it is."""
        rtc = self._create_rtc(stack)
        self._start_service(stack)
        self._qemu = Qemu(self._settings.machine, on_event=self._qmp_event, on_trace_end=self._trace_ended)
        return self._follow_trace(rtc)

    def _boot_in_step(self, stack: contextlib.ExitStack) -> TraceWorker:
        """The vRTC begins when QEMU's own RTC does: on a bench it is by what the guest reads that the vRTC is known,
        and below an emulated host QEMU takes seconds to start. The machine is to be one that waits (`-S`).

        All is made ready for an appointment, which is further away where QEMU took longer to start.
        """
        began_ns = time.monotonic_ns()
        self._qemu = Qemu(self._settings.machine, on_event=self._qmp_event, on_trace_end=self._trace_ended)
        with contextlib.ExitStack() as undo:
            undo.callback(lambda: self._qemu.close(Deadline(CLOSE_TIMEOUT)))
            self._ask_qemu("query-status")
            ready_ns = time.monotonic_ns()
            appointment_ns = ready_ns + (ready_ns - began_ns) // 2
            rtc = self._create_rtc(stack, appointment_ns)
            self._start_service(stack)
            worker = self._follow_trace(rtc)
            # The moment itself is what is waited for: both clocks begin at it.
            time.sleep(max(0, appointment_ns - time.monotonic_ns()) / 1e9)
            self._ask_qemu("cont")
            undo.pop_all()
        return worker

    def _ask_qemu(self, command: str) -> None:
        """A QEMU that has ended does not answer; why it did is told by `_attend`."""
        try:
            self._qemu.qmp.execute(command, Deadline(RESTORE_TIMEOUT))
        except InfrastructureError:
            if self._qemu.wait(Deadline(1.0)) is None:
                raise

    def _restore(self, stack: contextlib.ExitStack, state: Path) -> TraceWorker:
        """The guest's RTC begins when the guest goes on: until then it stands still, and so does QEMU's own."""
        self._qemu = Qemu(self._settings.machine, on_event=self._qmp_event, on_trace_end=self._trace_ended)
        with contextlib.ExitStack() as undo:
            undo.callback(lambda: self._qemu.close(Deadline(CLOSE_TIMEOUT)))
            self._incoming.load(self._qemu, state, Deadline(RESTORE_TIMEOUT))
            rtc = self._create_rtc(stack)
            self._start_service(stack)
            worker = self._follow_trace(rtc)
            self._qemu.qmp.execute("cont", Deadline(RESTORE_TIMEOUT))
            undo.pop_all()
        return worker

    def _follow_trace(self, rtc: GuestRtc) -> TraceWorker:
        worker = TraceWorker(self._qemu.trace, self._log, rtc.feed, rtc.end_of_chunk, self._trace_failed)
        worker.start()
        return worker

    def _create_rtc(self, stack: contextlib.ExitStack, start_ns: int | None = None) -> GuestRtc:
        """start_ns: when it begins; None: now."""
        settings = self._settings
        now_ns = time.monotonic_ns() if start_ns is None else start_ns
        if settings.hypervisor is None:
            sums = self._sums if settings.acrn_sums else None
            return DmGuestRtc(self._service, self._log, settings.rtc_time, now_ns, settings.registers, sums)
        self._hypervisor = HypervisorVm(settings.hypervisor, NewVm(settings.name, settings.rtc_time, now_ns))
        stack.callback(self._hypervisor.close)
        return HvGuestRtc(self._service, self._log, self._hypervisor, self._hypervisor_lost)

    def _start_service(self, stack: contextlib.ExitStack) -> None:
        path, trace, record = self._settings.monitor, self._settings.trace_log, self._settings.exit_record
        self._service.describe(
            trace_log=None if trace is None else str(trace.absolute()),
            exit_record=None if record is None else str(record.absolute()),
        )
        # acrn-dm refuses to destroy a real-time VM: its guest ends by itself, or by a signal.
        refuses = self._hypervisor is not None and (self._settings.acrn_monitor or self._settings.as_acrn_dm)
        if not refuses:
            self._service.on_command("destroy", self._destroy)
        self._service.start(None if self._settings.acrn_monitor else path)
        stack.callback(self._service.stop)
        if self._settings.acrn_monitor:
            monitor = AcrnMonitor(path, {} if refuses else {"destroy": self._destroy})
            stack.callback(monitor.close)
            # In the hypervisor's vRTC -1 is a time like others: acrn-dm's sums are right there.
            in_sums = self._settings.acrn_sums and self._hypervisor is None
            self._service.subscribe(
                (lambda settled: monitor.send_event(*self._sums.settle(settled.raw_events or 0)))
                if in_sums
                else monitor.publish
            )

    # -- the main loop -----------------------------------------------------------------------------------

    def _attend(self, worker: TraceWorker) -> ExitRecord:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ, self._drain_wake)
            selector.register(self._qemu.pidfd, selectors.EVENT_READ, lambda: None)
            if (vm := self._hypervisor) is not None:
                selector.register(vm, selectors.EVENT_READ, lambda: self._hypervisor_lost(vm.why_it_went()))
            relay = None
            if self._settings.stdin is not None:
                relay = ConsoleRelay(selector, self._qemu.console, self._settings.stdin, self._settings.stdout)
            while True:
                for key, _ in selector.select(1.0 if relay is None or not relay.pending else 0.02):
                    key.data()
                if relay is not None and relay.pending:
                    relay.flush()
                if self._qemu.exit_code() is not None:
                    worker.join(CLOSE_TIMEOUT)
                    if relay is not None:
                        relay.guest_ready()  # its last words may still be on the way
                    return self._record(*self._qemu_ended(relay), relay, worker)
                end = self._ending(relay, worker)
                if end is not None:
                    return self._record(*end, relay, worker)

    def _ending(
        self, relay: ConsoleRelay | None, worker: TraceWorker
    ) -> tuple[FaultClass | None, str, str] | None:
        if not self._messages.empty():
            return self._messages.get()
        if relay is not None and relay.closed and not self._settings.as_acrn_dm:
            return None, "console-closed", "whoever held the console has gone"
        if worker.blocked_for > BLOCKED_AFTER:
            problem = f"a traced write has waited {worker.blocked_for:.0f} s for the log or the vRTC"
            return "infrastructure", "trace-blocked", problem
        return None

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _post(self, fault: FaultClass | None, reason: str, problem: str) -> None:
        """From any thread: the guest is to end, and why."""
        self._messages.put((fault, reason, problem))
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"\0")

    # -- how it ended ------------------------------------------------------------------------------------

    def _record(
        self,
        fault: FaultClass | None,
        reason: str,
        problem: str,
        relay: ConsoleRelay | None,
        worker: TraceWorker,
    ) -> ExitRecord:
        return ExitRecord(
            fault=fault,
            reason=reason,
            problem=problem,
            exit_code=self._qemu.exit_code(),
            stderr=list(self._qemu.stderr_lines),
            console=relay.last_lines if relay is not None else [],
            command=self._qemu.command,
            last_trace_ns=worker.last_stamp_ns,
            ended_ns=time.monotonic_ns(),
        )

    def _qemu_ended(self, relay: ConsoleRelay | None) -> tuple[FaultClass | None, str, str]:
        self._qemu.qmp.close(1.0)  # so that its last event, with the reason, has been seen
        self._qemu.await_last_words(1.0)
        code = self._qemu.exit_code()
        assert code is not None
        if code < 0:
            name = signal.Signals(-code).name
            return "infrastructure", "qemu-died", f"QEMU was ended by signal {-code} ({name})"
        if code > 0:
            said = "\n".join(self._qemu.stderr_lines)
            # QEMU says what is wrong first, and how to ask for help after it.
            first = next(iter(self._qemu.stderr_lines), "and said nothing")
            fault: FaultClass = (
                "infrastructure" if any(word in said for word in _BENCH_TROUBLE) else "configuration"
            )
            return fault, "qemu-refused", f"QEMU ended with exit code {code}: {first}"
        panic = relay.line_with("Kernel panic") if relay is not None else None
        if panic is not None:
            return "infrastructure", "guest-panic", f"the guest's kernel panicked: {panic}"
        why = str((self._shutdown or {}).get("reason", "guest-shutdown"))
        if why == "guest-reset":
            return "infrastructure", why, "the guest reset itself and was not to"
        return None, why, "the guest was shut down"

    # -- called from other threads -----------------------------------------------------------------------

    def _hypervisor_lost(self, lost: HypervisorLost) -> None:
        self._post("infrastructure", HYPERVISOR_LOST, lost.problem)

    def _destroy(self, argument: str | None) -> bool:
        self._post(None, "destroyed", "a client of the monitor socket asked for it")
        return True

    def _qmp_event(self, event: Mapping[str, Any]) -> None:
        self._rtc_changes.event(event)
        self._incoming.event(event)
        if event.get("event") == "SHUTDOWN":
            self._shutdown = event.get("data", {})

    def _trace_ended(self) -> None:
        # QEMU's own end closes the pipe too, and its pidfd tells of that; only an end before it is a loss.
        if hasattr(self, "_qemu") and self._qemu_lives_on():
            self._post("infrastructure", "trace-lost", "QEMU closed its trace while the guest went on")

    def _qemu_lives_on(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._qemu.pidfd, selectors.EVENT_READ)
            return not selector.select(1.0)

    def _trace_failed(self, reason: str, problem: str) -> None:
        self._post("infrastructure", reason, problem)


@contextlib.contextmanager
def _signals_to(wake: int, post: Callable[[FaultClass | None, str, str], None]) -> Any:
    """SIGTERM, SIGINT and SIGHUP end the guest in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ended(number: int, frame: object) -> None:
        post(None, "terminated", f"{signal.Signals(number).name} received")

    before = {number: signal.signal(number, ended) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    old_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_wake)
        for number, handler in before.items():
            signal.signal(number, handler)
