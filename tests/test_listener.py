"""The listener: cuts any stream into objects, journals everything, and says why it did not get through."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.listener import ListenerProcess, ObjectReader
from harness.listener.recorder import STARVED_NS
from harness.listener.waits import ProcessorWaits, waits_of_peer
from tests.observer_support import Service

PATIENCE = 60.0
EVENT = {"vm_event": 0, "last_time": -1, "new_time": 1, "delta_time": 2, "text": 'a{"\\ü}', "n": None, "f": 1.5e-3}
json_objects = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(st.lists(st.tuples(json_objects, st.sampled_from([None, "\t", 2]), st.booleans()), max_size=4), st.data())
def test_unframed_objects_come_out_whole_however_the_stream_is_cut(
    objects: list[tuple[dict[str, object], str | int | None, bool]], data: st.DataObject
) -> None:
    stream = b"".join(
        json.dumps(value, indent=indent, ensure_ascii=plain).encode() + data.draw(st.sampled_from([b"", b"\n", b"\t "]))
        for value, indent, plain in objects
    )
    reader = ObjectReader()
    found: list[object] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert found == [value for value, _, _ in objects]
    assert reader.rest() == b""


@given(st.binary(max_size=40))
def test_garbage_never_raises_and_hides_no_later_object_behind_a_line_of_its_own(noise: bytes) -> None:
    reader = ObjectReader()
    found = reader.feed(noise)
    assert all(isinstance(item, (dict, bytes)) for item in found)


@pytest.mark.parametrize("noise", [b"x", b"}{", b"[1]", b"\xff\x00\xfe", b"{{", b'{"a" 1}', b"{1}"])
def test_the_object_after_garbage_is_found(noise: bytes) -> None:
    found = ObjectReader().feed(noise + json.dumps(EVENT).encode())
    assert found[-1] == EVENT
    assert b"".join(item for item in found if isinstance(item, bytes)).strip(b"\0") != b""


def journal(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def told_of(path: Path) -> list[dict[str, object]]:
    """The journal without what the listener says of itself and its machine."""
    return [record for record in journal(path) if record["kind"] not in {"alive", "stall", "cpu-stall", "starved"}]


@pytest.fixture(scope="module")
def listening() -> Iterator[ListenerProcess]:
    with ListenerProcess() as process:
        yield process


def test_journals_acks_events_garbage_and_the_end_in_order_and_drops_attached_descriptors(
    listening: ListenerProcess, tmp_path: Path
) -> None:
    # given an event service that attaches a descriptor to what it sends, as acrn-dm does
    told = threading.Semaphore(0)
    with Service(tmp_path / "s") as server:
        listener = listening.listener(tmp_path / "s", tmp_path / "events.jsonl", told.release)
        listener.connect(Deadline(PATIENCE))
        # when it sends an event, garbage and its end
        with open("/dev/null") as null:
            socket.send_fds(server.client, [json.dumps(EVENT, indent="\t").encode()], [null.fileno()])
        server.registered.wait()
        server.client.sendall(b"oops")
        server.client.shutdown(socket.SHUT_RDWR)
        while listener.ended is None:
            assert told.acquire(timeout=PATIENCE)
        listener.close()
    # then all of it is in the journal
    assert server.asked == b'{"command":"register_vm_event_client"}'
    records = told_of(tmp_path / "events.jsonl")
    assert [record["kind"] for record in records] == ["connected", "ack", "object", "garbage", "closed", "end"]
    assert records[2]["event"] == EVENT and records[3]["hex"] == b"oops".hex()
    stamps = [int(str(record["t_ns"])) for record in records]
    assert stamps == sorted(stamps)


def test_a_refusal_is_an_error_that_names_the_socket(listening: ListenerProcess, tmp_path: Path) -> None:
    with (
        Service(tmp_path / "s", b'{"ack":-1}'),
        listening.listener(tmp_path / "s", tmp_path / "e") as listener,
        pytest.raises(InfrastructureError, match="refused") as caught,
    ):
        listener.connect(Deadline(PATIENCE))
    assert str(tmp_path / "s") in str(caught.value)


def test_no_service_is_an_error_after_the_deadline_or_once_the_device_model_is_dead(
    listening: ListenerProcess, tmp_path: Path
) -> None:
    with (
        listening.listener(tmp_path / "s", tmp_path / "e") as listener,
        pytest.raises(InfrastructureError, match="no event service") as caught,
    ):
        listener.connect(Deadline(0.05))
    assert "No such file" in str(caught.value) and caught.value.awaited is not None
    deadline = Deadline(PATIENCE)
    with listening.listener(tmp_path / "s", tmp_path / "e") as listener, pytest.raises(InfrastructureError):
        listener.connect(deadline, given_up=lambda: True)
    assert not deadline.expired


def _hang_up(server: Service) -> None:
    server.registered.wait()
    server.client.shutdown(socket.SHUT_RDWR)


def test_a_service_that_hangs_up_before_it_answers_is_an_error_at_once(
    listening: ListenerProcess, tmp_path: Path
) -> None:
    with Service(tmp_path / "s", b"") as server, listening.listener(tmp_path / "s", tmp_path / "e") as listener:
        hang_up = threading.Thread(target=_hang_up, args=(server,))
        hang_up.start()
        with pytest.raises(InfrastructureError, match="closed by the service"):
            listener.connect(Deadline(PATIENCE))
        hang_up.join()


def test_a_socket_path_longer_than_an_address_works(listening: ListenerProcess, tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    short = tmp_path / "s"
    with Service(short):
        (folder / "s").symlink_to(short)
        with listening.listener(folder / "s", tmp_path / "e") as listener:
            listener.connect(Deadline(PATIENCE))


def test_close_ends_a_silent_connection(listening: ListenerProcess, tmp_path: Path) -> None:
    with Service(tmp_path / "s"):
        listener = listening.listener(tmp_path / "s", tmp_path / "e")
        listener.connect(Deadline(PATIENCE))
        listener.close()
        listener.close()
    assert [record["kind"] for record in told_of(tmp_path / "e")] == ["connected", "ack", "end"]
    assert "alive" in {record["kind"] for record in journal(tmp_path / "e")}


def test_a_journal_that_cannot_be_written_is_told(listening: ListenerProcess, tmp_path: Path) -> None:
    with (
        Service(tmp_path / "s"),
        listening.listener(tmp_path / "s", Path("/dev/full")) as listener,
        pytest.raises(InfrastructureError, match="No space left"),
    ):
        listener.connect(Deadline(PATIENCE))


def test_a_listening_process_that_is_killed_is_told_to_all_its_listeners(tmp_path: Path) -> None:
    with ListenerProcess() as process, Service(tmp_path / "s"):
        told = threading.Event()
        listener = process.listener(tmp_path / "s", tmp_path / "e", told.set)
        listener.connect(Deadline(PATIENCE))
        told.clear()
        os.kill(process.pid, signal.SIGKILL)
        while listener.failure is None:
            assert told.wait(PATIENCE)
            told.clear()
        assert "ended" in listener.failure
        listener.close()


def test_a_stopped_processor_or_listener_is_noted(tmp_path: Path) -> None:
    # given a listener
    with (
        ListenerProcess() as process,
        Service(tmp_path / "s"),
        process.listener(tmp_path / "s", tmp_path / "e") as listener,
    ):
        listener.connect(Deadline(PATIENCE))
        # when its whole process is stopped for a while
        os.kill(process.pid, signal.SIGSTOP)
        threading.Event().wait(0.2)  # the stall itself: nothing to await
        os.kill(process.pid, signal.SIGCONT)
        # then it says so itself
        deadline = Deadline(PATIENCE)
        kinds: set[object] = set()
        while not {"stall", "cpu-stall"} <= kinds:
            assert not deadline.expired
            kinds = {record["kind"] for record in journal(tmp_path / "e")}
    stalls = [record for record in journal(tmp_path / "e") if record["kind"] == "stall"]
    assert max(int(str(s["to_ns"])) - int(str(s["from_ns"])) for s in stalls) > 150_000_000


# -- what the kernel says of the service's waits -----------------------------------------------------------------

SPINS = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nprint(flush=True)\nwhile True: pass"


def test_a_process_that_others_leave_no_processor_is_seen_to_wait_and_one_that_sleeps_is_not() -> None:
    # given two processes that spin on one processor, and one that sleeps
    cpu = str(min(os.sched_getaffinity(0)))
    with ExitStack() as stack:
        spinning, other, asleep = (
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for command in (*2 * [[sys.executable, "-c", SPINS, cpu]], ["cat"])
        )
        for process in (spinning, other, asleep):
            stack.callback(process.kill)
        for process in (spinning, other):
            assert process.stdout is not None and process.stdout.readline()
        waits, none = ProcessorWaits(spinning.pid), ProcessorWaits(asleep.pid)
        # when the two have got into each other's way, then the kernel has counted it
        deadline, waited = Deadline(PATIENCE), 0
        while waited < STARVED_NS:
            assert not deadline.expired
            waited += waits.grown()
        assert none.grown() == 0
    assert waits.grown() == 0, "a process that has ended waits no more"


def test_of_many_threads_only_the_two_that_waited_longest_count(tmp_path: Path) -> None:
    # given a process of four threads, as the kernel shows one
    waits = ProcessorWaits(0)
    waits._tasks = str(tmp_path)
    for thread, waited_ns in enumerate((5, 40, 7, 30)):
        (tmp_path / str(thread)).mkdir()
        (tmp_path / str(thread) / "schedstat").write_text(f"99 {waited_ns} 1\n")
    # then an event that goes through two of them was held up for no longer than that
    assert waits.grown() == 70
    assert waits.grown() == 0


def test_the_waits_of_whoever_listens_are_asked_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))
        waits = waits_of_peer(client)
    assert waits is not None and waits._tasks == f"/proc/{os.getpid()}/task"
