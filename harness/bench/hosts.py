"""The hosts of a bench: this machine, one that SSH reaches, one that QEMU makes of the user's ACRN image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.bench.values import (
    Address,
    Argument,
    ExistingFile,
    ExistingProgram,
    Expression,
    HostPath,
    Part,
    PasswordFile,
    PasswordVariable,
    Port,
    PrivateFile,
    Program,
    PublicKey,
    User,
    Variable,
)

BootTimeout = Annotated[
    float, Field(ge=1, le=3600, description="a number of seconds from 1 to 3600: from power on until SSH answers")
]


class LocalHostSpec(Part):
    """This machine; the device model is ours, around QEMU."""

    kind: Annotated[Literal["local"], Field(description="'local'")]


class SshLogin(Part):
    """Who logs in by SSH, how he proves it, and how the other side does."""

    user: Annotated[User | None, Field(description="the user, or null (what ssh_config says, else this one)")] = None
    identity: Annotated[
        PrivateFile | None,
        Field(description="the file of a private key (mode 0600), or null (ssh_config's, the agent's, ~/.ssh/id_*)"),
    ] = None
    password_env: PasswordVariable = None
    password_file: PasswordFile = None
    key_passphrase_env: Annotated[
        Variable | None, Field(description="the name of the environment variable with the key's passphrase, or null")
    ] = None
    known_hosts: Annotated[
        ExistingFile | None, Field(description="the file with the keys of known hosts, or null (~/.ssh/known_hosts)")
    ] = None
    host_key: Annotated[
        PublicKey | None,
        Field(description="the host's public key in one line, 'ssh-ed25519 AAAA...', in place of known_hosts; or null"),
    ] = None
    connect_timeout: Annotated[
        float, Field(ge=1, le=300, description="a number of seconds from 1 to 300: for one attempt to log in")
    ] = 10.0


class SshAccess(SshLogin):
    """How a host is reached by SSH, and what is there."""

    ssh_config: Annotated[
        ExistingFile | None, Field(description="a file like ~/.ssh/config, or null (that one, where there is one)")
    ] = None
    proxy_jump: Annotated[
        str | None,
        Field(
            pattern=r"^[!-~]{1,500}$",
            description="the hosts to go through, '[USER@]HOST[:PORT],...', or null (what ssh_config says)",
        ),
    ] = None
    sudo: Annotated[bool, Field(description="true (commands are started by `sudo -n`) or false")] = False
    python: Annotated[Program, Field(description="the Python there, 3.10 or newer: a name in its PATH, or a path")] = (
        "python3"
    )
    folder: Annotated[
        HostPath | None,
        Field(description="an absolute path there, below which the session's folder is made, or null (/run or /tmp)"),
    ] = None

    def at(self, address: str, *, port: int | None = None, boot_timeout: float = 300.0) -> SshHostSpec:
        """The host that is reached so at an address."""
        return SshHostSpec.model_construct(
            **dict(self), kind="ssh", address=address, port=port, boot_timeout=boot_timeout
        )


class SshHostSpec(SshAccess):
    """A machine that SSH reaches: a Service VM with acrn-dm, or one that rehearses it."""

    kind: Annotated[Literal["ssh"], Field(description="'ssh'")]
    address: Annotated[Address, Field(description="the host's name, its IP address, or an alias of ssh_config")]
    port: Annotated[Port | None, Field(description="a port from 1 to 65535, or null (ssh_config's, else 22)")] = None
    boot_timeout: BootTimeout = 300.0


class NestedHostSpec(Part):
    """An ACRN image of the user's, which QEMU boots with nested VMX on this machine and SSH reaches then."""

    kind: Annotated[Literal["nested"], Field(description="'nested'")]
    image: Annotated[
        ExistingFile | None,
        Field(description="the disk image with ACRN and its Service VM (never written to), or null (`kernel` boots)"),
    ] = None
    format: Annotated[
        Literal["qcow2", "raw"] | None,
        Field(description="qcow2, raw, or null (by the image's name: .qcow2, .raw or .img)"),
    ] = None
    memory: Annotated[
        int, Field(ge=256, le=1048576, description="a whole number of MiB from 256 to 1048576: of the whole machine")
    ] = 4096
    processors: Annotated[int, Field(ge=1, le=256, description="a whole number from 1 to 256: of the machine")] = 4
    accelerator: Annotated[
        Literal["kvm", "tcg"], Field(description="kvm (ACRN needs it), or tcg (for what is no ACRN: rehearsals)")
    ] = "kvm"
    qemu: Annotated[
        ExistingProgram | None, Field(description="the path of qemu-system-x86_64, its name in PATH, or null")
    ] = None
    ovmf: Annotated[ExistingFile | None, Field(description="a UEFI firmware file, or null (QEMU's BIOS)")] = None
    arguments: Annotated[
        tuple[Argument, ...], Field(description="a list of more arguments for QEMU, such as ['-device', 'nvme,...']")
    ] = ()
    kernel: Annotated[
        ExistingFile | None, Field(description="a kernel to boot without a boot loader (rehearsals), or null")
    ] = None
    initrd: Annotated[ExistingFile | None, Field(description="an initramfs for `kernel`, or null")] = None
    append: Annotated[
        str | None, Field(pattern=r"^[ -~]{0,2000}$", description="arguments for `kernel`, in one line, or null")
    ] = None
    ssh: Annotated[
        SshAccess, Field(description="a mapping: how to log in there (what kind ssh has, without address and port)")
    ] = SshAccess()
    detects: Annotated[
        Expression | None,
        Field(description="a regular expression that the Service VM's dmesg must show, or null (nothing: rehearsals)"),
    ] = "Hypervisor detected: ACRN"
    boot_timeout: BootTimeout = 300.0

    @property
    def image_format(self) -> Literal["qcow2", "raw"]:
        """What `format` says, or the image's name."""
        if self.format is not None:
            return self.format
        return "qcow2" if self.image is not None and self.image.suffix == ".qcow2" else "raw"


HostSpec = LocalHostSpec | SshHostSpec | NestedHostSpec


def ssh_of(host: HostSpec) -> SshAccess | None:
    """How SSH reaches a host; None for this machine."""
    if isinstance(host, NestedHostSpec):
        return host.ssh
    return host if isinstance(host, SshHostSpec) else None
