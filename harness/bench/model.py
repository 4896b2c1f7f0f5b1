"""A bench: its host, how that is kept, the service that is judged there, the guests; read from a file."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from harness.bench.fits import misfits
from harness.bench.guests import ACRN_SIGNATURE, GuestSpec
from harness.bench.hosts import LocalHostSpec, NestedHostSpec, SshHostSpec
from harness.bench.upkeep import LockReservationSpec, PowerSpec, ReservationSpec
from harness.bench.values import ExistingProgram, Part
from harness.folders import default_cache_dir, default_lock_folder
from harness.yamlfile import load_yaml_model

VERSION = 1
DEFAULT_BENCH = Path(__file__).resolve().parents[2] / "fixtures" / "benches" / "qemu.yaml"

HV_LAST_YEAR = 2037
"""The hypervisor's vRTC counts in 32 bits."""

Host = Annotated[LocalHostSpec | SshHostSpec | NestedHostSpec, Field(discriminator="kind")]


class QemuSpec(Part):
    """Which QEMU, and how it runs guests, on a local host."""

    binary: Annotated[
        ExistingProgram | None, Field(description="the path of qemu-system-x86_64, its name in PATH, or null")
    ] = None
    accelerator: Annotated[
        Literal["auto", "tcg", "kvm"],
        Field(description="auto (KVM only where it works), tcg or kvm"),
    ] = "auto"


class ServiceSpec(Part):
    """The event service under test."""

    window: Annotated[
        float,
        Field(ge=0.1, le=60, description="a number of seconds from 0.1 to 60 (ACRN's settle window: 1.0)"),
    ] = 1.0
    judged: Annotated[
        Literal["project", "hsm", "behind-acrn-dm", "acrn-dm"],
        Field(
            description="project (ours in our device model: local hosts, rehearsals), hsm (ours on /dev/acrn_hsm),"
            " behind-acrn-dm (ours on acrn-dm's socket: the default of bench hosts) or acrn-dm (acrn-dm's own events)"
        ),
    ] = "project"


class QuietSpec(Part):
    """The silence that is waited for before plans begin."""

    seconds: Annotated[
        float, Field(ge=0, le=600, description="a number of seconds from 0 to 600 without an event")
    ] = 3.0
    timeout: Annotated[
        float, Field(ge=1, le=3600, description="a number of seconds from 1 to 3600 in which it has to come")
    ] = 60.0


class RtcSpec(Part):
    """What the guests' RTCs show when they start, on a local host."""

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


class Bench(Part):
    """A host, how guests run there, and the guests."""

    version: Annotated[Literal[1], Field(description="the format of the file: 1")]
    name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9-]{0,63}$",
            description="a name of a-z, 0-9, '-', at most 64 characters",
        ),
    ]
    host: Annotated[Host, Field(description="a mapping with `kind: local`, ssh or nested")]
    power: Annotated[
        PowerSpec | None,
        Field(description="a mapping with `kind: manual`, commands or labgrid, or null (the host is always on)"),
    ] = None
    reservation: Annotated[
        ReservationSpec | None,
        Field(description="a mapping with `kind: lock` (the default of bench hosts) or labgrid, or null (none)"),
    ] = None
    qemu: Annotated[QemuSpec, Field(description="a mapping with binary, accelerator")] = QemuSpec()
    service: Annotated[ServiceSpec, Field(description="a mapping with window, judged")] = ServiceSpec()
    quiet: Annotated[QuietSpec, Field(description="a mapping with seconds, timeout")] = QuietSpec()
    rtc: Annotated[RtcSpec, Field(description="a mapping with base")] = RtcSpec()
    parallel: Annotated[
        int,
        Field(ge=1, le=256, description="a whole number from 1 to 256: guests at once (default: 2; on bench hosts 1)"),
    ] = 2
    guests: Annotated[
        tuple[GuestSpec, ...],
        Field(min_length=1, description="a list of guests, at least one, each with a name"),
    ]

    _file: Path | None = PrivateAttr(default=None)
    _scratch: Path | None = PrivateAttr(default=None)

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

    @property
    def scratch(self) -> Path:
        """The bench's own folder on this machine (`{scratch}`); kept between runs, made by whoever needs it."""
        return self._scratch or scratch_of(Path(self.name))

    @property
    def lock_folder(self) -> Path:
        """Where the bench's lock is, and beside it when its host was last switched off."""
        if isinstance(self.reservation, LockReservationSpec):
            return self.reservation.place
        return default_lock_folder()


def scratch_of(file: Path) -> Path:
    """The folder that `{scratch}` stands for in a bench file: one for each file."""
    path = file.absolute()
    mark = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return default_cache_dir() / "benches" / f"{path.stem[:40]}-{mark}"


def load_bench(path: Path) -> Bench:
    """The bench that a file describes.

    Raises FileProblems (a ConfigurationError) whose `problems` has all that is wrong with it.
    """
    scratch = scratch_of(path)
    bench = load_yaml_model(path, Bench, context={"scratch": scratch}, checks=misfits)
    if bench.host.kind != "local":
        bench = _with_defaults_of_a_bench(bench)
    bench._file = path
    bench._scratch = scratch
    return bench


def _with_defaults_of_a_bench(bench: Bench) -> Bench:
    """The bench with what is left out filled in as hosts other than this machine have it."""
    service = bench.service
    if "judged" not in service.model_fields_set:
        service = service.model_copy(update={"judged": "behind-acrn-dm"})
    guests = tuple(
        guest
        if "hypervisor" in guest.model_fields_set
        else guest.model_copy(update={"hypervisor": (ACRN_SIGNATURE,)})
        for guest in bench.guests
    )
    changed: dict[str, object] = {"service": service, "guests": guests}
    if "reservation" not in bench.model_fields_set:
        changed["reservation"] = LockReservationSpec(kind="lock")
    if "parallel" not in bench.model_fields_set:
        changed["parallel"] = 1
    return bench.model_copy(update=changed)
