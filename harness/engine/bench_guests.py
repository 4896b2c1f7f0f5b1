"""Makes a lane's guest out of a bench on another host: image, launch, agent, login."""

from __future__ import annotations

import secrets
from collections.abc import Container, Sequence
from functools import partial

from harness.bench import Bench, GuestSpec, LoginSpec
from harness.deadline import Deadline
from harness.engine.bench_host import BenchUse
from harness.engine.bench_launch import BenchGuest, BenchLaunch, MakeGuest
from harness.engine.guests import image_of, login_of
from harness.engine.launch import GuestParts
from harness.engine.rundir import RunDirectory
from harness.engine.strategy import Root
from harness.guests.agent_guest import AgentGuest
from harness.guests.console import Console
from harness.guests.image import GuestImage
from harness.guests.linux import LinuxGuest
from harness.guests.login import Login
from harness.guests.ssh_console import open_guest_shell
from harness.guests.system import SystemGuest
from harness.guests.variants import Agents, prepare_agents
from harness.hosts.base import Host

_SLACK = 30.0
"""Seconds on top of a bench's own, for what is brought to the host and for who listens there."""


class BenchFactory:
    """Knows how each of the bench's guests is made; what `GuestFactory` is for guests of this machine."""

    def __init__(self, bench: Bench, root: Root[BenchUse], rundir: RunDirectory) -> None:
        self._bench = bench
        self._root = root
        self._rundir = rundir
        self._images: dict[str, GuestImage] = {}
        self._systems: dict[str, tuple[Agents, Login]] = {}

    def prepare(self, guests: Sequence[GuestSpec], with_ntp: Container[str], deadline: Deadline) -> None:
        """Have ready what these guests start from, or what is brought into them. Raises as `GuestFactory.prepare`."""
        for guest in guests:
            if guest.own_system and guest.name not in self._systems:
                agents = prepare_agents(None, deadline)
                self._systems[guest.name] = agents, login_of(guest.login or LoginSpec())
                self._rundir.add_versions({"agent": agents.version})
            elif not guest.own_system and guest.name not in self._images:
                image = self._images[guest.name] = image_of(guest, guest.name in with_ntp, deadline)
                self._rundir.add_versions(image.versions)

    def is_quick(self, spec: GuestSpec) -> bool:
        """Whether its boot takes none of this machine's processors."""
        return True

    def parts(self, spec: GuestSpec, number: int) -> GuestParts:
        """What the lane of the `number`th guest of this kind needs."""
        bench, name = self._bench, f"{spec.name}-{number}"
        folder = self._rundir.guest(name)
        nonce = secrets.token_hex(16)
        image = self._images.get(spec.name)
        details = {
            "vrtc": spec.vrtc,
            "system": spec.system,
            "service": bench.service.judged,
            "host": host_of(bench),
            "vm_name": spec.vm_name or name,
            "rehearsal": _OUR_DEVICE_MODEL in getattr(spec.device_model, "arguments", ()),
            "kernel": None if image is None else image.versions["kernel"],
        }
        about = BenchGuest(name, spec, bench, folder, nonce, image, self._maker(spec, nonce), details)
        host = bench.host
        boots = getattr(host, "boot_timeout", 0.0)
        return GuestParts(
            name=name,
            folder=folder,
            launch=BenchLaunch(self._root, about, self._rundir),
            boot_timeout=boots + spec.boot_timeout + bench.quiet.timeout + bench.quiet.seconds + _SLACK,
            window_ns=round(bench.service.window * 1e9),
            estimate_tolerance=1,
            details=details,
            witness="witness.jsonl",
            read_backs=False,  # an opinion of QEMU's RTC on ours, and there is no QEMU on a bench
        )

    def _maker(self, spec: GuestSpec, nonce: str) -> MakeGuest:
        def make(console: Console, host: Host) -> AgentGuest:
            if spec.own_system:
                agent, login = self._systems[spec.name]
                wanted, by_ssh = spec.agent, None
                if wanted.over == "ssh" and wanted.ssh is not None and not spec.only_by_ssh:
                    by_ssh = partial(open_guest_shell, wanted.ssh, host)
                return SystemGuest(
                    console,
                    nonce=nonce,
                    hypervisor=spec.hypervisor,
                    agent=agent,
                    login=login,
                    variant=wanted.variant,
                    by_ssh=by_ssh,
                    logged_in=spec.only_by_ssh,
                )
            kind = AgentGuest if spec.system == "bare" else LinuxGuest
            return kind(console, nonce=nonce, hypervisor=spec.hypervisor)

        return make


_OUR_DEVICE_MODEL = "harness.devicemodel.acrn_dm"
"""What stands for acrn-dm in a rehearsal has none of acrn-dm's own defects."""


def host_of(bench: Bench) -> str:
    """A bench's host, as run.json names it."""
    host = bench.host
    return f"ssh {host.address}" if host.kind == "ssh" else host.kind
