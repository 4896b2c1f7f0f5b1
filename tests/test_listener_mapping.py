"""Records go on in order, mapped; a doubtful one waits for a sample asked for after it came. Silence is counted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.clock_map import ClockMap
from harness.listener.heartbeat import INTERVAL_NS, SILENCE_NS, Heartbeat
from harness.listener.mapping import Message, StampMapper, stall_of

MS = 1_000_000
SECOND = 1_000_000_000
OFFSET = 5 * SECOND


class Link:
    """A mapper, a host whose clock is OFFSET ahead, and what came through."""

    def __init__(self, trip_ns: int = 200_000) -> None:
        self.clock = ClockMap()
        self.given: list[Message] = []
        self.mapper = StampMapper(self.clock, self.given.append)
        self._trip_ns = trip_ns
        self.sample(0)

    def sample(self, sent_ns: int, ahead_ns: int = OFFSET) -> Any:
        half = self._trip_ns // 2
        found = self.clock.add(sent_ns, sent_ns + half + ahead_ns, sent_ns + self._trip_ns)
        self.mapper.sampled(sent_ns, sent_ns + self._trip_ns)
        return found

    def record(self, theirs_ns: int, arrival_ns: int, kind: str = "object", **more: int) -> None:
        self.mapper.take({"id": 1, "record": {"t_ns": theirs_ns, "kind": kind, **more}}, arrival_ns)

    def stamps(self) -> list[int]:
        return [message["record"]["t_ns"] for message in self.given if "record" in message]


def test_a_record_gets_our_time_and_keeps_its_own_beside() -> None:
    link = Link()
    link.record(OFFSET + SECOND, SECOND + MS)
    (message,) = link.given
    record = message["record"]
    assert abs(record["t_ns"] - SECOND) <= record["uncertainty_ns"] < MS
    assert record["host_ns"] == OFFSET + SECOND and message["id"] == 1


def test_stalls_are_mapped_at_both_ends() -> None:
    link = Link()
    link.record(OFFSET + SECOND, SECOND + MS, "stall", from_ns=OFFSET + SECOND // 2, to_ns=OFFSET + SECOND)
    record = link.given[0]["record"]
    assert abs(record["from_ns"] - SECOND // 2) <= record["uncertainty_ns"]
    assert abs(record["to_ns"] - SECOND) <= record["uncertainty_ns"]


def test_what_was_under_way_for_long_waits_for_proof_and_all_behind_it_too() -> None:
    # given a record that seems to have been under way for 2 s
    link = Link()
    link.record(OFFSET + SECOND, 3 * SECOND)
    link.mapper.take({"id": 1, "is": "closed"}, 3 * SECOND + MS)
    assert link.given == [] and link.mapper.waits_since_ns == 3 * SECOND + MS
    # when a sample comes that was asked for too early, nothing is proven
    link.sample(2 * SECOND)
    assert link.given == []
    # when one comes that was asked for after the first: it was the link that stood still
    link.sample(3 * SECOND)
    assert len(link.given) == 1 and abs(link.stamps()[0] - SECOND) < MS
    link.sample(3 * SECOND + 2 * MS)
    assert link.given[1] == {"id": 1, "is": "closed"} and link.mapper.waits_since_ns is None


def test_a_host_that_was_suspended_does_not_date_its_records_back() -> None:
    # given a host that stood still for a minute, whose record comes before any sample shows it
    link = Link()
    link.sample(SECOND)
    link.record(OFFSET + 2 * SECOND, 62 * SECOND)
    found = link.sample(62 * SECOND + MS, ahead_ns=OFFSET - 60 * SECOND)
    # then it waited for the sample, and may be from any moment in between
    record = link.given[0]["record"]
    assert record["t_ns"] - record["uncertainty_ns"] <= 2 * SECOND + MS
    assert record["t_ns"] + record["uncertainty_ns"] >= 62 * SECOND - 2 * MS
    # and journals are told
    stall = stall_of(found)
    assert stall is not None and stall["kind"] == "stall"
    assert stall["from_ns"] <= SECOND + MS and stall["to_ns"] >= 62 * SECOND
    assert 59 * SECOND < stall["lost_ns"] <= 61 * SECOND


def test_a_harness_that_was_suspended_is_no_stall_of_the_host() -> None:
    link = Link()
    found = link.sample(SECOND, ahead_ns=OFFSET + 60 * SECOND)
    assert found is not None and stall_of(found) is None


def test_without_a_further_sample_what_waits_goes_on_with_all_doubt_there_is() -> None:
    link = Link()
    link.record(OFFSET + SECOND, 3 * SECOND)
    link.mapper.give_up()
    record = link.given[0]["record"]
    assert record["t_ns"] - record["uncertainty_ns"] <= SECOND
    assert record["t_ns"] + record["uncertainty_ns"] >= 3 * SECOND


def test_over_a_slow_link_a_stamp_that_cannot_be_better_is_not_waited_for() -> None:
    link = Link(trip_ns=60 * MS)
    link.record(OFFSET + SECOND, SECOND + 30 * MS)
    assert len(link.given) == 1 and link.given[0]["record"]["uncertainty_ns"] > 25 * MS


def test_a_badly_known_stamp_waits_for_a_better_sample() -> None:
    link = Link()
    link.record(OFFSET + 20 * SECOND, 20 * SECOND + MS)  # long after the last sample
    assert link.given == []
    link.sample(20 * SECOND + 2 * MS)
    assert link.given[0]["record"]["uncertainty_ns"] < MS


@given(
    st.lists(
        st.tuples(st.sampled_from(["record", "answer", "sample"]), st.integers(0, 3 * SECOND), st.integers(0, SECOND)),
        max_size=30,
    )
)
def test_whatever_happens_all_goes_on_once_in_order_and_right(steps: list[tuple[str, int, int]]) -> None:
    link = Link()
    now, sent = SECOND, 0
    truth: list[int] = []
    last = 0
    for what, passed, under_way in steps:
        now += passed
        if what == "sample":
            link.sample(now)
            now += MS
        elif what == "answer":
            link.mapper.take({"id": 1, "is": "waiting", "n": sent}, now)
            sent += 1
        else:
            last = max(last, now - under_way)
            truth.append(last)
            link.record(last + OFFSET, now)
            sent += 1
    link.mapper.give_up()
    assert len(link.given) == sent
    records = [message["record"] for message in link.given if "record" in message]
    assert [record["host_ns"] - OFFSET for record in records] == truth
    assert [record["t_ns"] for record in records] == sorted(record["t_ns"] for record in records)
    assert all(abs(r["t_ns"] - true) <= r["uncertainty_ns"] for r, true in zip(records, truth, strict=True))


# -- the heartbeat ------------------------------------------------------------------------------------------------


def test_pings_are_close_together_at_first_then_each_second_and_at_once_where_one_is_needed() -> None:
    beat, now, sent = Heartbeat(), SECOND, []
    for _ in range(10):
        now = max(now, beat.due_ns(None))
        sent.append(now)
        assert beat.answer(beat.ask(now), now + 100_000) == now
    assert sent[7] - sent[0] < INTERVAL_NS and sent[9] - sent[8] == INTERVAL_NS
    assert beat.due_ns(now + MS) < now + INTERVAL_NS // 10
    assert beat.due_ns(now) == now + INTERVAL_NS, "one is under way that will do"


def test_slow_answers_are_asked_for_more_often_unless_they_always_are() -> None:
    def beat_of(first_trip: int, last_trip: int) -> int:
        beat, now = Heartbeat(), SECOND
        for trip in [*8 * [first_trip], last_trip]:
            now += SECOND
            beat.answer(beat.ask(now), now + trip)
        return beat.due_ns(None) - now

    assert beat_of(100_000, 30 * MS) < INTERVAL_NS
    assert beat_of(30 * MS, 30 * MS) == INTERVAL_NS


def test_an_answer_that_nobody_asked_for_is_none_and_older_questions_are_forgotten() -> None:
    beat = Heartbeat()
    first, second = beat.ask(0), beat.ask(1)
    assert beat.answer(99, 5) is None
    assert beat.answer(second, 5) == 1
    assert beat.answer(first, 6) is None


@pytest.mark.parametrize(("look_ns", "looks"), [(SECOND // 4, 17), (SECOND // 2, 9)])
def test_silence_is_what_we_would_have_noticed(look_ns: int, looks: int) -> None:
    beat = Heartbeat()
    for look in range(looks - 1):
        beat.look(look * look_ns, heard=False)
    assert beat.quiet_ns < SILENCE_NS
    beat.look((looks - 1) * look_ns, heard=False)
    assert beat.quiet_ns >= SILENCE_NS
    beat.look(looks * look_ns, heard=True)
    assert beat.quiet_ns == 0


def test_a_harness_that_was_stopped_for_a_minute_does_not_blame_the_host() -> None:
    beat = Heartbeat()
    beat.look(0, heard=True)
    beat.look(60 * SECOND, heard=False)
    assert beat.quiet_ns < SECOND
