"""Tries everything that a bench needs, link by link, and says of each what is wrong and how it is mended."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bench import Bench, NestedHostSpec, SshHostSpec
from harness.deadline import Deadline
from harness.errors import BenchError
from harness.hosts.base import Host
from harness.hosts.check_step import CheckStep, StepFailed, Steps, failed

if TYPE_CHECKING:
    from harness.hosts.ssh_config import Target

SWITCH_TIMEOUT = 60.0
_BETWEEN_TRIES = 0.3


def steps(bench: Bench) -> Iterator[CheckStep]:
    """Every step of the way to the bench's guests, as far as it can be gone; no guest is started.

    A host that is off is switched on, and off again at the end. Nothing is tried that needs what has failed.
    """
    from harness.hosts.check_guests import guest_steps

    with contextlib.ExitStack() as stack:
        try:
            if bench.host.kind == "local":
                yield _this_machine(bench)
                return
            if bench.reservation is not None:
                yield _reserved(bench, stack)
            boot_timeout = 0.0
            if bench.power is not None:
                step, switched_on = _powered(bench, stack)
                yield step
                boot_timeout = bench.host.boot_timeout if switched_on else 0.0
            if isinstance(bench.host, NestedHostSpec):
                step, host = _nested(bench.host, stack)
                yield step
            else:
                assert isinstance(bench.host, SshHostSpec)
                yield from _ssh(bench.host, boot_timeout)
                step, host = _session(bench.host, stack)
                yield step
            for guest in bench.guests:
                yield from guest_steps(guest, bench, host)
            ending = stack.pop_all()
            try:
                ending.close()
            except BenchError as error:
                raise failed("given back", error) from error
            yield CheckStep("given back", True, "nothing is left on the host")
        except StepFailed as end:
            yield end.step


def _this_machine(bench: Bench) -> CheckStep:
    from harness.qemu.version import find_qemu

    try:
        found = find_qemu(str(bench.qemu.binary or "qemu-system-x86_64"))
    except BenchError as error:
        raise failed("QEMU", error) from error
    return CheckStep("QEMU", True, found)


def _reserved(bench: Bench, stack: contextlib.ExitStack) -> CheckStep:
    from harness.hosts.reservation import identity, reservation_for

    try:
        identity(bench)  # what a lock is named after
    except BenchError as error:
        raise failed("SSH configuration", error) from error
    try:
        stack.enter_context(reservation_for(bench))
    except BenchError as error:
        raise failed("reservation", error) from error
    return CheckStep("reservation", True, f"{bench.name} is free")


def _powered(bench: Bench, stack: contextlib.ExitStack) -> tuple[CheckStep, bool]:
    """And whether it was switched on."""
    from harness.hosts.power import power_for

    timeout = getattr(bench.power, "timeout", SWITCH_TIMEOUT) + getattr(bench.power, "cool_down", 0.0)
    try:
        power = power_for(bench)
        was_on = power.is_on()
        if was_on is False:
            stack.callback(lambda: power.off(Deadline(timeout)))
            power.on(Deadline(timeout))
    except BenchError as error:
        raise failed("power", error) from error
    told = {True: "on", False: "it was off: switched on for this check", None: "nobody can say whether it is on"}
    return CheckStep("power", True, told[was_on]), was_on is False


# -- the way by SSH ------------------------------------------------------------------------------------------------


def _ssh(spec: SshHostSpec, boot_timeout: float) -> Steps:
    """Name, port, host key and login, of each host on the way."""
    from harness.hosts import ssh_link
    from harness.hosts.ssh_config import resolve

    step = "SSH configuration"
    with contextlib.ExitStack() as stack:
        try:
            target = resolve(spec)
            yield CheckStep(step, True, target.shown)
            make = None
            for hop in (*target.jumps, target):
                of = f" of {hop.name}" if target.jumps else ""
                if make is None and hop.proxy_command is None:
                    yield _resolved(f"name{of}", hop)
                step = f"port{of}"
                transport = _reached(step, hop, make, stack, Deadline(boot_timeout))
                yield CheckStep(step, True, f"{hop.address} port {hop.port} answers: {transport.remote_version}")
                step = f"host key{of}"
                yield CheckStep(step, True, ssh_link.check_host_key(hop, transport))
                step = f"login{of}"
                by = ssh_link.authenticate(hop, transport, Deadline(hop.connect_timeout))
                yield CheckStep(step, True, f"as {hop.user}, by {by}")
                make = ssh_link.forwarder(transport)
        except BenchError as error:
            raise failed(step, error) from error


def _resolved(step: str, hop: Target) -> CheckStep:
    try:
        found = socket.getaddrinfo(hop.address, hop.port, type=socket.SOCK_STREAM)
    except OSError as error:
        problem = f"{hop.address} has no address: {error.strerror or error}"
        hint = "is it written right? An IP address will do as well, or an alias of ssh_config with a HostName"
        raise StepFailed(CheckStep(step, False, problem, hint)) from error
    return CheckStep(step, True, f"{hop.address} is {', '.join(sorted({str(entry[4][0]) for entry in found}))}")


def _reached(step: str, hop: Target, make: Any, stack: contextlib.ExitStack, boot: Deadline) -> Any:
    """The connection, nobody logged in yet."""
    from harness.hosts import ssh_link

    while True:
        deadline = Deadline(hop.connect_timeout)
        try:
            stream = ssh_link.reach(hop, deadline, make, stack)
            transport = ssh_link.negotiated(hop, stream, deadline)
        except (OSError, ssh_link.NotReached) as error:
            if boot.expired:
                raise StepFailed(_unreached(step, hop, error)) from error
            time.sleep(min(_BETWEEN_TRIES, boot.remaining))  # that a machine is up can only be tried
        else:
            stack.callback(transport.close)
            return transport


def _unreached(step: str, hop: Target, error: Exception) -> CheckStep:
    if isinstance(error, BenchError):
        hint = "is it SSH's port? Something else may listen there, or the host is still booting"
        return CheckStep(step, False, error.problem, hint)
    where = f"{hop.address} port {hop.port}"
    if isinstance(error, ConnectionRefusedError):
        hint = "the host is up and nobody listens there: is its sshd running (systemctl status ssh), is the port right?"
        return CheckStep(step, False, f"{where} refuses the connection", hint)
    if isinstance(error, TimeoutError):
        problem = f"{where} did not answer within {hop.connect_timeout:.0f} s"
        return CheckStep(step, False, problem, "is the host on, and does a firewall let the port through? ping it")
    hint = "is the host on, and is there a way to its network from here?"
    return CheckStep(step, False, f"{where}: {getattr(error, 'strerror', None) or error}", hint)


def _session(spec: SshHostSpec, stack: contextlib.ExitStack) -> tuple[CheckStep, Host]:
    """Python, the session's folder and sudo: what the harness brings along runs."""
    from harness.hosts.ssh import SshHost
    from harness.hosts.ssh_session import Unfit

    try:
        host = stack.enter_context(SshHost(spec))
    except BenchError as error:
        raise failed(error.what if isinstance(error, Unfit) else "session", error) from error
    facts = host.facts
    who = "root" if facts["user"] == 0 else f"user {facts['user']}"
    by_sudo = " by sudo" if spec.sudo else ""
    detail = f"Python {facts['python']}, folder {host.folder}, commands run as {who}{by_sudo}"
    return CheckStep("python, folder, sudo", True, detail), host


def _nested(spec: NestedHostSpec, stack: contextlib.ExitStack) -> tuple[CheckStep, Host]:
    from harness.hosts.nested import NestedHost

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rtc-bench-check-")))
    started = Deadline(0)
    try:
        host = stack.enter_context(NestedHost(spec, folder))
    except BenchError as error:
        raise failed("nested machine", error) from error
    return CheckStep("nested machine", True, f"up after {started.elapsed:.1f} s, folder {host.folder}"), host
