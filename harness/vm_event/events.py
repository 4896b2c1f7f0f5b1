"""The values that travel: a raw RTC change, what it settles into, and the events that pass at once."""

from __future__ import annotations

from .abi import VmEventType
from .typed import Any
from .values import Value


class RtcChange(Value):
    """One raw event: a virtual RTC went from `last_time` to `last_time + delta_time`.

    Both in whole seconds, `last_time` since 1970 UTC; -1 where the vRTC's clock was broken by an invalid
    date.
    """

    __slots__ = __match_args__ = ("last_time", "delta_time")
    last_time: int
    delta_time: int

    def __init__(self, last_time: int, delta_time: int) -> None:
        self._set(last_time, delta_time)


class SettledRtcChange(Value):
    """One update of a guest's RTC, told once, after the settle window has passed in silence.

    last_time: the RTC just before the first announcing write, None where nobody can know it.
    new_time: the RTC after the last announcing write; None only from a service that did not tell (`acrn-dm`'s).
    delta_time: the sum of what the announcing writes changed, without the clock's own ticking; None with
    `last_time`.
    raw_events: how many raw events it was made of; None from a service that does not tell (`acrn-dm`'s).
    estimated: a raw event did not say what it started from and the running estimate was used (or there was
    none).
    lost: the chain of raw events has a gap which elapsed time does not explain; some were never received.
    overrun: how many raw events the full ring refused since the settled event before.
    """

    __slots__ = __match_args__ = (
        "last_time",
        "new_time",
        "delta_time",
        "raw_events",
        "estimated",
        "lost",
        "overrun",
        "source",
        "vm",
    )
    last_time: int | None
    new_time: int | None
    delta_time: int | None
    raw_events: int | None
    estimated: bool
    lost: bool
    overrun: int
    source: str
    vm: str

    def __init__(
        self,
        last_time: int | None,
        new_time: int | None,
        delta_time: int | None,
        raw_events: int | None,
        estimated: bool = False,
        lost: bool = False,
        overrun: int = 0,
        source: str = "dm",
        vm: str = "vm",
    ) -> None:
        self._set(last_time, new_time, delta_time, raw_events, estimated, lost, overrun, source, vm)

    def as_json(self) -> dict[str, Any]:
        """The object that goes to the monitor socket; the three flags only where they apply."""
        event: dict[str, Any] = {
            "vm_event": int(VmEventType.RTC_CHANGE),
            "last_time": self.last_time,
            "new_time": self.new_time,
            "delta_time": self.delta_time,
            "raw_events": self.raw_events,
            "source": self.source,
            "vm": self.vm,
        }
        if self.estimated:
            event["estimated"] = True
        if self.lost:
            event["lost"] = True
        if self.overrun:
            event["overrun"] = self.overrun
        return event


class VmEvent(Value):
    """A power-off or triple fault: it has no payload and passes at once."""

    __slots__ = __match_args__ = ("type", "source", "vm")
    type: VmEventType
    source: str
    vm: str

    def __init__(self, type: VmEventType, source: str, vm: str) -> None:
        self._set(type, source, vm)

    def as_json(self) -> dict[str, Any]:
        """The object that goes to the monitor socket."""
        return {"vm_event": int(self.type), "source": self.source, "vm": self.vm}


Event = SettledRtcChange | VmEvent
