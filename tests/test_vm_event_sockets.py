"""The monitor socket's file: mode, left-overs, live owners, long paths."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness.vm_event import MonitorError
from harness.vm_event.sockets import ListeningSocket, connect
from tests.vm_event_support import nothing_left_open


def leave_a_dead_socket(path: Path) -> None:
    """As a killed process does."""
    program = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)
    assert path.exists()


def test_the_file_is_for_its_owner_alone_and_goes_with_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    with nothing_left_open():
        listener = ListeningSocket(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_ISSOCK(path.stat().st_mode)
        connect(path).close()
        listener.close()
    assert list(tmp_path.iterdir()) == []


def test_the_left_over_file_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    leave_a_dead_socket(path)
    with pytest.raises(MonitorError, match="Connection refused"):
        connect(path)
    listener = ListeningSocket(path)
    connect(path).close()
    listener.close()


def test_a_live_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    with nothing_left_open():
        first = ListeningSocket(path)
        with pytest.raises(MonitorError, match="another process is listening there"):
            ListeningSocket(path)
        connect(path).close()
        first.close()


def test_a_live_socket_whose_backlog_is_full_is_left_alone_too(tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    with socket.socket(socket.AF_UNIX) as owner, socket.socket(socket.AF_UNIX) as waiting:
        owner.bind(str(path))
        owner.listen(0)
        waiting.connect(str(path))
        with pytest.raises(MonitorError, match="another process is listening there"):
            ListeningSocket(path)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    path.write_text("precious")
    with nothing_left_open(), pytest.raises(MonitorError, match="not a socket"):
        ListeningSocket(path)
    assert path.read_text() == "precious"


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no" / "monitor"
    with nothing_left_open(), pytest.raises(MonitorError, match="monitor: No such file or directory"):
        ListeningSocket(path)
    with nothing_left_open(), pytest.raises(MonitorError, match="monitor: No such file or directory"):
        connect(path)


@pytest.mark.parametrize("length", [60, 107, 108, 109, 300])
def test_paths_longer_than_sun_path_work(tmp_path: Path, length: int) -> None:
    directory = tmp_path
    while len(str(directory)) < length - 60:
        directory /= "d" * 49
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ("m" * max(1, length - len(str(directory)) - 1))
    assert len(str(path)) == length or length < len(str(tmp_path)) + 2
    with nothing_left_open():
        listener = ListeningSocket(path)
        connect(path).close()
        with pytest.raises(MonitorError, match="listening"):
            ListeningSocket(path)
        listener.close()
    assert not path.exists()
    leave_a_dead_socket_at_any_length(path)
    ListeningSocket(path).close()
    assert not path.exists()


def leave_a_dead_socket_at_any_length(path: Path) -> None:
    program = "import sys; from pathlib import Path; from harness.vm_event.sockets import ListeningSocket as L; "
    program += "import os; L(Path(sys.argv[1])); os._exit(0)"
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60, cwd=root)
    assert path.exists()


def test_a_name_no_address_can_hold_is_an_error(tmp_path: Path) -> None:
    with nothing_left_open(), pytest.raises(MonitorError, match="too long"):
        ListeningSocket(tmp_path / ("m" * 200))


def test_closing_does_not_remove_the_file_of_a_successor(tmp_path: Path) -> None:
    path = tmp_path / "monitor"
    first = ListeningSocket(path)
    path.unlink()
    second = ListeningSocket(path)
    first.close()
    connect(path).close()
    second.close()
    assert not path.exists()
