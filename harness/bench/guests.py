"""The kinds of guest that a bench runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from harness.bench.device_models import (
    AgentSpec,
    ConsoleSpec,
    DeviceModelSpec,
    RunningSpec,
    StdioConsoleSpec,
    console_is_shared,
)
from harness.bench.values import ExistingFile, Expression, Part, PasswordFile, PasswordVariable, User, existing_file

DEFAULT_MEMORY = {"linux": 96, "bare": 8, "disk": 512}
"""MiB, by the guest's system; disk: one of the user's, which starts from its own disk."""

LOGIN_PROMPT = r"login: *$"
PASSWORD_PROMPT = r"[Pp]assword[^\r\n:]*: *$"
SHELL_PROMPT = r"[#$%>](?: |\x1b\[[0-9;?]*[A-Za-z])*$"
"""What most systems print, at the end of what they have printed so far; shells may send the terminal codes after it."""

TCG_SIGNATURE = "TCGTCGTCGTCG"
KVM_SIGNATURE = "KVMKVMKVM"
ACRN_SIGNATURE = "ACRNACRNACRN"

KernelName = Literal["debian-cloud", "debian-standard", "debian-rt"]
"""Kernels that are fetched by name: for virtual machines, the standard one, the real-time one."""


def _kernel(value: KernelName | Path, info: ValidationInfo) -> KernelName | Path:
    return existing_file(value, info) if isinstance(value, Path) else value


Kernel = Annotated[KernelName | Path, Field(union_mode="left_to_right"), AfterValidator(_kernel)]


class LoginSpec(Part):
    """Who logs in on the serial console of a guest with a system of its own. The password itself stands in no bench."""

    user: Annotated[User, Field(description="a user who is root, or becomes it by sudo")] = "root"
    password_env: PasswordVariable = None
    password_file: PasswordFile = None
    login_prompt: Annotated[
        Expression, Field(description="a regular expression: what asks for the user")
    ] = LOGIN_PROMPT
    password_prompt: Annotated[
        Expression, Field(description="a regular expression: what asks for the password")
    ] = PASSWORD_PROMPT
    shell_prompt: Annotated[
        Expression, Field(description="a regular expression: what the shell shows when it is ready")
    ] = SHELL_PROMPT


class GuestSpec(Part):
    """One kind of guest; the engine starts as many of it as run at once."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$",
            description="a name of a-z, 0-9 and '-', at most 32 characters, no '-' at its ends",
        ),
    ]
    machine: Annotated[Literal["pc", "q35"], Field(description="QEMU's machine: pc or q35")] = "pc"
    memory: Annotated[
        int | None,
        Field(
            ge=8,
            le=1048576,
            description="a whole number of MiB from 8 to 1048576, or null (linux 96, disk 512, bare 8)",
        ),
    ] = None
    cpu: Annotated[
        str | None,
        Field(pattern=r"^[!-~]{1,500}$", description="QEMU's -cpu, such as 'max' or 'host,-x2apic', or null"),
    ] = None
    hypervisor: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[ -~]{1,12}$")], ...],
        Field(
            min_length=1,
            description="a list of CPUID signatures, 1 to 12 characters each, one of which a guest must show",
        ),
    ] = (TCG_SIGNATURE, KVM_SIGNATURE)
    kernel: Annotated[
        Kernel | None,
        Field(
            description="debian-cloud, debian-standard, debian-rt, the path of a kernel of your own (./NAME beside the"
            " bench file), or null (debian-cloud)"
        ),
    ] = None
    initrd: Annotated[ExistingFile | None, Field(description="an initramfs for `kernel`, or null")] = None
    append: Annotated[
        str | None,
        Field(pattern=r"^[ -~]{0,2000}$", description="more kernel arguments, in one line, or null"),
    ] = None
    disk: Annotated[
        ExistingFile | None,
        Field(description="a disk image, never written to, which is started from where no kernel is named; or null"),
    ] = None
    login: Annotated[
        LoginSpec | None,
        Field(description="a mapping with user, password_env or password_file, for a guest with a system of its own"),
    ] = None
    boot_timeout: Annotated[
        float,
        Field(ge=1, le=3600, description="a number of seconds from 1 to 3600 in which the guest must answer"),
    ] = 120.0
    vrtc: Annotated[
        Literal["dm", "hv"],
        Field(description="dm (the device model's virtual RTC) or hv (the hypervisor's: real-time VMs have it)"),
    ] = "dm"
    system: Annotated[
        Literal["linux", "bare"],
        Field(description="linux, or bare (the agent alone, without an operating system; it may reset itself)"),
    ] = "linux"
    restore: Annotated[
        bool | None,
        Field(
            description="true (it goes on from the saved state of one that was booted once), false (it boots), or null"
            " (restored where several of its kind run, by TCG)"
        ),
    ] = None
    device_model: Annotated[
        DeviceModelSpec | None,
        Field(description="a mapping with `kind: acrn-dm`, script or running: what runs the guest on the host"),
    ] = None
    vm_name: Annotated[
        str | None,
        Field(
            pattern=r"^[!-~]{1,64}$",
            description="the name by which events call the guest, or null (the name that it has in the run)",
        ),
    ] = None
    console: Annotated[
        ConsoleSpec, Field(description="a mapping with `kind: stdio`, serial, socket or pty: where its console is")
    ] = StdioConsoleSpec()
    agent: Annotated[
        AgentSpec, Field(description="a mapping with variant, over, ssh: which agent it gets, and how")
    ] = AgentSpec()
    ending: Annotated[
        Literal["destroy", "inside", "signal"] | None,
        Field(
            description="destroy (by the monitor socket), inside (the guest shuts itself down), signal (SIGTERM to the"
            " device model), or null (with vrtc dm destroy, with hv inside)"
        ),
    ] = None

    @model_validator(mode="after")
    def _fits(self) -> GuestSpec:
        if self.initrd is not None and self.kernel is None:
            raise ValueError(
                "has an initrd but no kernel; name both, or neither to use the project's own image"
            )
        foreign = [key for key in ("kernel", "initrd", "append", "disk") if getattr(self, key) is not None]
        if self.system == "bare" and foreign:
            raise ValueError(f"has {' and '.join(foreign)}, which a bare guest cannot have")
        if self.restore and (self.system == "bare" or self.disk is not None):
            raise ValueError("cannot restore a bare guest, nor one with a disk; leave restore out")
        if self.boots_from_disk and self.append is not None:
            raise ValueError("has an append but no kernel, and starts from its disk; name a kernel, or leave it out")
        return self

    @property
    def boots_from_disk(self) -> bool:
        """Whether the guest is the user's own system: its boot loader starts it, and somebody has to log in."""
        return self.disk is not None and self.kernel is None

    @property
    def own_system(self) -> bool:
        """Whether the guest starts a system of the user's, into which somebody has to log in, and not our image."""
        if self.device_model is None:
            return self.boots_from_disk
        return isinstance(self.device_model, RunningSpec) or not self.device_model.uses("kernel")

    @property
    def ends_by(self) -> Literal["destroy", "inside", "signal"]:
        """`ending`, or what its vRTC asks for: acrn-dm refuses to destroy a real-time VM."""
        return self.ending or ("inside" if self.vrtc == "hv" else "destroy")

    @property
    def only_by_ssh(self) -> bool:
        """Whether there is no other way to it: it runs already, and its console is somebody else's terminal."""
        return isinstance(self.device_model, RunningSpec) and self.agent.over == "ssh" and self.console.kind == "stdio"

    @property
    def alone(self) -> bool:
        """Whether only one of its kind can run at once: it has the one name, or the one console, that there is."""
        if self.device_model is None:
            return False
        return self.vm_name is not None or not self.device_model.named or console_is_shared(self.console)

    @property
    def mebibytes(self) -> int:
        """The guest's memory."""
        return DEFAULT_MEMORY["disk" if self.boots_from_disk else self.system] if self.memory is None else self.memory
