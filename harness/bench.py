"""Bench files: which host, which QEMU, which guests; YAML to frozen typed objects, all problems told at once.

`python -m harness.bench check FILE` checks one; `python -m harness.bench schema` prints the JSON Schema.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from harness.errors import EXIT_CONFIGURATION, ConfigurationError
from harness.yamlfile import load_yaml_model

VERSION = 1
DEFAULT_BENCH = Path(__file__).resolve().parent.parent / "fixtures" / "benches" / "qemu.yaml"

DEFAULT_MEMORY = {"linux": 96, "bare": 8, "disk": 512}
"""MiB, by the guest's system; disk: one of the user's, which starts from its own disk."""

LOGIN_PROMPT = r"login: *$"
PASSWORD_PROMPT = r"[Pp]assword[^\r\n:]*: *$"
SHELL_PROMPT = r"[#$%>](?: |\x1b\[[0-9;?]*[A-Za-z])*$"
"""What most systems print, at the end of what they have printed so far; shells may send the terminal codes after it."""

HV_LAST_YEAR = 2037
"""The hypervisor's vRTC counts in 32 bits."""

TCG_SIGNATURE = "TCGTCGTCGTCG"
KVM_SIGNATURE = "KVMKVMKVM"


def _existing_file(value: Path, info: ValidationInfo) -> Path:
    """The file, absolute; relative names start at the bench file's folder."""
    directory = Path((info.context or {}).get("directory", "."))
    try:
        path = (directory / value.expanduser()).absolute()
        mode = path.stat().st_mode  # not opened: that would wait for ever at a pipe
    except FileNotFoundError:
        raise ValueError(f"no such file: {path}") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{value} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path} is a folder; should be a file")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} may not be read by this user")
    return path


def _existing_program(value: Path, info: ValidationInfo) -> Path:
    """A program by its path, or by a bare name that is looked for beside the bench file and in PATH."""
    directory = Path((info.context or {}).get("directory", "."))
    if value.name == str(value) and not (directory / value).exists():
        found = shutil.which(value)
        if found is None:
            raise ValueError(f"no program called {value} in PATH")
        return Path(found).absolute()
    path = _existing_file(value, info)
    if not os.access(path, os.X_OK):
        raise ValueError(f"{path} is not executable")
    return path


KernelName = Literal["debian-cloud", "debian-standard", "debian-rt"]
"""Kernels that are fetched by name: for virtual machines, the standard one, the real-time one."""


def _kernel(value: KernelName | Path, info: ValidationInfo) -> KernelName | Path:
    return _existing_file(value, info) if isinstance(value, Path) else value


ExistingFile = Annotated[Path, AfterValidator(_existing_file)]
Kernel = Annotated[KernelName | Path, Field(union_mode="left_to_right"), AfterValidator(_kernel)]
ExistingProgram = Annotated[Path, AfterValidator(_existing_program)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LocalHost(_Part):
    """This machine; the device model is ours, around QEMU."""

    kind: Literal["local"]


# One member so far. With a second one it becomes a union told apart by `kind`: `Field(discriminator="kind")`.
Host = LocalHost


class QemuSpec(_Part):
    """Which QEMU, and how it runs guests."""

    binary: Annotated[
        ExistingProgram | None, Field(description="the path of qemu-system-x86_64, its name in PATH, or null")
    ] = None
    accelerator: Annotated[
        Literal["auto", "tcg", "kvm"],
        Field(description="auto (KVM only where it works), tcg or kvm"),
    ] = "auto"


class ServiceSpec(_Part):
    """The event service under test."""

    window: Annotated[
        float,
        Field(ge=0.1, le=60, description="a number of seconds from 0.1 to 60 (ACRN's settle window: 1.0)"),
    ] = 1.0


class RtcSpec(_Part):
    """What the guests' RTCs show when they start."""

    base: Annotated[
        datetime.datetime,
        Field(
            description="a time in UTC in the years 1970 to 2099, to the second, such as 2024-06-15T12:00:00Z"
        ),
    ] = datetime.datetime(2024, 6, 15, 12, tzinfo=datetime.timezone.utc)

    @field_validator("base")
    @classmethod
    def _as_utc(cls, value: datetime.datetime) -> datetime.datetime:
        utc = datetime.timezone.utc
        value = value.astimezone(utc) if value.tzinfo else value.replace(tzinfo=utc)
        if value.microsecond or not 1970 <= value.year <= 2099:
            raise ValueError(f"is {value.isoformat()}; should be a whole second in the years 1970 to 2099")
        return value

    @property
    def seconds(self) -> int:
        """`base` in whole seconds since 1970 UTC."""
        return int(self.base.timestamp())


def _expression(value: str) -> str:
    try:
        re.compile(value.encode())
    except (re.error, UnicodeEncodeError) as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from None
    return value


Expression = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_expression)]


class LoginSpec(_Part):
    """Who logs in on the serial console of a guest with its own disk image. The password itself stands in no bench."""

    user: Annotated[
        str, Field(pattern=r"^[!-~]{1,64}$", description="a user who is root, or becomes it by sudo")
    ] = "root"
    password_env: Annotated[
        str | None,
        Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="the environment variable with the password, or null"),
    ] = None
    password_file: Annotated[
        ExistingFile | None,
        Field(description="the file with the password in its first line, which its owner alone may read, or null"),
    ] = None
    login_prompt: Annotated[
        Expression, Field(description="a regular expression: what asks for the user")
    ] = LOGIN_PROMPT
    password_prompt: Annotated[
        Expression, Field(description="a regular expression: what asks for the password")
    ] = PASSWORD_PROMPT
    shell_prompt: Annotated[
        Expression, Field(description="a regular expression: what the shell shows when it is ready")
    ] = SHELL_PROMPT

    @model_validator(mode="after")
    def _one_password(self) -> LoginSpec:
        if self.password_env is not None and self.password_file is not None:
            raise ValueError("has a password_env and a password_file; name one of them")
        return self


class GuestSpec(_Part):
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
        Field(description="a mapping with user, password_env or password_file, for a guest that starts from its disk"),
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
        if self.login is not None and not self.boots_from_disk:
            raise ValueError("has a login but does not start from a disk; name a disk and no kernel, or leave it out")
        return self

    @property
    def boots_from_disk(self) -> bool:
        """Whether the guest is the user's own system: its boot loader starts it, and somebody has to log in."""
        return self.disk is not None and self.kernel is None

    @property
    def mebibytes(self) -> int:
        """The guest's memory."""
        return DEFAULT_MEMORY["disk" if self.boots_from_disk else self.system] if self.memory is None else self.memory


class Bench(_Part):
    """A host, how guests run there, and the guests."""

    version: Annotated[Literal[1], Field(description="the format of the file: 1")]
    name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9-]{0,63}$",
            description="a name of a-z, 0-9, '-', at most 64 characters",
        ),
    ]
    host: Annotated[Host, Field(description="a mapping with `kind: local`")]
    qemu: Annotated[QemuSpec, Field(description="a mapping with binary, accelerator")] = QemuSpec()
    service: Annotated[ServiceSpec, Field(description="a mapping with window")] = ServiceSpec()
    rtc: Annotated[RtcSpec, Field(description="a mapping with base")] = RtcSpec()
    parallel: Annotated[
        int,
        Field(ge=1, le=256, description="a whole number from 1 to 256: guests at once"),
    ] = 2
    guests: Annotated[
        tuple[GuestSpec, ...],
        Field(min_length=1, description="a list of guests, at least one, each with a name"),
    ]

    _file: Path | None = PrivateAttr(default=None)

    @field_validator("guests")
    @classmethod
    def _names_once(cls, guests: tuple[GuestSpec, ...]) -> tuple[GuestSpec, ...]:
        names = [guest.name for guest in guests]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {', '.join(twice)} is given to more than one guest")
        return guests

    @field_validator("guests")
    @classmethod
    def _clocks_run(cls, guests: tuple[GuestSpec, ...], info: ValidationInfo) -> tuple[GuestSpec, ...]:
        """The hypervisor's clock stands still for ever where it begins outside the years that it knows (ACRN.md)."""
        rtc = info.data.get("rtc")
        on_hv = [guest.name for guest in guests if guest.vrtc == "hv"]
        if on_hv and isinstance(rtc, RtcSpec) and not (rtc.seconds > 0 and rtc.base.year <= HV_LAST_YEAR):
            raise ValueError(
                f"{', '.join(on_hv)}: with vrtc hv, rtc.base should lie after 1970-01-01T00:00:00Z and not after"
                f" {HV_LAST_YEAR}; it is {rtc.base:%Y-%m-%dT%H:%M:%SZ}"
            )
        return guests

    def kind_for(self, machine: str | None, vrtc: str | None, system: str | None = None) -> GuestSpec | None:
        """The first kind of guest with this machine, vRTC and system (None: any); None where there is none.

        Where any system will do a bare guest goes first: it is there at once and takes next to nothing.
        """
        for running in ("bare", "linux") if system is None else (system,):
            for guest in self.guests:
                if machine in {None, guest.machine} and vrtc in {None, guest.vrtc} and guest.system == running:
                    return guest
        return None

    @property
    def file(self) -> Path | None:
        """The file that the bench was read from."""
        return self._file


def load_bench(path: Path) -> Bench:
    """The bench that a file describes.

    Raises FileProblems (a ConfigurationError) whose `problems` has all that is wrong with it.
    """
    bench = load_yaml_model(path, Bench)
    bench._file = path
    return bench


def _check(files: Sequence[Path]) -> int:
    status = 0
    for path in files:
        try:
            bench = load_bench(path)
        except ConfigurationError as error:
            print(error, file=sys.stderr)
            status = EXIT_CONFIGURATION
        else:
            guests = ", ".join(f"{kind.name} ({kind.machine}, {kind.vrtc}, {kind.system})" for kind in bench.guests)
            print(f"{path}: good: bench {bench.name} on a {bench.host.kind} host; guests {guests}")
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.bench", description="Bench files.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say all that is wrong with bench files")
    check.add_argument("files", metavar="FILE", type=Path, nargs="+")
    commands.add_parser("schema", help="print the JSON Schema of bench files, for editors")
    options = parser.parse_args(arguments)
    if options.command == "schema":
        print(json.dumps(Bench.model_json_schema(), indent=2))
        return 0
    return _check(options.files)


if __name__ == "__main__":
    sys.exit(main())
