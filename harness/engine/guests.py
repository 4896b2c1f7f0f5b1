"""Makes a lane's guest out of the bench: image, device model command, sockets, agent."""

from __future__ import annotations

import datetime
import secrets
import sys
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import harness
from harness.bench import Bench, GuestSpec, LoginSpec
from harness.deadline import Deadline
from harness.engine.hypervisor import Hypervisor
from harness.engine.launch import GuestParts, LocalCommand, LocalLaunch
from harness.engine.rundir import RunDirectory
from harness.engine.settings import EngineSettings
from harness.errors import ConfigurationError, InfrastructureError
from harness.guests.agent_guest import AgentGuest
from harness.guests.base import Guest
from harness.guests.console import Console
from harness.guests.image import GuestImage, ImageSpec, prepare_bare_image, prepare_image
from harness.guests.linux import LinuxGuest
from harness.guests.login import Login, read_password
from harness.guests.restored import RestoredGuest
from harness.guests.system import SystemGuest
from harness.guests.variants import Agents, prepare_agents
from harness.hosts.base import Host, HostProcess
from harness.listener import ListenerProcess
from harness.plan import Plan
from harness.qemu.accelerator import choose_accelerator
from harness.qemu.arguments import Machine
from harness.qemu.version import qemu_version

if TYPE_CHECKING:
    from harness.guests.snapshot import Snapshot

RESTORED_FROM = 2
"""So many Linux guests of a kind are restored rather than booted: 0.3 s beforehand, and 1 s less of a core for each."""

_ROOT = Path(harness.__file__).parents[1]


class GuestFactory:
    """Knows how each of the bench's guests is made.

    several: whether there is more than one guest in the run; then socket paths must have a `{vm}`.
    Raises ConfigurationError when they have not.
    """

    def __init__(
        self, bench: Bench, host: Host, settings: EngineSettings, rundir: RunDirectory, *, several: bool
    ) -> None:
        self._bench = bench
        self._host = host
        self._listening: ListenerProcess | None = None
        self._hypervisor: Hypervisor | None = None
        self._settings = settings
        self._rundir = rundir
        self._images: dict[str, GuestImage] = {}
        self._disks: dict[str, tuple[Agents, Login]] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._qemu = str(bench.qemu.binary or "qemu-system-x86_64")
        for option, template in (
            ("--service-socket", settings.service_socket),
            ("--event-socket", settings.event_socket),
        ):
            if template is not None and several and "{vm}" not in template:
                raise ConfigurationError(
                    f"{option} {template}: several guests need a socket each",
                    hint="put {vm} into the path, for the guest's name; or --rtc-guests 1 and one kind of guest",
                )

    def prepare(self, guests: Sequence[GuestSpec], with_ntp: Container[str], deadline: Deadline) -> None:
        """Have QEMU and what these guests start from ready; from the cache, if it was made before.

        guests: one for each guest of the run. with_ntp: the names of those that are to have an NTP client.
        Raises ConfigurationError and InfrastructureError for what is missing, or cannot be fetched.
        """
        self._rundir.add_versions({"qemu": qemu_version(self._qemu, deadline)})
        for guest in guests:
            if guest.boots_from_disk:
                login = guest.login or LoginSpec()
                agents = prepare_agents(None, deadline)
                self._disks[guest.name] = agents, login_of(login)
                self._rundir.add_versions({"agent": agents.version})
            elif guest.name not in self._images:
                image = image_of(guest, guest.name in with_ntp, deadline)
                self._images[guest.name] = image
                self._rundir.add_versions(image.versions)
        for name, count in Counter(guest.name for guest in guests).items():
            self._prepare_snapshot(next(guest for guest in guests if guest.name == name), count, deadline)

    def _prepare_snapshot(self, spec: GuestSpec, count: int, deadline: Deadline) -> None:
        """Where it pays and the bench allows. A guest that cannot be restored boots, and the run says so."""
        accelerator = choose_accelerator(self._bench.qemu.accelerator)
        pays = count >= RESTORED_FROM and accelerator == "tcg" and spec.system == "linux" and spec.disk is None
        if not (pays if spec.restore is None else spec.restore):
            return
        from harness.guests.snapshot import prepare_snapshot  # brings asyncio along, and most runs need none

        image = self._images[spec.name]
        machine = Machine(
            binary=self._qemu,
            accelerator=accelerator,
            machine=spec.machine,
            memory=spec.mebibytes,
            cpu=spec.cpu,
            kernel=image.kernel,
            initrd=image.initrd,
            rtc_time=self._bench.rtc.seconds,
            reboot=False,
        )
        try:
            until = deadline.within(spec.boot_timeout)
            self._snapshots[spec.name] = prepare_snapshot(machine, image, spec.hypervisor, None, until)
        except (InfrastructureError, OSError) as error:
            problem = error.problem if isinstance(error, InfrastructureError) else str(error)
            self._rundir.add_note(f"{spec.name}: booted, since no state to restore it from is to be had: {problem}")

    def is_quick(self, spec: GuestSpec) -> bool:
        """Whether a guest of this kind is there without a boot that takes a core for a second."""
        return spec.system == "bare" or spec.name in self._snapshots

    def on(self, listening: ListenerProcess, hypervisor: Hypervisor | None) -> GuestFactory:
        """This factory, with those of the run who listen to its guests, and who has the vRTC of some of them."""
        self._listening, self._hypervisor = listening, hypervisor
        return self

    def parts(self, spec: GuestSpec, number: int) -> GuestParts:
        """What the lane of the `number`th guest of this kind needs."""
        assert self._listening is not None
        on_hv = self._hypervisor if spec.vrtc == "hv" else None
        name = f"{spec.name}-{number}"
        folder = self._rundir.guest(name)
        service = self._socket(self._settings.service_socket, name, folder / "monitor.sock")
        events = self._socket(self._settings.event_socket, name, service)
        nonce = secrets.token_hex(16)
        command = LocalCommand(
            name=name,
            command=self._command(spec, name, folder, service, nonce, on_hv),
            service_socket=service,
            event_socket=events,
            folder=folder,
            make_guest=lambda process, log_folder: self._guest(spec, name, nonce, process, log_folder),
            hypervisor=on_hv,
        )
        return GuestParts(
            name=name,
            folder=folder,
            launch=LocalLaunch(self._host, self._listening, command),
            boot_timeout=spec.boot_timeout,
            window_ns=round(self._bench.service.window * 1e9),
            estimate_tolerance=0,
            details={
                "machine": spec.machine, "vrtc": spec.vrtc, "system": spec.system, "memory": spec.mebibytes,
                "restored": spec.name in self._snapshots,
                "kernel": None if spec.boots_from_disk else self._images[spec.name].versions["kernel"],
                "event_socket": str(events),
            },
            hypervisor=on_hv,
        )

    def _guest(self, spec: GuestSpec, name: str, nonce: str, process: HostProcess, folder: Path) -> Guest:
        console = Console(process.console, folder / "console.log", name=name)
        if spec.boots_from_disk:
            agent, login = self._disks[spec.name]
            return SystemGuest(console, nonce=nonce, hypervisor=spec.hypervisor, agent=agent, login=login)
        snapshot = self._snapshots.get(spec.name)
        if snapshot is not None:
            return RestoredGuest(console, nonce=nonce, saved_nonce=snapshot.nonce, hypervisor=spec.hypervisor)
        kind = AgentGuest if spec.system == "bare" else LinuxGuest
        return kind(console, nonce=nonce, hypervisor=spec.hypervisor)

    @staticmethod
    def _socket(template: str | None, vm: str, default: Path) -> Path:
        return default if template is None else Path(template.replace("{vm}", vm)).absolute()

    def _command(
        self, spec: GuestSpec, name: str, folder: Path, service: Path, nonce: str, hypervisor: Hypervisor | None
    ) -> list[str]:
        image = self._images.get(spec.name)
        bench = self._bench
        command = [
            *("/usr/bin/env", f"PYTHONPATH={_ROOT}", sys.executable, "-m", "harness.devicemodel"),
            *("--cmd_monitor", str(service), "--window", str(bench.service.window)),
            *("--machine", spec.machine, "--memory", str(spec.mebibytes)),
            *("--qemu", self._qemu, "--accelerator", bench.qemu.accelerator),
            *("--trace-log", str(folder / "trace.log"), "--exit-record", str(folder / "exit.json")),
            *("--rtc-change-log", str(folder / "rtc-change.jsonl")),
        ]
        snapshot = self._snapshots.get(spec.name)
        if snapshot is None:
            command += ["--rtc", bench.rtc.base.isoformat()]
        else:
            nonce = snapshot.nonce  # on the command line of the guest that it was
            shown = datetime.datetime.fromtimestamp(snapshot.rtc_time, datetime.timezone.utc)
            command += ["--restore", str(snapshot.file), "--rtc", shown.isoformat()]
            command += ["--rtc-registers", f"{snapshot.register_a:#04x},{snapshot.register_b:#04x}"]
            command += ["--rtc-base", bench.rtc.base.isoformat()]
        if image is not None:
            command += ["--kernel", str(image.kernel), "--append", image.command_line(nonce)]
        if image is not None and image.initrd is not None:
            command += ["--initrd", str(image.initrd)]
        if spec.system != "bare":  # which resets itself where a plan says so; a system that does has crashed
            command.append("--no-reboot")
        if spec.cpu is not None:
            command += ["--cpu", spec.cpu]
        if spec.disk is not None:
            command += ["--disk", str(spec.disk)]
        if hypervisor is not None:
            command += ["--vrtc", spec.vrtc, "--hypervisor", str(hypervisor.socket)]
        return [*command, name]


def guest_for(bench: Bench, plan: Plan) -> GuestSpec:
    """The bench's kind of guest for a plan.

    Raises ConfigurationError where it has none.
    """
    kind = bench.kind_for(plan.machine, plan.vrtc, plan.needed_system)
    if kind is None:
        needs = (("machine", plan.machine), ("vRTC", plan.vrtc), ("system", plan.needed_system))
        wanted = [f"the {what} {value}" for what, value in needs if value]
        raise ConfigurationError(f"the bench {bench.name} has no guest with {' and '.join(wanted)}, as {plan.id} needs")
    return kind


def image_of(spec: GuestSpec, with_ntp: bool, deadline: Deadline) -> GuestImage:
    """What a guest boots that has no system of the user's. Raises as `prepare_image`."""
    if spec.system == "bare":
        return prepare_bare_image(None, deadline)
    return prepare_image(ImageSpec(spec.kernel, spec.initrd, spec.append or "", with_ntp), None, deadline)


def login_of(spec: LoginSpec) -> Login:
    """Who logs in, with his password. Raises ConfigurationError where that is not to be had."""
    password = read_password(spec.password_env, spec.password_file)
    return Login(spec.user, password, spec.login_prompt, spec.password_prompt, spec.shell_prompt)
