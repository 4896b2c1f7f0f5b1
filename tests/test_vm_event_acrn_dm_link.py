"""The connection to acrn-dm: it comes back, waits its turn, costs nothing when idle; commands are relayed over it."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from harness.vm_event.acrn_dm import AcrnDmSource
from harness.vm_event.acrn_dm_link import FIRST_RETRY_NS, LONGEST_RETRY_NS, WAITING_LIMIT
from tests.acrn_dm_peer import ACK, NACK, Driven, Peer, printed, rtc_change
from tests.vm_event_support import NOON, SECOND, nothing_left_open

HURRIED = SECOND // 20
"""Patience of a source that is to lose it."""


class Answers:
    """What `relay` was told, in order: (what was asked for, success)."""

    def __init__(self, driven: Driven) -> None:
        self.driven = driven
        self.told: list[tuple[str, bool]] = []

    def ask(self, name: str, argument: str | None = None) -> None:
        self.driven.source.relay(name, argument, lambda success: self.told.append((argument or name, success)))

    def are(self, *expected: tuple[str, bool]) -> None:
        self.driven.until(lambda: len(self.told) >= len(expected), f"{expected}")
        assert tuple(self.told) == expected


@pytest.fixture
def peer(path: Path) -> Iterator[Peer]:
    with nothing_left_open(), Peer(path) as peer:
        yield peer


@pytest.fixture
def driven(peer: Peer, path: Path) -> Iterator[Driven]:
    """A source that is registered."""
    source = AcrnDmSource(path, vm="vm0")
    driven = Driven(source)
    driven.registered_at(peer)
    yield driven
    source.close()


# -- connecting --------------------------------------------------------------------------------------------------------


def test_attempts_to_connect_come_quickly_at_first_and_seldom_later(path: Path) -> None:
    # given that nobody listens
    with nothing_left_open():
        source = AcrnDmSource(path, vm="vm0")
        # when the source is called each time it asks to be
        now, gaps = SECOND, []
        for _ in range(12):
            assert source.collect(now) == []
            due = source.deadline_ns()
            assert due is not None
            gaps.append(due - now)
            now = due
        # then the gaps double, up to their limit
        assert gaps[:4] == [FIRST_RETRY_NS, 2 * FIRST_RETRY_NS, 4 * FIRST_RETRY_NS, 8 * FIRST_RETRY_NS]
        assert gaps[-2:] == [LONGEST_RETRY_NS, LONGEST_RETRY_NS]
        # and before its time nothing is tried
        assert source.collect(now - 1) == [] and source.deadline_ns() == now
        assert source.status()["last_error"] == "No such file or directory"
        assert not source.status()["connected"]
        source.close()


def test_connects_once_somebody_listens_and_again_after_each_end(path: Path) -> None:
    with nothing_left_open():
        source = AcrnDmSource(path, vm="vm0")
        driven = Driven(source)
        driven.turn(0)
        for life in range(3):
            with Peer(path) as peer:
                driven.registered_at(peer)
                peer.send(rtc_change(NOON + life, 1))
                (event,) = driven.take(1)
                assert event.as_json()["last_time"] == NOON + life
            driven.until(lambda: not driven.status["connected"], "the end")
        assert driven.status["reconnects"] >= 2
        source.close()


def test_a_good_connection_that_ends_is_made_again_at_once(peer: Peer, path: Path) -> None:
    source = AcrnDmSource(path, vm="vm0")
    # given a connection that was made long ago
    source.collect(SECOND)
    peer.accept()
    peer.send(ACK)
    source.collect(SECOND)
    assert source.status()["registered"]
    # when it ends
    peer.hang_up()
    source.collect(100 * SECOND)
    assert not source.status()["connected"]
    # then the next attempt is due already
    due = source.deadline_ns()
    assert due is not None and due < 100 * SECOND
    source.collect(100 * SECOND)
    assert source.status()["connected"]
    # and the one after that would come after the first gap
    peer.accept()
    peer.hang_up()
    source.collect(100 * SECOND)
    assert source.deadline_ns() == 100 * SECOND + FIRST_RETRY_NS
    source.close()


def test_when_descriptors_have_run_out_it_is_told_and_tried_again(
    peer: Peer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = AcrnDmSource(path, vm="vm0")

    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", none_left)
        assert source.collect(0) == []
    assert source.status()["last_error"] == "Too many open files"
    due = source.deadline_ns()
    assert due == FIRST_RETRY_NS
    source.collect(due)
    assert source.status()["connected"]
    source.close()


def test_one_that_closes_every_connection_is_not_asked_ever_faster(path: Path) -> None:
    with nothing_left_open(), Peer(path) as peer:
        source = AcrnDmSource(path, vm="vm0")
        driven = Driven(source)
        now = SECOND
        attempts: list[int] = []
        while len(attempts) < 5:
            source.collect(now)
            attempts.append(now)
            peer.accept()
            peer.hang_up()
            driven.until(lambda: not source.status()["connected"], "the end")
            due = source.deadline_ns()
            assert due is not None
            now = due
        gaps = [later - earlier for earlier, later in pairwise(attempts)]
        assert gaps == [FIRST_RETRY_NS * 2**number for number in range(4)]
        source.close()


def test_a_refused_registration_is_told_and_tried_again(peer: Peer, path: Path) -> None:
    source = AcrnDmSource(path, vm="vm0")
    driven = Driven(source)
    driven.until(lambda: driven.status["connected"], "a connection")
    peer.accept()
    peer.send(NACK)
    driven.until(lambda: driven.status["last_error"], "an error")
    assert driven.status["last_error"] == "registration refused: it has another event client"
    assert peer.read() == b"", "it hung up: acrn-dm's only connection is not to be blocked for nothing"
    driven.registered_at(peer)
    source.close()


def test_unanswered_in_the_backlog_it_waits_without_a_sound_until_it_is_served(path: Path) -> None:
    with nothing_left_open(), Peer(path) as peer:
        source = AcrnDmSource(path, vm="vm0", patience_ns=HURRIED)
        driven = Driven(source)
        # given that acrn-dm serves another client
        driven.until(lambda: driven.status["last_error"], "the notice")
        assert driven.status["last_error"].startswith("connected, but not answered")
        # then the source waits, asleep, connected, and not registered
        assert driven.idle()
        assert driven.status["connected"] and not driven.status["registered"]
        # and is served when the other has left
        driven.registered_at(peer)
        assert driven.status["reconnects"] == 0
        source.close()


def test_a_full_backlog_is_told_and_tried_again(path: Path) -> None:
    with nothing_left_open(), Peer(path, backlog=0) as peer, socket.socket(socket.AF_UNIX) as other:
        other.connect(str(path))
        source = AcrnDmSource(path, vm="vm0")
        driven = Driven(source)
        driven.turn()
        assert driven.status["last_error"].startswith("its backlog is full")
        assert not driven.status["connected"]
        other.close()
        assert peer.accept() == b""
        driven.registered_at(peer)
        source.close()


def test_a_path_that_no_socket_can_have_is_told(tmp_path: Path) -> None:
    with nothing_left_open():
        source = AcrnDmSource(str(tmp_path / ("x" * 200)), vm="vm0")
        source.collect(SECOND)
        assert "too long" in source.status()["last_error"]
        source.close()


def test_a_long_path_is_no_matter(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    descriptor = os.open(folder, os.O_PATH)
    with Peer(Path(f"/proc/self/fd/{descriptor}/socket")) as peer:
        source = AcrnDmSource(folder / "socket", vm="vm0")
        Driven(source).registered_at(peer)
        source.close()
    os.close(descriptor)


# -- commands ----------------------------------------------------------------------------------------------------------


def test_commands_are_relayed_one_at_a_time_and_answered_in_order(peer: Peer, driven: Driven) -> None:
    answers = Answers(driven)
    # when two commands are asked for at once
    answers.ask("destroy")
    answers.ask("blkrescan", "3,/new.img")
    driven.turn()
    # then the first is on its way, on one line, and nothing else
    assert peer.read() == b'{"command":"destroy"}\n'
    driven.turn(0)
    assert peer.silent() and answers.told == []
    # and with its answer, between two events, the second
    peer.send(rtc_change(NOON, 1) + NACK + rtc_change(NOON, 2))
    answers.are(("destroy", False))
    assert json.loads(peer.read()) == {"command": "blkrescan", "arguments": "3,/new.img"}
    peer.send(ACK)
    answers.are(("destroy", False), ("3,/new.img", True))
    assert len(driven.take(2)) == 2
    assert (driven.status["relayed"], driven.status["garbage"]) == (2, 0)
    assert driven.idle()


def test_a_command_from_another_thread_wakes_the_source(peer: Peer, driven: Driven) -> None:
    answers = Answers(driven)
    assert driven.idle()
    thread = threading.Thread(target=partial(answers.ask, "destroy"))
    thread.start()
    driven.turn()
    thread.join()
    assert peer.read() == b'{"command":"destroy"}\n'
    peer.send(ACK)
    answers.are(("destroy", True))


def test_an_answer_that_is_no_number_is_none_of_success(peer: Peer, driven: Driven) -> None:
    answers = Answers(driven)
    for strange in (False, "0", None, 1):
        answers.ask("destroy")
        driven.turn()
        peer.read()
        peer.send(printed(ack=strange))
        driven.turn()
    answers.are(*[("destroy", False)] * 4)


def test_a_command_before_the_registration_waits_for_it(peer: Peer, path: Path) -> None:
    source = AcrnDmSource(path, vm="vm0")
    driven = Driven(source)
    answers = Answers(driven)
    answers.ask("destroy")
    driven.turn()
    assert json.loads(peer.accept())["command"] == "register_vm_event_client"
    driven.turn(0)
    assert peer.silent(), "acrn-dm reads one command from a buffer and drops the rest"
    peer.send(ACK)
    driven.turn()
    assert peer.read() == b'{"command":"destroy"}\n'
    peer.send(ACK)
    answers.are(("destroy", True))
    source.close()


def test_without_a_connection_a_command_fails(path: Path) -> None:
    source = AcrnDmSource(path, vm="vm0")
    driven = Driven(source)
    driven.turn()
    answers = Answers(driven)
    answers.ask("destroy")
    driven.turn(0.05)
    answers.are(("destroy", False))
    source.close()


def test_commands_fail_with_the_connection(peer: Peer, driven: Driven) -> None:
    answers = Answers(driven)
    answers.ask("destroy")
    answers.ask("blkrescan", "one")
    driven.turn()
    peer.read()
    peer.hang_up()
    answers.are(("destroy", False), ("one", False))
    # and on the next connection nothing of them is left
    driven.registered_at(peer)
    driven.turn(0)
    assert peer.silent()


def test_a_command_without_an_answer_fails_in_time_and_what_it_was_asked_on_is_given_up(
    peer: Peer, path: Path
) -> None:
    source = AcrnDmSource(path, vm="vm0", patience_ns=HURRIED)
    driven = Driven(source)
    driven.registered_at(peer)
    answers = Answers(driven)
    answers.ask("destroy")
    answers.are(("destroy", False))
    assert driven.status["last_error"] == "no answer to 'destroy' within 0.05 s"
    # then nobody is there for its answer: it would be taken for the next command's
    with pytest.raises(BrokenPipeError):
        peer.send(ACK)
    peer.hang_up()
    driven.registered_at(peer)
    answers.ask("blkrescan", "one")
    driven.turn()
    peer.read()
    peer.send(NACK)
    answers.are(("destroy", False), ("one", False))
    source.close()


def test_a_command_that_waits_too_long_for_the_registration_fails(peer: Peer, path: Path) -> None:
    source = AcrnDmSource(path, vm="vm0", patience_ns=HURRIED)
    driven = Driven(source)
    driven.until(lambda: driven.status["connected"], "a connection")
    answers = Answers(driven)
    answers.ask("destroy")
    answers.are(("destroy", False))
    assert driven.status["connected"], "the place in the backlog is kept"
    source.close()


def test_what_acrn_dm_would_cut_is_not_sent(peer: Peer, driven: Driven) -> None:
    answers = Answers(driven)
    answers.ask("blkrescan", "é" * 160)  # 320 bytes
    assert answers.told == [("é" * 160, False)]
    answers.ask("blkrescan", "x" * 319)
    driven.turn()
    assert json.loads(peer.read())["arguments"] == "x" * 319
    peer.send(ACK)
    answers.are(("é" * 160, False), ("x" * 319, True))


def test_more_commands_than_anyone_needs_are_refused(peer: Peer, driven: Driven) -> None:
    answers = Answers(driven)
    for number in range(WAITING_LIMIT + 1):
        answers.ask("blkrescan", str(number))
    assert answers.told == [(str(WAITING_LIMIT), False)]
    driven.source.close()
    # and at the end each has had its answer
    assert len(answers.told) == WAITING_LIMIT + 1
    answers.ask("destroy")
    assert answers.told[-1] == ("destroy", False)
