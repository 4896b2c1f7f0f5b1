"""Plans: what a guest is told to do to its RTC, made from a seed, saved and replayed as YAML."""

from __future__ import annotations

import calendar
import datetime
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

FORMAT: Literal[1] = 1

REGISTERS = {"sec": 0x00, "min": 0x02, "hour": 0x04, "day": 0x07, "month": 0x08, "year": 0x09, "century": 0x32}
"""The seven date/time registers by the names that plans use."""

REGISTER_B = 0x0B
_HALT, _RUN = 0x82, 0x02  # SET or not; 24-hour BCD, the format every guest starts in

LONGEST_PAUSE = 0.8
"""Seconds; a longer pause inside a random update could cut it in two."""

_WINDOW_BAND = (0.88, 1.12)
"""Seconds: gaps near the settle window prove nothing, so no run of pauses adds up to one."""

_APART = 60
"""Seconds between any two values of a plan set: events of neighbouring updates are told apart by payload."""

Vrtc = Literal["dm", "hv"]
VRTCS: tuple[Vrtc, Vrtc] = ("dm", "hv")
"""The device model's virtual RTC, and the hypervisor's."""

HV_LAST_YEAR = 2037
"""The hypervisor's vRTC has a 32-bit clock: 1970 to 2037 are its years, every other date is an invalid one."""

Mode = Literal["running", "halted"]
Register = Literal["sec", "min", "hour", "day", "month", "year", "century"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SetClock(_Frozen):
    """Write the registers in this order; `pauses` are the seconds to wait before each of the writes."""

    do: Literal["set-clock"] = "set-clock"
    mode: Mode
    value: datetime.datetime
    order: tuple[Register, ...] = ("sec", "min", "hour", "day", "month", "year", "century")
    pauses: tuple[Annotated[float, Field(ge=0, le=30)], ...] = ()

    @field_validator("value")
    @classmethod
    def _as_utc(cls, value: datetime.datetime) -> datetime.datetime:
        if value.tzinfo is not None:
            value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
        if value.microsecond or not 1970 <= value.year <= 9998:
            raise ValueError("must be a whole second in the years 1970 to 9998")
        return value

    @model_validator(mode="after")
    def _fits(self) -> SetClock:
        if len(set(self.order)) != len(self.order) or not self.order:
            raise ValueError("order: each register at most once, and at least one")
        if self.pauses and len(self.pauses) != len(self.order):
            raise ValueError(f"pauses: one for each of the {len(self.order)} writes, or none at all")
        return self

    def accesses(self) -> Iterator[Access]:
        """The register writes and pauses, in their order."""
        if self.mode == "halted":
            yield REGISTER_B, _HALT
        values = _registers(self.value)
        for name, pause in itertools.zip_longest(self.order, self.pauses, fillvalue=0.0):
            if pause:
                yield float(pause)
            yield REGISTERS[str(name)], values[str(name)]
        if self.mode == "halted":
            yield REGISTER_B, _RUN


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


class Hwclock(_Frozen):
    """Set the guest's system time, then have its operating system write the RTC: `hwclock --systohc`."""

    do: Literal["hwclock"] = "hwclock"
    value: datetime.datetime


Access = tuple[int, int | None] | float
"""A write of (index, value), a read of (index, None), or a pause in seconds."""

Action = Annotated[SetClock | Pause | WriteRegister | ReadRegister | Hwclock, Field(discriminator="do")]


class Plan(_Frozen):
    """One test item's work on one guest: usually one update, sometimes several or none.

    machine, vrtc: the QEMU machine and the virtual RTC that the guest must have; None: any will do.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.~-]*$")]
    actions: tuple[Action, ...] = Field(min_length=1)
    machine: Literal["pc", "q35"] | None = None
    vrtc: Vrtc | None = None

    @property
    def mode(self) -> str:
        """`running`, `halted`, `mixed`, `hwclock`, or `other` where no clock is set."""
        modes = {a.mode for a in self.actions if isinstance(a, SetClock)}
        if any(isinstance(a, Hwclock) for a in self.actions):
            return "hwclock"
        return "other" if not modes else modes.pop() if len(modes) == 1 else "mixed"

    @property
    def hwclock(self) -> Hwclock | None:
        """The hwclock action, which an operating system carries out and not the agent."""
        return next((a for a in self.actions if isinstance(a, Hwclock)), None)

    @property
    def order(self) -> list[int]:
        """The indices of all register writes, register B left out."""
        writes = (a[0] for a in self.accesses() if not isinstance(a, float) and a[1] is not None)
        return [index for index in writes if index != REGISTER_B]

    @property
    def seconds(self) -> float:
        """How long the pauses take together."""
        return sum(a for a in self.accesses() if isinstance(a, float))

    def accesses(self) -> Iterator[Access]:
        """All register accesses and pauses, in their order."""
        for action in self.actions:
            if not isinstance(action, Hwclock):
                yield from action.accesses()

    @model_validator(mode="after")
    def _hwclock_alone(self) -> Plan:
        if self.hwclock is not None and len(self.actions) > 1:
            raise ValueError("actions: hwclock stands alone")
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


def _registers(value: datetime.datetime) -> dict[str, int]:
    """The seven registers' bytes in 24-hour BCD."""
    numbers = {
        "sec": value.second,
        "min": value.minute,
        "hour": value.hour,
        "day": value.day,
        "month": value.month,
        "year": value.year % 100,
        "century": value.year // 100,
    }
    return {name: number // 10 << 4 | number % 10 for name, number in numbers.items()}


# -- values and orders from a seed ---------------------------------------------------------------------------


class ValueSource:
    """Dates that make trouble, each more than a minute from every other one it has given.

    vrtc: which virtual RTC they are for. The device model's knows all years; for the hypervisor's one value in
    ten lies beyond the years that it knows.
    """

    def __init__(self, vrtc: Vrtc = "dm") -> None:
        self._kinds = _KINDS[vrtc]
        self._given: dict[int, int] = {}

    def next(self, choice: random.Random) -> datetime.datetime:
        """A date: one of the kinds for this vRTC, at a random or a bordering time of day."""
        while True:
            day = choice.choice(self._kinds)(choice)
            clock = choice.choice((_border_time, _any_time, _any_time))(choice)
            value = datetime.datetime.combine(day, clock)
            seconds = calendar.timegm(value.timetuple())
            slot = seconds // _APART
            near = (self._given.get(s) for s in (slot - 1, slot, slot + 1))
            if all(other is None or abs(other - seconds) > _APART for other in near):
                self._given[slot] = seconds
                return value


_Day = Callable[[random.Random], datetime.date]


def _mid_month(first_year: int, last_year: int) -> _Day:
    def day(choice: random.Random) -> datetime.date:
        return datetime.date(choice.randint(first_year, last_year), choice.randint(1, 12), choice.randint(2, 27))

    return day


def _month_end(first_year: int, last_year: int) -> _Day:
    def day(choice: random.Random) -> datetime.date:
        year, month = choice.randint(first_year, last_year), choice.randint(1, 12)
        return datetime.date(year, month, choice.choice((1, calendar.monthrange(year, month)[1])))

    return day


def _leap_day(*years: int) -> _Day:
    def day(choice: random.Random) -> datetime.date:
        year = choice.choice(years)
        return datetime.date(year, 2, 29 if calendar.isleap(year) else 28)

    return day


def _new_years_eve(*years: int) -> _Day:
    def day(choice: random.Random) -> datetime.date:
        year = choice.choice(years)
        return choice.choice((datetime.date(year, 12, 31), datetime.date(year + 1, 1, 1)))

    return day


def _epoch(choice: random.Random) -> datetime.date:
    return datetime.date(1970, 1, 1) + datetime.timedelta(choice.randint(0, 3))


def _last_day_of_hv(choice: random.Random) -> datetime.date:
    return datetime.date(HV_LAST_YEAR, 12, 31)


def _beyond_hv(choice: random.Random) -> datetime.date:
    day = choice.choice((_new_years_eve(HV_LAST_YEAR), _mid_month(HV_LAST_YEAR + 1, 2137), _mid_month(2200, 9990)))
    return max(day(choice), datetime.date(HV_LAST_YEAR + 1, 1, 1))


_KINDS: dict[Vrtc, tuple[_Day, ...]] = {
    "dm": (
        _mid_month(1971, 2069),
        _month_end(1971, 2099),
        _leap_day(1972, 1996, 2000, 2004, 2024, 2096, 2100, 2400),
        _new_years_eve(1999, 2099, 2199),
        _epoch,
        _mid_month(2200, 9990),
    ),
    "hv": (
        *(_mid_month(1971, HV_LAST_YEAR),) * 3,
        *(_month_end(1971, HV_LAST_YEAR),) * 2,
        _leap_day(1972, 1996, 2000, 2004, 2024, 2036),
        _new_years_eve(1999),
        _epoch,
        _last_day_of_hv,
        _beyond_hv,
    ),
}


def _any_time(choice: random.Random) -> datetime.time:
    return datetime.time(choice.randint(0, 23), choice.randint(0, 59), choice.randint(0, 59))


def _border_time(choice: random.Random) -> datetime.time:
    return choice.choice((datetime.time(0, 0, choice.randint(0, 2)), datetime.time(23, 59, choice.randint(56, 59))))


def random_order(choice: random.Random) -> tuple[Register, ...]:
    """One of the 5,040 orders of the seven registers."""
    return tuple(choice.sample(list(REGISTERS), len(REGISTERS)))  # type: ignore[arg-type]


def random_pauses(choice: random.Random, count: int = len(REGISTERS)) -> tuple[float, ...]:
    """Pauses before each write but the first, none adding up, in a row, to about the settle window.

    Writes that leave an invalid date announce nothing, so any run of pauses may be a gap between two
    announcing writes.
    """
    while True:
        pauses = (0.0, *(round(choice.uniform(0, LONGEST_PAUSE), 3) for _ in range(count - 1)))
        if not any(_WINDOW_BAND[0] < sum(run) < _WINDOW_BAND[1] for run in _runs(pauses)):
            return pauses


def _runs(pauses: Sequence[float]) -> Iterator[Sequence[float]]:
    for begin in range(len(pauses)):
        for end in range(begin + 1, len(pauses) + 1):
            yield pauses[begin:end]
