"""The settler over random streams of raw events, against a reading of the rules by the letter."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.vm_event import RtcChange, RtcChangeSettler, SettledRtcChange
from tests.vm_event_support import UNHURRIED

SECOND = 10**9
WINDOW = SECOND


@dataclass(frozen=True)
class Moment:
    """Something that happens `gap` after the thing before it."""

    gap: int
    broken: bool
    skew: int  # how far the link's last_time is from the RTC before it
    delta: int
    reset: bool
    invalid: bool  # a hypervisor's clock that goes to -1


gaps = st.one_of(
    st.integers(0, 3 * SECOND),
    st.sampled_from([0, 1, WINDOW - 1, WINDOW, WINDOW + 1, SECOND // 2]),
)
moments = st.builds(
    Moment,
    gap=gaps,
    broken=st.booleans(),
    skew=st.integers(-2, 5),
    delta=st.one_of(st.integers(-(10**6), 10**6), st.just(0)),
    reset=st.sampled_from([False, False, False, True]),
    invalid=st.sampled_from([False, False, False, True]),
)
streams = st.tuples(st.integers(0, 10**15), st.booleans(), st.lists(moments, max_size=25))


def by_the_letter(events: list[tuple[int, RtcChange]], knowledge: list[tuple[int, int, int]]) -> list[SettledRtcChange]:
    """Settled events, worked out backwards from the whole stream: groups first, then links.

    `knowledge`: (events before it, moment, rtc) of each set_rtc.
    """
    groups: list[list[int]] = []
    for number, (at, _) in enumerate(events):
        if number and at - events[number - 1][0] < WINDOW:
            groups[-1].append(number)
        else:
            groups.append([number])
    result = []
    for group in groups:
        last: int | None = None
        total: int | None = 0
        estimated = lost = False
        for number in group:
            at, change = events[number]
            anchors = [(moment, rtc) for before, moment, rtc in knowledge if before == number]
            if anchors:
                known: tuple[int, int] | None = anchors[-1]
            elif number:
                at_before, before = events[number - 1]
                known = (at_before, before.last_time + before.delta_time)
            else:
                known = None
            link_last: int | None = change.last_time
            if change.last_time == -1 and (known is None or known[1] != -1):
                estimated = True
                link_last = None if known is None else known[1] + at // SECOND - known[0] // SECOND
            elif known is not None:
                ahead = change.last_time - known[1]
                lost = lost or ahead < 0 or ahead * SECOND > at - known[0] + 1_250_000_000
            if number == group[0]:
                last = link_last
            if link_last is None or total is None:
                total = None
            else:
                total += change.last_time + change.delta_time - link_last
        final = events[group[-1]][1]
        new = final.last_time + final.delta_time
        result.append(SettledRtcChange(last, new, total, len(group), estimated, lost))
    return result


@given(streams, st.data())
@settings(UNHURRIED, max_examples=400)
def test_one_settled_event_per_run_of_silence_whenever_somebody_looks(
    stream: tuple[int, bool, list[Moment]], data: st.DataObject
) -> None:
    start, rtc_known, things = stream
    settler = RtcChangeSettler(per_second=SECOND)
    now, rtc = start, 1_000_000_000
    events: list[tuple[int, RtcChange]] = []
    knowledge: list[tuple[int, int, int]] = []
    if rtc_known:
        settler.set_rtc(rtc, now)
        knowledge.append((0, now, rtc))
    seen: list[SettledRtcChange] = []
    for thing in things:
        now += thing.gap
        if data.draw(st.booleans(), label="somebody looks"):
            while (settled := settler.expire(now)) is not None:
                seen.append(settled)
        if thing.reset:
            rtc = 1_500_000_000
            settler.set_rtc(rtc, now)
            knowledge.append((len(events), now, rtc))
            continue
        new = -1 if thing.invalid else rtc + thing.delta
        last = -1 if thing.broken else rtc + thing.skew
        change = RtcChange(last, new - last)
        settler.add(change, now)
        events.append((now, change))
        rtc = new
    while (settled := settler.expire(now + WINDOW)) is not None:
        seen.append(settled)
    assert seen == by_the_letter(events, knowledge)
    assert settler.deadline is None
    assert sum(event.raw_events or 0 for event in seen) == len(events), "every raw event is in exactly one"


@given(st.lists(gaps, min_size=1, max_size=30))
@UNHURRIED
def test_no_event_is_handed_out_before_its_silence_is_complete_nor_held_after(stream: list[int]) -> None:
    settler = RtcChangeSettler(per_second=SECOND)
    now = 0
    for gap in stream:
        now += gap
        settler.add(RtcChange(now, 1), now)
        while settler.deadline is not None and settler.deadline <= now:
            assert settler.expire(now) is not None
        assert settler.expire(now) is None
        assert settler.deadline == now + WINDOW


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(-(10**6), 10**6)), min_size=1, max_size=20),
    st.floats(0, 10**7),
)
@UNHURRIED
def test_in_float_seconds_the_deadline_itself_is_late_enough(stream: list[tuple[float, int]], start: float) -> None:
    settler = RtcChangeSettler()
    now = start
    total = 0
    for gap, delta in stream:
        now += gap
        settler.add(RtcChange(1000, delta), now)
    while settler.deadline is not None:
        settled = settler.expire(settler.deadline)
        assert settled is not None and settled.raw_events is not None
        total += settled.raw_events
    assert total == len(stream)
