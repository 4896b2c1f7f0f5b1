"""How a bench's host is switched on and off, and how one run at a time has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from harness.bench.values import Command, CoolDown, ExistingFile, Folder, Part, Variable
from harness.folders import default_lock_folder

Wait = Annotated[
    float,
    Field(ge=0, le=604800, description="a number of seconds from 0 to 604800: how long to wait for who has the bench"),
]


class ManualPowerSpec(Part):
    """Somebody at the terminal is asked to switch."""

    kind: Annotated[Literal["manual"], Field(description="'manual'")]
    cool_down: CoolDown = 5.0


class CommandPowerSpec(Part):
    """Commands of the user's switch: for a PDU, a relay, a BMC."""

    kind: Annotated[Literal["commands"], Field(description="'commands'")]
    on: Annotated[Command, Field(description="a list: the program that switches on, and its arguments")]
    off: Annotated[Command, Field(description="a list: the program that switches off, and its arguments")]
    status: Annotated[
        Command | None,
        Field(description="a list: a program that exits with 0 where the power is on, with 1 where it is off; or null"),
    ] = None
    cool_down: CoolDown = 5.0
    timeout: Annotated[
        float, Field(ge=1, le=3600, description="a number of seconds from 1 to 3600: for one command to end")
    ] = 60.0
    secrets_env: Annotated[
        tuple[Variable, ...],
        Field(description="a list of environment variables whose values the commands use and nobody may see: masked"),
    ] = ()


class LabgridPowerSpec(Part):
    """A power driver of labgrid's switches."""

    kind: Annotated[Literal["labgrid"], Field(description="'labgrid'")]
    environment: Annotated[ExistingFile, Field(description="labgrid's environment file")]
    target: Annotated[str, Field(min_length=1, description="the target's name in that file")] = "main"
    driver: Annotated[
        str | None, Field(min_length=1, description="the power driver's name, or null (the target's only one)")
    ] = None
    cool_down: CoolDown = 5.0


PowerSpec = Annotated[ManualPowerSpec | CommandPowerSpec | LabgridPowerSpec, Field(discriminator="kind")]


class LockReservationSpec(Part):
    """A lock file keeps other runs away that look into the same folder."""

    kind: Annotated[Literal["lock"], Field(description="'lock'")]
    folder: Annotated[
        Folder | None,
        Field(description="the folder of the lock files, shared by all who use the bench, or null (the user's cache)"),
    ] = None
    wait: Wait = 0.0
    expires: Annotated[
        float,
        Field(ge=10, le=86400, description="a number of seconds from 10 to 86400 after which an untended lock is void"),
    ] = 120.0

    @property
    def place(self) -> Path:
        """The folder, whether it was named or not."""
        return self.folder or default_lock_folder()


class LabgridReservationSpec(Part):
    """A labgrid coordinator keeps other runs away: the place is acquired."""

    kind: Annotated[Literal["labgrid"], Field(description="'labgrid'")]
    coordinator: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_.-]{1,253}:[0-9]{1,5}$", description="the coordinator's HOST:PORT")
    ]
    place: Annotated[str, Field(pattern=r"^[!-~]{1,200}$", description="the name of the place")]
    wait: Wait = 0.0


ReservationSpec = Annotated[LockReservationSpec | LabgridReservationSpec, Field(discriminator="kind")]
