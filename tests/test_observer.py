"""The observer on a host: what it hears is journalled in our time; its death, its silence, a cut link are told."""

from __future__ import annotations

import itertools
import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.hosts.local import LocalHost
from harness.listener import EventListener, journals, remote
from harness.listener.remote import RemoteListening
from harness.onhost.observer import Observer
from harness.vm_event import RtcChange, VmEventService
from tests.observer_support import FarHost, Service, journal, told_of
from tests.vm_event_support import INSTANT, NOON, nothing_left_open

PATIENCE = 60.0
MS = 1_000_000


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = Deadline(PATIENCE)
    while not condition():
        assert not deadline.expired, what
        time.sleep(0.005)


@contextmanager
def listening_on(host: LocalHost, folder: Path) -> Iterator[RemoteListening]:
    with nothing_left_open(), host, RemoteListening(host, folder, Deadline(PATIENCE)) as listening:
        yield listening


@pytest.fixture
def host() -> FarHost:
    return FarHost()


@pytest.fixture
def listening(host: FarHost, tmp_path: Path) -> Iterator[RemoteListening]:
    with listening_on(host, tmp_path) as made:
        yield made


def connected(listening: RemoteListening, path: Path, events: Path) -> EventListener:
    listener = listening.listener(path, events)
    listener.connect(Deadline(PATIENCE))
    return listener


def failed(listener: EventListener) -> str:
    eventually(lambda: listener.failure is not None, "the failure to be told")
    assert listener.failure is not None
    return listener.failure


def test_a_real_service_is_heard_in_our_time_within_what_each_stamp_claims(tmp_path: Path) -> None:
    # given a service on the host and the observer there (whose clock, here, is ours: the truth is known)
    events = tmp_path / "events.jsonl"
    with listening_on(LocalHost(), tmp_path) as listening, VmEventService("vm0", window=INSTANT) as service:
        service.start(tmp_path / "s")
        listener = connected(listening, tmp_path / "s", events)
        # when it tells of an update
        before = time.monotonic_ns()
        service.send(RtcChange(NOON, 5))
        eventually(lambda: '"kind":"object"' in events.read_text(), "the event")
        after = time.monotonic_ns()
        listener.close()
    # then that is in the journal, with the moment
    records = told_of(events)
    assert [record["kind"] for record in records] == ["connected", "ack", "object", "end"]
    assert records[2]["event"]["delta_time"] == 5 and before <= records[2]["host_ns"] <= after
    for record in journal(events):
        assert abs(record["t_ns"] - record["host_ns"]) <= record["uncertainty_ns"] < PATIENCE * 1e9
    assert "alive" in {record["kind"] for record in journal(events)}
    # and every sample of the clock is on disk
    kept = journal(tmp_path / "clock.jsonl")
    assert kept[0] == {"kind": "start", "t_ns": kept[0]["t_ns"], "host": "local", "drift_ppm": 200}
    assert {record["kind"] for record in kept[1:]} == {"sample"}
    assert all(record["sent_ns"] <= record["theirs_ns"] <= record["received_ns"] for record in kept[1:])


def test_garbage_and_the_end_of_the_stream_are_journalled(listening: RemoteListening, tmp_path: Path) -> None:
    with Service(tmp_path / "s") as service:
        listener = connected(listening, tmp_path / "s", tmp_path / "e")
        service.send(b'oops{"a":1}')
        service.client.close()
        eventually(lambda: listener.ended is not None, "the end")
        listener.close()
    records = told_of(tmp_path / "e")
    assert [record["kind"] for record in records] == ["connected", "ack", "garbage", "object", "closed", "end"]
    assert records[2]["hex"] == b"oops".hex() and listener.ended == "closed by the service"
    assert listener.failure is None


def test_ten_thousand_objects_are_all_heard_in_their_order(listening: RemoteListening, tmp_path: Path) -> None:
    with Service(tmp_path / "s") as service:
        listener = connected(listening, tmp_path / "s", tmp_path / "e")
        service.send(b"".join(json.dumps({"n": n, "text": "x" * 50}).encode() for n in range(10_000)))
        service.client.close()
        eventually(lambda: listener.ended is not None, "the end")
        listener.close()
    objects = [record for record in told_of(tmp_path / "e") if record["kind"] == "object"]
    assert [record["event"]["n"] for record in objects] == list(range(10_000))
    stamps = [record["t_ns"] for record in objects]
    assert stamps == sorted(stamps)
    assert all(abs(record["t_ns"] - record["host_ns"]) <= record["uncertainty_ns"] for record in objects)


def test_several_guests_are_heard_apart(listening: RemoteListening, tmp_path: Path) -> None:
    with Service(tmp_path / "a") as one, Service(tmp_path / "b") as other:
        listeners = [connected(listening, tmp_path / name, tmp_path / f"{name}.jsonl") for name in "ab"]
        one.send(b'{"of":"a"}')
        other.send(b'{"of":"b"}')
        for name in "ab":
            path = tmp_path / f"{name}.jsonl"
            eventually(lambda path=path: '"kind":"object"' in path.read_text(), "its event")  # type: ignore[misc]
        for listener in listeners:
            listener.close()
    for name in "ab":
        assert [r["event"] for r in told_of(tmp_path / f"{name}.jsonl") if r["kind"] == "object"] == [{"of": name}]


def test_a_refusal_names_socket_and_host(listening: RemoteListening, tmp_path: Path) -> None:
    with (
        Service(tmp_path / "s", b'{"ack":-1}'),
        listening.listener(tmp_path / "s", tmp_path / "e") as listener,
        pytest.raises(InfrastructureError, match="on far-host: it refused"),
    ):
        listener.connect(Deadline(PATIENCE))


def test_a_journal_that_cannot_be_opened_or_written_is_told(listening: RemoteListening, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="cannot be opened"):
        listening.listener(tmp_path / "s", tmp_path / "none" / "e").connect(Deadline(PATIENCE))
    with (
        Service(tmp_path / "s"),
        listening.listener(tmp_path / "s", Path("/dev/full")) as listener,
        pytest.raises(InfrastructureError, match="No space left"),
    ):
        listener.connect(Deadline(PATIENCE))


# -- ends -------------------------------------------------------------------------------------------------------


def test_an_observer_that_is_killed_is_told_to_all_its_listeners(
    host: FarHost, listening: RemoteListening, tmp_path: Path
) -> None:
    with Service(tmp_path / "a"), Service(tmp_path / "b"):
        listeners = [connected(listening, tmp_path / name, tmp_path / f"{name}.jsonl") for name in "ab"]
        os.kill(host.process.pid, signal.SIGKILL)
        for listener in listeners:
            assert "the observer on far-host has ended (exit status -9)" in failed(listener)
        assert listening.failure is not None and listening.failure.awaited is not None
        with pytest.raises(InfrastructureError, match="has ended"):
            listening.listener(tmp_path / "a", tmp_path / "e").connect(Deadline(PATIENCE))


def test_a_link_that_was_cut_is_told_apart_from_an_observer_that_ended(
    host: FarHost, listening: RemoteListening, tmp_path: Path
) -> None:
    with Service(tmp_path / "s"):
        listener = connected(listening, tmp_path / "s", tmp_path / "e")
        host.cut_link()
        assert "nothing is heard from far-host any more: connection reset" in failed(listener)


@pytest.mark.parametrize(
    ("hangs", "expected"),
    [(True, "far-host hangs, or the link to it stands still"), (False, "far-host stands still, though the host")],
)
def test_silence_is_told_with_how_long_it_lasted_and_whether_the_host_answers(
    host: FarHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool, expected: str
) -> None:
    monkeypatch.setattr(remote, "SILENCE_NS", 1_000 * MS)
    monkeypatch.setattr(remote, "DOUBT_NS", 300 * MS)
    host.hangs = hangs
    with listening_on(host, tmp_path) as listening, Service(tmp_path / "s"):
        listener = connected(listening, tmp_path / "s", tmp_path / "e")
        os.kill(host.process.pid, signal.SIGSTOP)
        try:
            assert expected in failed(listener)
        finally:
            os.kill(host.process.pid, signal.SIGCONT)
        assert listening.failure is not None and listening.failure.waited is not None
        assert 0.9 < listening.failure.waited < PATIENCE
        assert "a sign of life from the observer on far-host" in str(listening.failure)


def test_an_observer_that_stood_still_for_a_while_says_so_itself(
    host: FarHost, listening: RemoteListening, tmp_path: Path
) -> None:
    with Service(tmp_path / "s"):
        listener = connected(listening, tmp_path / "s", tmp_path / "e")
        os.kill(host.process.pid, signal.SIGSTOP)
        threading.Event().wait(0.2)  # the stall itself: nothing to await
        os.kill(host.process.pid, signal.SIGCONT)
        eventually(lambda: '"stall"' in (tmp_path / "e").read_text(), "the note")
        listener.close()
    stalls = [record for record in journal(tmp_path / "e") if record["kind"] == "stall"]
    assert max(record["to_ns"] - record["from_ns"] for record in stalls) > 150 * MS


def test_an_observer_that_never_answers_is_an_error_at_the_deadline(tmp_path: Path) -> None:
    mute = executable(tmp_path / "mute", "#!/bin/sh\necho a word on stderr >&2\nexec cat\n")
    with nothing_left_open(), FarHost(mute) as host, pytest.raises(InfrastructureError, match="not answer") as caught:
        RemoteListening(host, tmp_path, Deadline(0.5))
    assert "a word on stderr" in str(caught.value) and caught.value.awaited == "its first answer"


def test_what_a_login_prints_first_is_no_harm_and_is_shown_if_nothing_follows(tmp_path: Path) -> None:
    chatty = executable(tmp_path / "chatty", f'#!/bin/sh\necho "Welcome!"\nexec {sys.executable} "$@"\n')
    with listening_on(FarHost(chatty), tmp_path) as listening, Service(tmp_path / "s"):
        connected(listening, tmp_path / "s", tmp_path / "e").close()
    assert "ack" in (tmp_path / "e").read_text()
    silent = executable(tmp_path / "silent", '#!/bin/sh\necho "This account is closed."\n')
    with nothing_left_open(), FarHost(silent) as host, pytest.raises(InfrastructureError) as caught:
        RemoteListening(host, tmp_path, Deadline(PATIENCE))
    assert "has ended (exit status 0)" in str(caught.value) and "This account is closed." in str(caught.value)


def test_output_that_cannot_be_the_observers_ends_the_listening(tmp_path: Path) -> None:
    body = f'#!/bin/sh\nexec 3<&0\n{sys.executable} "$@" <&3 &\nsleep 0.5\necho "A process died; sorry."\nwait\n'
    with (
        listening_on(FarHost(executable(tmp_path / "noisy", body)), tmp_path) as listening,
    ):
        eventually(lambda: listening.failure is not None, "the failure")
        assert "none of its lines" in str(listening.failure) and "A process died" in str(listening.failure)


def executable(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


# -- a link that stands still, a harness that does not read ------------------------------------------------------


def test_over_a_link_that_stood_still_nothing_is_lost_and_every_stamp_is_as_if_it_had_not(
    host: FarHost, listening: RemoteListening, tmp_path: Path
) -> None:
    with Service(tmp_path / "s") as service:
        listener = connected(listening, tmp_path / "s", tmp_path / "e")
        host.process.relay.stop()
        sent_ns = time.monotonic_ns()
        service.send(b'{"n":1}')
        threading.Event().wait(0.3)  # what was under way has come by then, or not at all
        before = journal(tmp_path / "e")
        threading.Event().wait(0.9)  # the outage itself: nothing to await
        # while it lasts nothing is heard, and nothing attested
        assert journal(tmp_path / "e") == before
        host.process.relay.go_on()
        eventually(lambda: '"kind":"object"' in (tmp_path / "e").read_text(), "the event")
        listener.close()
    assert listener.failure is None
    (event,) = [record for record in journal(tmp_path / "e") if record["kind"] == "object"]
    assert abs(event["t_ns"] - event["host_ns"]) <= event["uncertainty_ns"] < 600 * MS
    assert sent_ns <= event["host_ns"]
    # then it is attested afterwards: the observer has listened all the time
    alive = [record["host_ns"] for record in journal(tmp_path / "e") if record["kind"] == "alive"]
    stalled = any(record["kind"] == "stall" for record in journal(tmp_path / "e"))
    assert stalled or max(b - a for a, b in itertools.pairwise(alive)) < 900 * MS


class _Counting(Observer):
    """Says how many events it has heard."""

    heard_so_far = 0

    def open_journal(self, number: int, command: dict[str, str]) -> journals.Journal:
        journal = super().open_journal(number, command)
        add = journal.add

        def counted(record: Mapping[str, Any]) -> None:
            add(record)
            self.heard_so_far += record["kind"] == "object"

        journal.add = counted  # type: ignore[method-assign]
        return journal


class HeldObserver:
    """An observer in a thread, whose harness reads only when it is told to."""

    def __init__(self) -> None:
        self._commands, command_end = os.pipe()
        self._command_end = command_end
        self.output, output_end = os.pipe()
        self._output_end = output_end
        self.observer = _Counting(self._commands, output_end)
        self._thread = threading.Thread(target=self.observer.run)
        self._thread.start()

    def __enter__(self) -> HeldObserver:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._command_end)
        self._thread.join()
        for descriptor in (self._commands, self.output, self._output_end):
            os.close(descriptor)

    def tell(self, **command: object) -> None:
        os.write(self._command_end, json.dumps(command).encode() + b"\n")

    def read_until(self, over: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        data = b""
        while not found or not over(found[-1]):
            data += os.read(self.output, 65536)
            *lines, data = data.split(b"\n")
            for line in lines:
                found.append(json.loads(line))
                if over(found[-1]):
                    break
        return found


def test_a_harness_that_does_not_read_delays_no_stamp_and_hears_all_in_the_end(tmp_path: Path) -> None:
    # given an observer whose output is full
    with nothing_left_open(), Service(tmp_path / "s") as service, HeldObserver() as held:
        held.tell(id=1, do="listen", socket=str(tmp_path / "s"))
        moments = []
        for number in range(40):
            moments.append(time.monotonic_ns())
            service.send(json.dumps({"n": number, "text": "x" * 20_000}).encode())
            eventually(lambda: held.observer.heard_so_far == len(moments), "it to be heard")
        moments.append(time.monotonic_ns())
        # when it is read at last, a ping is answered before what waits
        held.tell(id=7, do="ping")
        threading.Event().wait(0.05)
        found = held.read_until(lambda line: line.get("record", {}).get("event", {}).get("n") == 39)
    stamps = [line["record"]["t_ns"] for line in found if line.get("record", {}).get("kind") == "object"]
    assert len(stamps) == 40
    assert all(a <= stamp <= b for a, stamp, b in zip(moments, stamps, moments[1:], strict=False))
    order = [line.get("is") or line["record"].get("event", {}).get("n") for line in found]
    assert order.index("pong") < order.index(39)


def test_more_than_can_be_kept_is_an_error_and_never_a_silent_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "MOST_WAITING", 200_000)
    with nothing_left_open(), Service(tmp_path / "s") as service, HeldObserver() as held:
        held.tell(id=1, do="listen", socket=str(tmp_path / "s"))
        objects = b"".join(json.dumps({"n": number, "text": "x" * 1000}).encode() for number in range(2000))
        with pytest.raises(OSError):  # it is listened to no more: a pipe that broke, or was reset
            while True:
                service.send(objects)
        held.tell(id=7, do="ping")
        found = held.read_until(lambda line: line.get("is") == "failed")
    assert "which does not read them" in found[-1]["why"]
    numbers = [line["record"]["event"]["n"] for line in found if line.get("record", {}).get("kind") == "object"]
    assert numbers == list(range(len(numbers))) and numbers


def test_a_flood_of_garbage_is_counted_and_does_not_end_the_listening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "_SLOW", 50_000)
    monkeypatch.setattr(journals, "MOST_WAITING", 400_000)
    with nothing_left_open(), Service(tmp_path / "s") as service, HeldObserver() as held:
        held.tell(id=1, do="listen", socket=str(tmp_path / "s"))
        for _ in range(300):
            service.send(b"x" * 10_000)
        service.send(b'{"n":1}')
        found = held.read_until(lambda line: line.get("record", {}).get("kind") == "object")
        assert held.observer.output.waiting < 400_000
    garbage = [line["record"] for line in found if line.get("record", {}).get("kind") == "garbage"]
    assert sum(record.get("bytes", len(record["hex"]) // 2) for record in garbage) == 3_000_000
    assert all(len(record["hex"]) <= 2048 for record in garbage)


def test_an_observer_that_listens_to_nobody_does_not_even_wake() -> None:
    with nothing_left_open(), HeldObserver() as held:
        held.tell(id=1, do="ping")
        held.read_until(lambda line: line["is"] == "pong")
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("pulse")]
        held.tell(id=1, do="ping")
        held.read_until(lambda line: line["is"] == "pong")
