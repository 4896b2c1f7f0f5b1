"""The settler: one settled event per run of silence, and what it says where a vRTC does not say it."""

from __future__ import annotations

import pytest

from harness.vm_event import RtcChange, RtcChangeSettler, SettledRtcChange

NOON = 1718452800


def settled(last: int | None, new: int, delta: int | None, raw: int, **more: object) -> SettledRtcChange:
    return SettledRtcChange(last, new, delta, raw, **more)  # type: ignore[arg-type]


def test_silence_of_one_window_settles_the_update() -> None:
    settler = RtcChangeSettler()
    assert settler.deadline is None
    settler.add(RtcChange(NOON, 60), 10.0)
    assert settler.deadline == 11.0
    assert settler.expire(10.999) is None
    assert settler.expire(11.0) == settled(NOON, NOON + 60, 60, 1)
    assert settler.expire(11.0) is None
    assert settler.deadline is None


def test_each_raw_event_begins_the_window_anew_and_its_change_is_added() -> None:
    settler = RtcChangeSettler()
    settler.add(RtcChange(NOON, 60), 10.0)
    settler.add(RtcChange(NOON + 60, -3600), 10.9)
    assert settler.deadline == 11.9
    assert settler.expire(11.5) is None
    assert settler.expire(12.0) == settled(NOON, NOON - 3540, -3540, 2)


def test_ticking_between_the_writes_is_no_change() -> None:
    """Seven writes 0.9 s apart: the elapsed seconds are in the times, not in the delta."""
    settler = RtcChangeSettler()
    rtc = NOON
    for second in range(7):
        settler.add(RtcChange(rtc + second, 100), 10.0 + second * 0.999)
        rtc += 100
    assert settler.expire(100.0) == settled(NOON, NOON + 706, 700, 7)


def test_a_raw_event_after_the_window_is_another_update_even_if_nobody_looked_in_between() -> None:
    settler = RtcChangeSettler()
    settler.add(RtcChange(NOON, 60), 10.0)
    settler.add(RtcChange(NOON + 61, 5), 11.0)
    settler.add(RtcChange(NOON + 68, 7), 14.0)
    assert settler.deadline == 11.0, "the first has been due since"
    assert settler.expire(14.0) == settled(NOON, NOON + 60, 60, 1)
    assert settler.expire(14.0) == settled(NOON + 61, NOON + 66, 5, 1)
    assert settler.expire(14.0) is None
    assert settler.deadline == 15.0
    assert settler.expire(15.0) == settled(NOON + 68, NOON + 75, 7, 1)


def test_a_broken_link_is_filled_in_from_the_running_estimate() -> None:
    """Month before day on the way from 31 January: the next valid write says -1."""
    settler = RtcChangeSettler()
    settler.add(RtcChange(NOON, 60), 10.5)
    settler.add(RtcChange(-1, NOON + 1000 + 1), 11.2)  # the clock ticked once: the estimate is NOON + 61
    assert settler.expire(20.0) == settled(NOON, NOON + 1000, 60 + (1000 - 61), 2, estimated=True)


def test_the_estimate_ticks_on_whole_seconds_not_on_elapsed_ones() -> None:
    settler = RtcChangeSettler()
    settler.set_rtc(NOON, 10.9)
    settler.add(RtcChange(-1, NOON + 501), 11.1)
    event = settler.expire(20.0)
    assert event == settled(NOON + 1, NOON + 500, 499, 1, estimated=True)


def test_the_estimate_reaches_back_to_an_earlier_update() -> None:
    settler = RtcChangeSettler()
    settler.add(RtcChange(NOON, 60), 10.0)
    assert settler.expire(11.0) is not None
    settler.add(RtcChange(-1, NOON + 5001), 110.0)
    assert settler.expire(200.0) == settled(NOON + 160, NOON + 5000, 4840, 1, estimated=True)


def test_without_an_estimate_the_values_are_null_and_never_minus_one() -> None:
    settler = RtcChangeSettler()
    settler.add(RtcChange(-1, NOON + 1), 10.0)
    settler.add(RtcChange(NOON, 5), 10.1)
    event = settler.expire(20.0)
    assert event == settled(None, NOON + 5, None, 2, estimated=True)
    assert event.as_json() == {
        "vm_event": 0, "last_time": None, "new_time": NOON + 5, "delta_time": None, "raw_events": 2,
        "source": "dm", "vm": "vm", "estimated": True,
    }  # fmt: skip


def test_minus_one_counts_as_it_is_where_the_hypervisors_clock_really_stands_there() -> None:
    settler = RtcChangeSettler()
    settler.add(RtcChange(NOON, -1 - NOON), 10.0)  # an invalid date, announced: the clock is at -1
    settler.add(RtcChange(-1, NOON + 61), 10.2)
    assert settler.expire(20.0) == settled(NOON, NOON + 60, 60, 2)


def test_minus_one_counts_as_it_is_across_updates_too() -> None:
    settler = RtcChangeSettler()
    settler.add(RtcChange(NOON, -1 - NOON), 10.0)
    assert settler.expire(11.0) == settled(NOON, -1, -1 - NOON, 1)
    settler.add(RtcChange(-1, 5), 11.5)
    assert settler.expire(20.0) == settled(-1, 4, 5, 1)


def test_a_clock_that_ticked_on_from_minus_one_is_no_gap() -> None:
    settler = RtcChangeSettler()
    settler.add(RtcChange(NOON, -1 - NOON), 10.0)
    settler.add(RtcChange(0, 100), 10.9)
    assert settler.expire(20.0) == settled(NOON, 100, 99 - NOON, 2)


@pytest.mark.parametrize(
    ("last_time", "lost"),
    [(NOON + 59, True), (NOON + 60, False), (NOON + 61, False), (NOON + 62, False), (NOON + 63, True)],
)
def test_a_gap_in_the_chain_which_elapsed_time_does_not_explain_is_told(last_time: int, lost: bool) -> None:
    """0.8 s later, by at most 0.8 + 1.25 s; a halted clock lags, but not behind the value before."""
    settler = RtcChangeSettler()
    settler.add(RtcChange(NOON, 60), 10.0)
    settler.add(RtcChange(last_time, 5), 10.8)
    assert settler.expire(20.0) == settled(NOON, last_time + 5, 65, 2, lost=lost)


def test_the_slack_is_exactly_a_second_and_a_quarter() -> None:
    for per_second, below, above in ((1, 10.75, 10.749), (10**9, 10_750_000_000, 10_749_999_999)):
        for now, lost in ((below, False), (above, True)):
            settler = RtcChangeSettler(per_second=per_second)
            settler.set_rtc(NOON, 10 * per_second)
            settler.add(RtcChange(NOON + 2, 5), now)
            event = settler.expire(20 * per_second)
            assert event is not None and event.lost == lost, (per_second, now)


def test_a_gap_across_updates_and_against_a_known_rtc_is_told() -> None:
    settler = RtcChangeSettler()
    settler.set_rtc(NOON, 5.0)
    settler.add(RtcChange(NOON + 100, 60), 10.0)
    event = settler.expire(11.0)
    assert event is not None and event.lost
    settler.add(RtcChange(NOON + 160 + 10, 5), 15.0)
    event = settler.expire(16.0)
    assert event is not None and event.lost, "10 s in 5"
    settler.add(RtcChange(NOON + 175 + 5, 5), 20.0)
    event = settler.expire(21.0)
    assert event is not None and not event.lost


def test_a_reset_anchors_the_chain_anew_and_leaves_the_pending_update_alone() -> None:
    settler = RtcChangeSettler()
    settler.set_rtc(NOON, 5.0)
    settler.add(RtcChange(NOON + 5, 86400), 10.0)
    settler.set_rtc(NOON + 5, 10.5)
    assert settler.deadline == 11.0
    assert settler.expire(11.0) == settled(NOON + 5, NOON + 5 + 86400, 86400, 1)
    settler.add(RtcChange(NOON + 8, 1), 14.0)
    assert settler.expire(15.0) == settled(NOON + 8, NOON + 9, 1, 1)


def test_what_was_known_of_the_rtc_earlier_does_not_replace_what_is_known_now() -> None:
    settler = RtcChangeSettler()
    settler.add(RtcChange(NOON, 60), 10.0)
    settler.set_rtc(0, 9.0)
    settler.add(RtcChange(-1, NOON + 101), 10.5)
    assert settler.expire(20.0) == settled(NOON, NOON + 100, 60 + 40, 2, estimated=True)


def test_a_stamp_that_goes_back_counts_as_the_one_before() -> None:
    settler = RtcChangeSettler()
    settler.add(RtcChange(NOON, 60), 10.0)
    settler.add(RtcChange(NOON + 60, 1), 9.5)
    assert settler.deadline == 11.0


def test_a_stamp_from_before_the_end_of_a_window_that_was_told_counts_as_that_end() -> None:
    """A writer whose stamps stand still would otherwise get an event told for each raw one it sends."""
    settler = RtcChangeSettler()
    settler.add(RtcChange(NOON, 60), 10.0)
    assert settler.expire(15.0) is not None
    settler.add(RtcChange(NOON + 61, 1), 10.1)
    assert settler.deadline == 12.0
    assert settler.expire(15.0) is not None
    settler.add(RtcChange(-1, NOON + 101), 10.1)
    assert settler.deadline == 13.0
    event = settler.expire(15.0)
    assert event is not None and event.last_time == NOON + 63


def test_refused_events_are_told_by_the_next_event_to_settle_and_once() -> None:
    settler = RtcChangeSettler()
    settler.add(RtcChange(NOON, 60), 10.0)
    settler.note_overrun(3)
    settler.note_overrun(2)
    event = settler.expire(11.0)
    assert event is not None and event.overrun == 5 and event.as_json()["overrun"] == 5
    settler.add(RtcChange(NOON + 62, 60), 12.0)
    event = settler.expire(13.0)
    assert event is not None and event.overrun == 0 and "overrun" not in event.as_json()


def test_nanoseconds_stay_exact_however_long_the_machine_is_up() -> None:
    """Beyond 2^53 ns a float no longer knows the nanosecond: .999999999 would be the next second."""
    settler = RtcChangeSettler(per_second=10**9)
    up = 400 * 86400 * 10**9
    settler.set_rtc(NOON, up)
    settler.add(RtcChange(-1, NOON + 101), up + 999_999_999)
    assert settler.deadline == up + 1_999_999_999
    assert settler.expire(up + 1_999_999_998) is None
    assert settler.expire(up + 1_999_999_999) == settled(NOON, NOON + 100, 100, 1, estimated=True)


@pytest.mark.parametrize("window", [0, -1.0, float("nan")])
def test_a_window_must_be_positive(window: float) -> None:
    with pytest.raises(ValueError, match="settle window"):
        RtcChangeSettler(window)


TOP, BOTTOM = 2**63 - 1, -(2**63)


def test_a_change_beyond_64_bits_is_none_that_an_rtc_can_have_made() -> None:
    settler = RtcChangeSettler()
    assert not settler.add(RtcChange(TOP, 1), 10.0)
    assert not settler.add(RtcChange(BOTTOM, -1), 10.0)
    assert settler.deadline is None
    assert settler.add(RtcChange(BOTTOM, TOP), 10.0)
    assert settler.add(RtcChange(TOP, BOTTOM), 10.0)
    assert settler.expire(11.0) == settled(BOTTOM, -1, -1, 2, lost=True)


def test_a_sum_or_an_estimate_that_64_bits_do_not_hold_is_null() -> None:
    settler = RtcChangeSettler()
    settler.add(RtcChange(BOTTOM, TOP), 10.0)
    settler.add(RtcChange(-1, TOP), 10.0)
    assert settler.expire(11.0) == settled(BOTTOM, TOP - 1, None, 2)
    settler.add(RtcChange(-1, 1), 20.0)
    assert settler.expire(21.0) == settled(None, 0, None, 1, estimated=True)
