"""What runs a guest on a bench's host, where its console is, how the agent gets in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from harness.bench.hosts import SshLogin
from harness.bench.values import Address, Argument, HostPath, Part, Port, Program, SerialDevice, absolute, fill

PLACEHOLDERS = ("vm", "monitor", "nonce", "folder", "kernel", "initrd", "append", "memory")
"""What the harness fills in when it starts a guest's device model."""

Monitor = Annotated[
    HostPath | None,
    Field(description="an absolute path on the host where acrn-dm's monitor socket is, with {vm} for the guest's name"),
]
Arguments = tuple[Argument, ...]


class _Started(Part):
    program: str
    arguments: Arguments = ()
    monitor: str | None = None

    def command(self, values: Mapping[str, str]) -> list[str]:
        """Program and arguments with `values` for the placeholders."""
        return [self.program, *(fill(argument, values) for argument in self.arguments)]

    def uses(self, placeholder: str) -> bool:
        """Whether an argument has this placeholder."""
        return any(f"{{{placeholder}}}" in argument for argument in self.arguments)

    @property
    def named(self) -> bool:
        """Whether each guest gets a name of its own, so that several may run at once."""
        return self.uses("vm") and (self.monitor is None or "{vm}" in self.monitor)


class AcrnDmSpec(_Started):
    """acrn-dm, started by the harness."""

    kind: Annotated[Literal["acrn-dm"], Field(description="'acrn-dm'")]
    program: Annotated[Program, Field(description="acrn-dm's path on the host, or its name in the PATH there")] = (
        "acrn-dm"
    )
    arguments: Annotated[
        Arguments,
        Field(min_length=1, description="a list: acrn-dm's arguments, with placeholders such as {monitor} and {vm}"),
    ]
    monitor: Monitor = None


class ScriptSpec(_Started):
    """A launch script of the user's on the host, such as ACRN's configurator makes; it becomes or starts acrn-dm."""

    kind: Annotated[Literal["script"], Field(description="'script'")]
    program: Annotated[Program, AfterValidator(absolute), Field(description="the script's path on the host")]
    arguments: Annotated[
        Arguments, Field(description="a list: the script's arguments, with placeholders such as {monitor} and {vm}")
    ] = ()
    monitor: Monitor = None


class RunningSpec(Part):
    """A guest that somebody else has started: the harness neither starts it nor ends it."""

    kind: Annotated[Literal["running"], Field(description="'running'")]
    monitor: Annotated[
        HostPath, Field(description="an absolute path on the host where its acrn-dm's monitor socket is")
    ]

    @property
    def named(self) -> bool:
        """There is one of it."""
        return False


DeviceModelSpec = Annotated[AcrnDmSpec | ScriptSpec | RunningSpec, Field(discriminator="kind")]


class StdioConsoleSpec(Part):
    """The device model's own terminal."""

    kind: Annotated[Literal["stdio"], Field(description="'stdio'")] = "stdio"


class SerialConsoleSpec(Part):
    """A serial adapter on the harness's machine, wired to the guest's port."""

    kind: Annotated[Literal["serial"], Field(description="'serial'")]
    device: Annotated[
        SerialDevice, Field(description="a serial device of the harness's machine, such as /dev/ttyUSB0")
    ]
    baud: Annotated[int, Field(ge=300, le=4000000, description="a whole number from 300 to 4000000")] = 115200


class SocketConsoleSpec(Part):
    """A socket as the host sees it."""

    kind: Annotated[Literal["socket"], Field(description="'socket'")]
    path: Annotated[
        HostPath | None, Field(description="an absolute path on the host, with {vm} for the guest's name; or null")
    ] = None
    address: Annotated[
        str | None,
        Field(pattern=r"^[A-Za-z0-9_.-]{1,253}:[0-9]{1,5}$", description="HOST:PORT as the host sees it, or null"),
    ] = None


class PtyConsoleSpec(Part):
    """A pseudo terminal on the host."""

    kind: Annotated[Literal["pty"], Field(description="'pty'")]
    path: Annotated[HostPath, Field(description="an absolute path on the host, with {vm} for the guest's name")]


ConsoleSpec = Annotated[
    StdioConsoleSpec | SerialConsoleSpec | SocketConsoleSpec | PtyConsoleSpec, Field(discriminator="kind")
]


def console_is_shared(console: ConsoleSpec) -> bool:
    """Whether all guests of a kind would have the same console, so that one at a time can run."""
    path = getattr(console, "path", None)
    return console.kind == "serial" or (console.kind != "stdio" and "{vm}" not in (path or ""))


class GuestSshSpec(SshLogin):
    """The guest's own SSH, by way of the host."""

    address: Annotated[Address, Field(description="the guest's name or IP address, as the host sees it")]
    port: Annotated[Port | None, Field(description="a port from 1 to 65535, or null (22)")] = None


class AgentSpec(Part):
    """Which agent a guest gets, and by which way."""

    variant: Annotated[
        Literal["auto", "c", "python", "shell"],
        Field(description="auto (by what the guest has), c (a static program), python or shell"),
    ] = "auto"
    over: Annotated[
        Literal["console", "ssh"], Field(description="console or ssh: how it is brought in and spoken to")
    ] = "console"
    ssh: Annotated[
        GuestSshSpec | None, Field(description="a mapping with address, user and so on, for `over: ssh`; or null")
    ] = None


def unknown_placeholders(text: str, known: tuple[str, ...] = PLACEHOLDERS) -> list[str]:
    """The placeholders of a text that nothing will fill in."""
    return [name for name in re.findall(r"\{([a-z]+)\}", text) if name not in known]
