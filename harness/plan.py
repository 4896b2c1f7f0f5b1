"""Plans: what a guest is told to do to its RTC, made from a seed, saved and replayed as YAML."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, NamedTuple

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

FORMAT: Literal[1] = 1

REGISTERS = {"sec": 0x00, "min": 0x02, "hour": 0x04, "day": 0x07, "month": 0x08, "year": 0x09, "century": 0x32}
"""The seven date/time registers by the names that plans use."""

REGISTER_B = 0x0B
SET, _BINARY, _HOURS_24, _PM = 0x80, 0x04, 0x02, 0x80

Vrtc = Literal["dm", "hv"]
VRTCS: tuple[Vrtc, Vrtc] = ("dm", "hv")
"""The device model's virtual RTC, and the hypervisor's."""

HV_LAST_YEAR = 2037
"""The hypervisor's vRTC has a 32-bit clock: 1970 to 2037 are its years, every other date is an invalid one."""

System = Literal["linux", "bare"]
Mode = Literal["running", "halted"]
Encoding = Literal["bcd", "binary"]
Hours = Literal[12, 24]
Register = Literal["sec", "min", "hour", "day", "month", "year", "century"]


class Format(NamedTuple):
    """How the registers say a number (BCD or binary), and an hour (of 12 with a PM bit, or of 24)."""

    encoding: Encoding = "bcd"
    hours: Hours = 24

    def register_b(self, *, halted: bool = False) -> int:
        """The value of register B that announces this format, with SET or without."""
        binary = _BINARY if self.encoding == "binary" else 0
        return (SET if halted else 0) | binary | (_HOURS_24 if self.hours == 24 else 0)

    def byte(self, number: int) -> int:
        """The byte for a number of two digits."""
        return number if self.encoding == "binary" else number // 10 << 4 | number % 10

    def hour(self, hour: int) -> int:
        """The byte for an hour from 0 to 23."""
        if self.hours == 24:
            return self.byte(hour)
        return self.byte(hour % 12 or 12) | (_PM if hour >= 12 else 0)

    def registers(self, value: datetime.datetime) -> dict[Register, int]:
        """The seven registers' bytes for a date."""
        return {
            "sec": self.byte(value.second),
            "min": self.byte(value.minute),
            "hour": self.hour(value.hour),
            "day": self.byte(value.day),
            "month": self.byte(value.month),
            "year": self.byte(value.year % 100),
            "century": self.byte(value.year // 100),
        }


USUAL = Format()
"""24-hour BCD: what every guest starts in, and what every plan leaves behind, with the RTC running."""

FORMATS = tuple(Format(encoding, hours) for encoding in ("bcd", "binary") for hours in (24, 12))
"""All four."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _whole_second(value: datetime.datetime) -> datetime.datetime:
    if value.tzinfo is not None:
        value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    if value.microsecond or not 1970 <= value.year <= 9998:
        raise ValueError("must be a whole second in the years 1970 to 9998")
    return value


Moment = Annotated[datetime.datetime, AfterValidator(_whole_second)]
"""A time that every register can be set to, in UTC."""


class SetClock(_Frozen):
    """Write the registers in this order; `pauses` are the seconds to wait before each of the writes.

    encoding, hours: the format of the values. A halted update announces it in register B, as it halts and un-halts
    the RTC; a running one relies on what is there, and other formats than the usual one are written beforehand.
    """

    do: Literal["set-clock"] = "set-clock"
    mode: Mode
    value: Moment
    encoding: Encoding = "bcd"
    hours: Hours = 24
    order: tuple[Register, ...] = ("sec", "min", "hour", "day", "month", "year", "century")
    pauses: tuple[Annotated[float, Field(ge=0, le=30)], ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> SetClock:
        if len(set(self.order)) != len(self.order) or not self.order:
            raise ValueError("order: each register at most once, and at least one")
        if self.pauses and len(self.pauses) != len(self.order):
            raise ValueError(f"pauses: one for each of the {len(self.order)} writes, or none at all")
        return self

    def accesses(self) -> Iterator[Access]:
        """The register writes and pauses, in their order."""
        format_ = Format(self.encoding, self.hours)
        if self.mode == "halted":
            yield REGISTER_B, format_.register_b(halted=True)
        values = format_.registers(self.value)
        for name, pause in zip(self.order, self.pauses or itertools.repeat(0.0), strict=False):
            if pause:
                yield float(pause)
            yield REGISTERS[name], values[name]
        if self.mode == "halted":
            yield REGISTER_B, format_.register_b()


class Pause(_Frozen):
    """Do nothing for so many seconds, in the guest."""

    do: Literal["pause"] = "pause"
    seconds: Annotated[float, Field(gt=0, le=60)]

    def accesses(self) -> Iterator[Access]:
        """One pause."""
        yield self.seconds


class WriteRegister(_Frozen):
    """Write one CMOS register, whatever it is for; beyond 0x37 lies what no agent writes (ACRN.md)."""

    do: Literal["write"] = "write"
    index: Annotated[int, Field(ge=0, le=0x37)]
    value: Annotated[int, Field(ge=0, le=0xFF)]

    def accesses(self) -> Iterator[Access]:
        """One write."""
        yield self.index, self.value


class ReadRegister(_Frozen):
    """Read one CMOS register. On the hypervisor's vRTC this is what brings the registers up to date (ACRN.md)."""

    do: Literal["read"] = "read"
    index: Annotated[int, Field(ge=0, le=0x37)]

    def accesses(self) -> Iterator[Access]:
        """One read."""
        yield self.index, None


class Reset(_Frozen):
    """Have the guest reset itself, and wait until it is there again; the last action of a plan.

    full: as ACRN tells the two apart, a reset of the whole device model, event service included.
    """

    do: Literal["reset"] = "reset"
    full: bool = False

    def accesses(self) -> Iterator[Access]:
        """None of the agent's; what the firmware writes is its own affair."""
        return iter(())


class Hwclock(_Frozen):
    """Set the guest's system time, then have its operating system write the RTC: `hwclock --systohc`."""

    do: Literal["hwclock"] = "hwclock"
    value: datetime.datetime


class Ntp(_Frozen):
    """Have an NTP client set the guest's clock to this time, and its kernel write the RTC by itself so many times."""

    do: Literal["ntp"] = "ntp"
    value: datetime.datetime
    writes: Annotated[int, Field(ge=1, le=10)] = 1

    @property
    def seconds(self) -> float:
        """About how long it takes: a kernel writes a few seconds after the client is content, then every 11 minutes."""
        return 4.0 + 660.0 * (self.writes - 1)

    def accesses(self) -> Iterator[Access]:
        """None of the agent's."""
        return iter(())


Access = tuple[int, int | None] | float
"""A write of (index, value), a read of (index, None), or a pause in seconds."""

Action = Annotated[SetClock | Pause | WriteRegister | ReadRegister | Reset | Hwclock | Ntp, Field(discriminator="do")]


class Plan(_Frozen):
    """One test item's work on one guest: usually one update, sometimes several or none.

    machine, vrtc, system: the QEMU machine, the virtual RTC and the system (an operating system, or the agent alone)
    that the guest must have; None: any will do.
    start: what the guest's clock must have been set to last; where it was not, it is set beforehand. None: anything.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.~-]*$")]
    actions: tuple[Action, ...] = Field(min_length=1)
    machine: Literal["pc", "q35"] | None = None
    vrtc: Vrtc | None = None
    system: System | None = None
    start: Moment | None = None

    @property
    def leaves(self) -> datetime.datetime | None:
        """What the guest's clock is set to at the plan's end; None where that is not written in the plan."""
        last = self.actions[-1]
        return last.value if isinstance(last, SetClock) and len(last.order) == len(REGISTERS) else None

    @property
    def mode(self) -> str:
        """`running`, `halted`, `mixed`, `hwclock`, `ntp`, or `other` where no clock is set."""
        modes = {a.mode for a in self.actions if isinstance(a, SetClock)}
        if any(isinstance(a, Hwclock) for a in self.actions):
            return "hwclock"
        if self.ntp is not None:
            return "ntp"
        return "other" if not modes else modes.pop() if len(modes) == 1 else "mixed"

    @property
    def hwclock(self) -> Hwclock | None:
        """The hwclock action, which an operating system carries out and not the agent."""
        return next((a for a in self.actions if isinstance(a, Hwclock)), None)

    @property
    def ntp(self) -> Ntp | None:
        """The NTP client's action: an operating system carries it out, and its kernel makes the writes."""
        return next((a for a in self.actions if isinstance(a, Ntp)), None)

    @property
    def reset(self) -> Reset | None:
        """The reset at the plan's end."""
        last = self.actions[-1]
        return last if isinstance(last, Reset) else None

    @property
    def needed_system(self) -> System | None:
        """The system that the guest must have: the one that is asked for, or that can do what the plan says."""
        return "linux" if self.hwclock or self.ntp else "bare" if self.reset is not None else self.system

    @property
    def order(self) -> list[int]:
        """The indices of all register writes, register B left out."""
        writes = (a[0] for a in self.accesses() if not isinstance(a, float) and a[1] is not None)
        return [index for index in writes if index != REGISTER_B]

    @property
    def seconds(self) -> float:
        """How long the pauses, or an NTP client's work, take together."""
        waiting = self.ntp.seconds if self.ntp else 0.0
        return waiting + sum(a for a in self.accesses() if isinstance(a, float))

    def accesses(self) -> Iterator[Access]:
        """All register accesses and pauses, in their order."""
        for action in self.actions:
            if not isinstance(action, Hwclock):
                yield from action.accesses()

    @model_validator(mode="after")
    def _hwclock_alone(self) -> Plan:
        if (self.hwclock or self.ntp) and len(self.actions) > 1:
            raise ValueError(f"actions: {self.mode} stands alone")
        return self

    @model_validator(mode="after")
    def _reset_last(self) -> Plan:
        if any(isinstance(action, Reset) for action in self.actions[:-1]):
            raise ValueError("actions: a reset stands last")
        if len(self.actions) == 1 and self.reset is not None:
            raise ValueError("actions: a reset follows something that it is to fall into")
        return self


class PlanFile(_Frozen):
    """A saved set of plans."""

    version: Literal[1]
    seed: int | None = None
    plans: tuple[Plan, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> PlanFile:
        seen = set()
        for plan in self.plans:
            if plan.id in seen:
                raise ValueError(f"plans: the id {plan.id!r} is given twice")
            seen.add(plan.id)
        return self


def dump_plans(plans: Iterable[Plan], seed: int | None) -> str:
    """Plans as the text of a plan file, to which `dump_plan` can add more."""
    head = f"version: {FORMAT}\n" + (f"seed: {seed}\n" if seed is not None else "")
    return head + "plans:\n" + "".join(map(dump_plan, plans))


def dump_plan(plan: Plan) -> str:
    """One plan as an entry of a plan file's list."""
    document = [plan.model_dump(mode="json", exclude_none=True)]
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=110)
