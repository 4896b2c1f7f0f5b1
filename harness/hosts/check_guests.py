"""What a bench's guests need of its host: device model, ACRN's device, consoles."""

from __future__ import annotations

from collections.abc import Iterator

from harness.bench import (
    ACRN_SIGNATURE,
    Bench,
    GuestSpec,
    PtyConsoleSpec,
    RunningSpec,
    ScriptSpec,
    SerialConsoleSpec,
    SocketConsoleSpec,
)
from harness.deadline import Deadline
from harness.errors import BenchError
from harness.hosts.base import Host
from harness.hosts.check_step import CheckStep, failed
from harness.hosts.consoles import open_console

_TIMEOUT = 15.0
_THERE_BY_NOW = 2.0
"""Seconds for the console of a guest that runs."""

_HSM = "/dev/acrn_hsm"
# Some shells' `command -v` takes any path that exists for one that can be started.
_FIND = 'case "$1" in */*) [ -f "$1" ] && [ -x "$1" ] && printf "%s\\n" "$1";; *) command -v -- "$1";; esac'
_USABLE = '[ -e "$1" ] || { echo missing; exit; }; [ -r "$1" ] && [ -w "$1" ] && echo good || echo forbidden'


def guest_steps(guest: GuestSpec, bench: Bench, host: Host) -> Iterator[CheckStep]:
    """The steps of one kind of guest. Raises StepFailed."""
    model = guest.device_model
    of = f" of {guest.name}"
    if isinstance(model, RunningSpec):
        yield _usable(f"monitor socket{of}", host, model.monitor, "is its acrn-dm running, with --cmd_monitor PATH?")
    elif model is not None:
        hint = (
            "is the launch script there, and is it executable (chmod +x)?"
            if isinstance(model, ScriptSpec)
            else "install ACRN's device model there, or give its whole path as `program`"
        )
        yield _program(f"device model{of}", host, model.program, hint)
    if ACRN_SIGNATURE in guest.hypervisor or bench.service.judged == "hsm":
        hint = (
            "is this ACRN's Service VM (dmesg | grep 'Hypervisor detected'), its kernel built with CONFIG_ACRN_HSM,"
            " and the user root (sudo: true)?"
        )
        yield _usable(f"{_HSM}{of}", host, _HSM, hint)
    yield _console(f"console{of}", guest, host)


def _said(step: str, host: Host, script: str, argument: str) -> str:
    try:
        result = host.run(["sh", "-c", script, "sh", argument], Deadline(_TIMEOUT), check=False)
    except BenchError as error:
        raise failed(step, error) from error
    return result.output.decode("utf-8", "replace").strip()


def _program(step: str, host: Host, program: str, hint: str) -> CheckStep:
    found = _said(step, host, _FIND, program)
    return CheckStep(step, bool(found), found or f"there is no {program} that can be started on {host.name}", hint)


def _usable(step: str, host: Host, path: str, hint: str) -> CheckStep:
    said = _said(step, host, _USABLE, path)
    if said == "good":
        return CheckStep(step, True, path)
    problem = f"there is no {path} on {host.name}" if said == "missing" else f"{path} may not be used by the user there"
    return CheckStep(step, False, problem, hint)


def _console(step: str, guest: GuestSpec, host: Host) -> CheckStep:
    console = guest.console
    runs = isinstance(guest.device_model, RunningSpec)
    if isinstance(console, SocketConsoleSpec | PtyConsoleSpec) and not runs:
        return CheckStep(step, True, f"kind {console.kind}: it is there when the guest runs; not tried")
    if not isinstance(console, SocketConsoleSpec | PtyConsoleSpec | SerialConsoleSpec):
        return CheckStep(step, True, "the device model's own; not tried")
    try:
        channel = open_console(console, host, None, guest.vm_name or guest.name, Deadline(_THERE_BY_NOW))
    except BenchError as error:
        raise failed(step, error) from error
    channel.close()
    return CheckStep(step, True, f"kind {console.kind}: opens")
