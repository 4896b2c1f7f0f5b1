"""A guest on a bench's host: acrn-dm or a launch script there, its console here, the observer beside its service."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench import Bench, GuestSpec, RunningSpec
from harness.deadline import Deadline
from harness.engine.bench_causes import true_cause
from harness.engine.bench_host import BenchUse
from harness.engine.cause import end_is_told
from harness.engine.judged_service import JudgedService
from harness.engine.launch import CLOSE_TIMEOUT
from harness.engine.quiet import Quiet
from harness.engine.rundir import RunDirectory
from harness.engine.strategy import Root, State, Step
from harness.engine.witness import BenchWitness, WitnessAbout
from harness.errors import BenchError, InfrastructureError
from harness.guests.agent_guest import AgentGuest
from harness.guests.console import Console
from harness.guests.image import GuestImage
from harness.guests.ssh_console import open_guest_shell
from harness.guests.steps import AgentReport
from harness.guests.system import SystemGuest
from harness.hosts.base import Channel, Host, HostProcess
from harness.listener import EventListener

MakeGuest = Callable[[Console, Host], AgentGuest]


@dataclass(frozen=True)
class BenchGuest:
    """One guest of a bench.

    name: what it is called in the run. image: what it boots, where that is ours. details: what run.json says of it.
    """

    name: str
    spec: GuestSpec
    bench: Bench
    folder: Path
    nonce: str
    image: GuestImage | None
    make: MakeGuest
    details: Mapping[str, Any]

    @property
    def vm(self) -> str:
        """The name that its events carry."""
        return self.spec.vm_name or self.name


class BenchLaunch:
    """A guest that comes up on a bench's host, and goes; see harness.engine.launch.Launch."""

    def __init__(self, root: Root[BenchUse], about: BenchGuest, rundir: RunDirectory) -> None:
        self._root = root
        self._about = about
        self._rundir = rundir
        self._stirred = threading.Event()
        self._closed = threading.Event()
        self._changed: Callable[[], None] = lambda: None
        self._use: BenchUse | None = None
        self._process: HostProcess | None = None
        self._service: JudgedService | None = None
        self._listener: EventListener | None = None
        self._listening_ns = 0
        self._guest: AgentGuest | None = None
        bench, spec = about.bench, about.spec
        self._witness = BenchWitness(
            about.folder,
            WitnessAbout(about.vm, spec.vrtc, bench.service.judged, round(bench.service.window * 1e9), spec.system),
        )

    @property
    def guest(self) -> AgentGuest:
        """The guest that is up."""
        assert self._guest is not None
        return self._guest

    def steps(self, changed: Callable[[], None]) -> Mapping[State, Step]:
        """The bench's states."""
        self._changed = changed
        return {
            State.HOST_UP: self._take_host,
            State.GUEST_BOOTED: self._boot,
            State.GUEST_READY: self._greet,
            State.QUIET: self._await_quiet,
        }

    # -- the way up --------------------------------------------------------------------------------------

    def _take_host(self, stack: contextlib.ExitStack, deadline: Deadline) -> None:
        self._use = self._root.hold(stack, deadline)
        self._use.host.on_lost(lambda failure: self._stir())

    def _boot(self, stack: contextlib.ExitStack, deadline: Deadline) -> None:
        """Device model, console, service, and who listens to it."""
        about = self._about
        host = self._host
        deadline = deadline.within(about.spec.boot_timeout)
        monitor = self._monitor(host)
        self._process = self._start(stack, host, monitor, deadline)
        console = Console(self._channel(host, deadline), about.folder / "console.log", name=about.name)
        self._guest = about.make(console, host)
        stack.callback(self._guest.close)
        self._service = JudgedService(about.bench, host, monitor, about.vm, about.folder)
        self._service.start(stack, self._stir, deadline)
        assert self._use is not None
        self._listener = self._use.listening.listener(
            Path(self._service.socket), about.folder / "events.jsonl", self._stir
        )
        stack.callback(self._listener.close)
        self._listener.connect(deadline, self._is_given_up)
        self._listening_ns = time.monotonic_ns()

    def _start(
        self, stack: contextlib.ExitStack, host: Host, monitor: str, deadline: Deadline
    ) -> HostProcess | None:
        """The device model; None where somebody else has started it."""
        about, model = self._about, self._about.spec.device_model
        assert model is not None
        if isinstance(model, RunningSpec):
            return None
        values = {
            "vm": about.vm, "monitor": monitor, "nonce": about.nonce, "folder": host.folder,
            "memory": str(about.spec.mebibytes), **self._files(host, deadline),
        }
        terminal = about.spec.console.kind == "stdio"
        process = host.start(model.command(values), log=about.folder / "device-model.log", terminal=terminal)
        stack.callback(lambda: process.close(Deadline(CLOSE_TIMEOUT)))
        process.on_exit(self._stir)
        return process

    def _files(self, host: Host, deadline: Deadline) -> dict[str, str]:
        """What the guest boots, on the host by now."""
        image = self._about.image
        if image is None:
            return {"kernel": "", "initrd": "", "append": ""}
        kind = self._about.spec.name
        initrd = "" if image.initrd is None else host.put(image.initrd, f"{kind}.initrd", deadline)
        kernel = host.put(image.packed or image.kernel, f"{kind}.kernel", deadline)
        return {"kernel": kernel, "initrd": initrd, "append": image.command_line(self._about.nonce)}

    def _monitor(self, host: Host) -> str:
        model = self._about.spec.device_model
        assert model is not None
        given = model.monitor
        return f"{host.folder}/{self._about.vm}.monitor" if given is None else given.replace("{vm}", self._about.vm)

    def _channel(self, host: Host, deadline: Deadline) -> Channel:
        from harness.hosts.consoles import open_console

        if self._about.spec.only_by_ssh:
            assert self._about.spec.agent.ssh is not None
            return open_guest_shell(self._about.spec.agent.ssh, host, deadline)
        return open_console(self._about.spec.console, host, self._process, self._about.vm, deadline)

    def _greet(self, stack: contextlib.ExitStack, deadline: Deadline) -> None:
        """The agent is there and has proved where it is; what in the guest would set its RTC is held off."""
        guest = self.guest
        if not self._closed.is_set():  # else whoever stopped us found no guest to close
            guest.boot(deadline.within(self._about.spec.boot_timeout))
        self._witness.sample(guest, deadline)

    def _await_quiet(self, stack: contextlib.ExitStack, deadline: Deadline) -> None:
        """Silence; then the guest's RTC is read, and from there on everything it does is known."""
        about, guest = self._about, self.guest
        since_ns = time.monotonic_ns() if about.image is None else self._listening_ns  # in ours nobody else writes
        quiet = Quiet(about.name, about.folder / "events.jsonl", about.bench.quiet)
        quiet.wait(since_ns, self._stirred, self.check, deadline)
        reading = guest.read_rtc(deadline)
        if reading.time < 0:
            raise InfrastructureError(
                f"the RTC of {about.name} shows no date, so nothing can be known of what comes of it",
                hint="set it right in the guest (hwclock --systohc), or start the guest anew",
            )
        self._witness.start(reading)
        for note in self._host_notes():
            self._rundir.add_note(note)
        found = {"events": quiet.events, "waited_s": round(quiet.seconds, 3), "seconds": about.bench.quiet.seconds}
        self._rundir.add_guest(about.name, {**about.details, "quiet": found, "agent": dict(guest.facts)})
        if quiet.events:
            some = f"{quiet.events} event{'s' if quiet.events > 1 else ''}"
            self._rundir.add_note(f"{about.name}: {some} came before it was quiet: nobody here asked for them")

    # -- at work -----------------------------------------------------------------------------------------

    def tend(self, deadline: Deadline, *, whole: bool) -> None:
        """A system of the user's may have somebody who sets its RTC: it is read now and then, and ought to be known.

        Not where a read would change what later writes do, as on the hypervisor's vRTC.
        """
        if whole and self._about.image is None and self._about.spec.vrtc == "dm" and self._witness.is_old:
            self._witness.anchor(self.guest.read_rtc(deadline))

    def reported(self, report: AgentReport) -> None:
        """Into the witness, with the guest's clock as it is right now: nobody waits for that, in the settle window."""
        if not report.ok:
            return
        self._witness.sample(self.guest, Deadline(CLOSE_TIMEOUT))
        self._witness.reported(report)

    def check(self) -> None:
        """Raises InfrastructureError when the host, the device model, the service's process or the guest has died."""
        if self._use is not None and self._use.failure is not None:
            raise self._use.failure
        if self._listener is not None and self._listener.failure is not None:
            raise InfrastructureError(f"{self._about.name}: {self._listener.failure}")
        if self._process is not None and self._process.exit_status() is not None:
            raise InfrastructureError(f"the device model of {self._about.name} has ended")
        if self._service is not None and self._service.failure is not None:
            raise self._service.failure
        if self._guest is not None:
            self._guest.check()

    def failed(self, problem: BenchError) -> BenchError:
        """Why it was really lost; the root is told, and so is the judge, who must not blame the service for it."""
        cause = self._true_cause(problem)
        reason = "guest-lost"
        if self._use is not None and self._use.failure is not None:
            reason = "host-lost"
        elif self._process is not None and self._process.exit_status() is not None:
            reason = "device-model-died"
        self._end_witness(reason)
        self._root.fail(cause, self._use)
        return cause

    def _true_cause(self, problem: BenchError) -> BenchError:
        about = self._about
        cause = true_cause(problem, self._use, self._process, about.name, about.folder)
        if cause is problem and self._service is not None and self._service.failure is not None:
            return self._service.failure
        return cause

    def hush(self) -> None:
        """Stop listening; what the guest does from here on is not known."""
        if self._listener is not None:
            self._listener.close()
        self._end_witness("console-closed")

    def _end_witness(self, reason: str) -> None:
        """Excuses the end of the event stream: not where it is the judged service that died, and nothing else did."""
        if reason in {"host-lost", "device-model-died"} or self._service is None or self._service.failure is None:
            self._witness.end(reason)

    def end_is_told(self) -> bool:
        """Whether the device model lives, or it is on disk how it ended."""
        ended = self._process is not None and self._process.exit_status() is not None
        return not ended or end_is_told(self._about.folder)

    def give_back(self, deadline: Deadline) -> None:
        """The guest's system gets back what was taken from it; the guest is ended as the bench says, and is gone."""
        guest, process = self.guest, self._process
        ends_by = self._about.spec.ends_by
        if isinstance(guest, SystemGuest) and (process is None or ends_by != "inside"):
            guest.leave(deadline)
        if process is None:
            return
        if ends_by == "destroy":
            assert self._service is not None
            self._service.destroy(lambda: process.exit_status() is not None, deadline)
        elif ends_by == "inside":
            guest.power_off(deadline)
        if ends_by != "signal":
            self._await_end(process, ends_by, deadline)

    def _await_end(self, process: HostProcess, ends_by: str, deadline: Deadline) -> None:
        gone = threading.Event()
        process.on_exit(gone.set)
        if not gone.wait(deadline.remaining):
            raise InfrastructureError(
                f"the device model of {self._about.name} goes on after {ends_by}; it is killed",
                awaited="its end",
                waited=deadline.elapsed,
                last_lines=process.last_lines[-8:],
                log=self._about.folder / "device-model.log",
            )

    def close(self) -> None:
        """Close the guest's console, if there is one."""
        self._closed.set()
        guest = self._guest
        if guest is not None:
            guest.close()
        self._stirred.set()

    # -- inside ------------------------------------------------------------------------------------------

    @property
    def _host(self) -> Host:
        assert self._use is not None
        return self._use.host

    def _host_notes(self) -> list[str]:
        """What went wrong on the way to the host and was mended by another try; told once."""
        notes: list[str] = getattr(self._host, "notes", [])
        found, notes[:] = list(notes), []
        return found

    def _is_given_up(self) -> bool:
        if self._closed.is_set() or (self._use is not None and self._use.failure is not None):
            return True
        died = self._process is not None and self._process.exit_status() is not None
        return died or (self._service is not None and self._service.failure is not None)

    def _stir(self) -> None:
        """From any thread: something has happened. A wait for a guest that is lost with its host ends at once."""
        self._stirred.set()
        lost = self._use is not None and self._use.failure is not None
        died = self._process is not None and self._process.exit_status() is not None
        if (lost or died) and self._guest is not None:
            self._guest.close()
        self._changed()
