"""The listener: cuts any stream into objects, journals everything, and says why it did not get through."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.listener import EventListener, ObjectReader

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


class Service:
    """A unix socket server for one client: what it answers and sends is the test's to say."""

    def __init__(self, path: Path, ack: bytes = b'{"ack":0}\n') -> None:
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen()
        self._ack = ack
        self.asked = b""
        self.client: socket.socket
        self.registered = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self.client, _ = self._server.accept()
        self.asked = self.client.recv(4096)
        self.client.sendall(self._ack)
        self.registered.set()

    def close(self) -> None:
        self._thread.join()
        self.client.close()
        self._server.close()


@contextmanager
def service(path: Path, ack: bytes = b'{"ack":0}\n') -> Iterator[Service]:
    running = Service(path, ack)
    try:
        yield running
    finally:
        running.close()


def journal(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_journals_acks_events_garbage_and_the_end_in_order_and_drops_attached_descriptors(tmp_path: Path) -> None:
    # given an event service that attaches a descriptor to what it sends, as acrn-dm does
    told = threading.Semaphore(0)
    with service(tmp_path / "s") as server:
        listener = EventListener(tmp_path / "s", tmp_path / "events.jsonl", told.release)
        listener.connect(Deadline(10))
        # when it sends an event, garbage and its end
        with open("/dev/null") as null:
            socket.send_fds(server.client, [json.dumps(EVENT, indent="\t").encode()], [null.fileno()])
        server.registered.wait()
        server.client.sendall(b"oops")
        server.client.shutdown(socket.SHUT_RDWR)
        while listener.ended is None:
            assert told.acquire(timeout=10)
        listener.close()
    # then all of it is in the journal
    assert server.asked == b'{"command":"register_vm_event_client"}'
    records = journal(tmp_path / "events.jsonl")
    assert [record["kind"] for record in records] == ["connected", "ack", "object", "garbage", "closed", "end"]
    assert records[2]["event"] == EVENT and records[3]["hex"] == b"oops".hex()
    stamps = [int(str(record["t_ns"])) for record in records]
    assert stamps == sorted(stamps)


def test_a_refusal_is_an_error_that_names_the_socket(tmp_path: Path) -> None:
    with (
        service(tmp_path / "s", b'{"ack":-1}') as _,
        EventListener(tmp_path / "s", tmp_path / "e") as listener,
        pytest.raises(InfrastructureError, match="refused") as caught,
    ):
        listener.connect(Deadline(10))
    assert str(tmp_path / "s") in str(caught.value)


def test_no_service_is_an_error_after_the_deadline_or_once_the_device_model_is_dead(tmp_path: Path) -> None:
    with EventListener(tmp_path / "s", tmp_path / "e") as listener:
        with pytest.raises(InfrastructureError, match="no event service") as caught:
            listener.connect(Deadline(0.05))
        assert caught.value.awaited is not None
        deadline = Deadline(60)
        with pytest.raises(InfrastructureError):
            listener.connect(deadline, given_up=lambda: True)
        assert deadline.remaining > 30


def test_a_socket_path_longer_than_an_address_works(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    short = tmp_path / "s"
    with service(short):
        (folder / "s").symlink_to(short)
        with EventListener(folder / "s", tmp_path / "e") as listener:
            listener.connect(Deadline(10))


def test_close_ends_a_silent_connection(tmp_path: Path) -> None:
    with service(tmp_path / "s"):
        listener = EventListener(tmp_path / "s", tmp_path / "e")
        listener.connect(Deadline(10))
        listener.note_stall(1, 2)
        listener.close()
        listener.close()
    assert [record["kind"] for record in journal(tmp_path / "e")] == ["connected", "ack", "stall", "end"]
