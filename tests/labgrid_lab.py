"""A labgrid coordinator and exporter of one's own on the loopback, with a place or two; nothing of them is left."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from tests.vm_event_support import eventually

PATIENCE = 60.0


def _command(program: str) -> list[str]:
    return [sys.executable, "-m", f"labgrid.remote.{program}"]


@dataclass
class Lab:
    """A coordinator at `address`; client: labgrid-client on one of its places, as somebody."""

    address: str
    place: str = "nuc"

    def client(self, *words: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """user: HOST/USER; None: this one."""
        host, _, name = (user or "").partition("/")
        return subprocess.run(
            [*_command("client"), "-x", self.address, "-p", self.place, *words],
            env=os.environ | ({"LG_HOSTNAME": host, "LG_USERNAME": name} if user else {}),
            check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE,
        )  # fmt: skip

    @property
    def holder(self) -> str:
        """Who has the place, as the coordinator says; asked without labgrid's client, which takes half a second."""
        return next(str(place.acquired or "None") for place in self._places() if place.name == self.place)

    @property
    def answers(self) -> bool:
        """Whether the coordinator is there."""
        import grpc

        try:
            return self._places() is not None
        except grpc.RpcError:
            return False

    def _places(self) -> Any:
        import grpc
        from labgrid.remote.generated import labgrid_coordinator_pb2, labgrid_coordinator_pb2_grpc

        with grpc.insecure_channel(self.address) as channel:
            stub = labgrid_coordinator_pb2_grpc.CoordinatorStub(channel)
            return stub.GetPlaces(labgrid_coordinator_pb2.GetPlacesRequest(), timeout=PATIENCE).places


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """With a place `nuc`, which an exporter's resource belongs to."""
    with contextlib.ExitStack() as stack:
        address = _coordinator(stack, folder)
        found = Lab(address)
        (folder / "resources.yaml").write_text("bench:\n  NetworkService:\n    address: 127.0.0.1\n    username: me\n")
        _start(stack, folder / "exporter.log", "exporter", "-c", address, "-n", "lab", str(folder / "resources.yaml"))
        for words in (["create"], ["add-match", "lab/bench/NetworkService"]):
            done = found.client(*words)
            assert done.returncode == 0, done.stderr
        eventually(lambda: "Matching resource" in found.client("show").stdout, "the exporter's resource")
        yield found


def _coordinator(stack: contextlib.ExitStack, folder: Path) -> str:
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = int(taken.getsockname()[1])
        address = f"127.0.0.1:{port}"
        # It takes no port 0 that it would tell of: where another one is quicker, it ends, and the next is tried.
        process = _start(stack, folder / "coordinator.log", "coordinator", "-l", address)
        deadline = Deadline(PATIENCE)
        while process.poll() is None and not deadline.expired:
            if Lab(address).answers:
                return address
            time.sleep(0.05)  # it says nothing where it listens
    raise AssertionError((folder / "coordinator.log").read_text())


def _start(stack: contextlib.ExitStack, log: Path, program: str, *words: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*_command(program), *words], cwd=log.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )

    def end() -> None:
        process.kill()
        process.wait()
        assert not Path(f"/proc/{process.pid}").exists()

    stack.callback(end)
    return process
