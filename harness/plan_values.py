"""Values, orders and pauses for plans, drawn from a seed: dates that make trouble, and no gap that proves nothing."""

from __future__ import annotations

import calendar
import datetime
import random
from collections.abc import Callable, Iterator, Sequence

from harness.plan import HV_LAST_YEAR, REGISTERS, Register, Vrtc

LONGEST_PAUSE = 0.8
"""Seconds; a longer pause inside a random update could cut it in two."""

_WINDOW_BAND = (0.88, 1.12)
"""Seconds: gaps near the settle window prove nothing, so no run of pauses adds up to one."""

_APART = 60
"""Seconds between any two values of a plan set: events of neighbouring updates are told apart by payload."""

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
