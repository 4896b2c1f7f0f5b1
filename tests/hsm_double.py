"""The stand-in for `/dev/acrn_hsm`, kernel and hypervisor (hsm_double.c), built, preloaded, and given its orders."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vm_event_support import PATIENCE

ROOT = Path(__file__).parents[1]
SOURCE = Path(__file__).with_name("hsm_double.c")
#: A device that is there on every machine, to stand for the HSM: as good a descriptor as any.
DEVICE = Path("/dev/full")
_ORDER = struct.Struct("<IIqqI")


class Hypervisor:
    """What the double does in the process that it is preloaded into."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def put(self, count: int = 1, last_time: int = 0, delta_time: int = 0, kind: int = 0) -> int:
        """Put events, each with its kick; how many found room."""
        return int(self._order("p", count, last_time, delta_time, kind).removeprefix("put "))

    def put_unheard(self, count: int, last_time: int = 0, delta_time: int = 0) -> int:
        """Put events without a kick."""
        return int(self._order("q", count, last_time, delta_time).removeprefix("put "))

    def kick(self) -> None:
        assert self._order("k") == "kicked"

    def page(self) -> str:
        """What has become of the page at the address that was registered: mapped, copied or unmapped; the count of
        overruns, which nobody but a writer of ours ever touches.
        """
        return self._order("s")

    def _order(self, what: str, *numbers: int) -> str:
        padded = (*numbers, 0, 0, 0, 0)[:4]
        self._control.send(_ORDER.pack(ord(what), *padded))
        return self._control.recv(256).decode()


@pytest.fixture(scope="session")
def hsm_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The double, built."""
    library = tmp_path_factory.mktemp("hsm") / "hsm_double.so"
    flags = ["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-pthread"]
    command = ["gcc", *flags, "-o", str(library), str(SOURCE)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return library


@contextmanager
def with_double(
    library: Path, command: Sequence[str], device: int, **more: str
) -> Iterator[tuple[subprocess.Popen[str], Hypervisor]]:
    """A process into which the double is preloaded and which has inherited `device`. Killed at the end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE)
    environment = {
        **os.environ,
        **{"LD_PRELOAD": str(library), "HSM_DOUBLE_CONTROL": str(theirs.fileno()), "PYTHONPATH": str(ROOT)},
        **more,
    }
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, *command], pass_fds=(device, theirs.fileno()), env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        theirs.close()
        try:
            yield process, Hypervisor(ours)
        finally:
            process.kill()
            process.communicate()


@contextmanager
def open_device() -> Iterator[int]:
    """A descriptor to stand for one of `/dev/acrn_hsm`."""
    descriptor = os.open(DEVICE, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
