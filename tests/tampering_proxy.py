"""A dishonest go-between on `--event-socket`: now and then an event is not passed on as it came.

python -m tests.tampering_proxy RUN --seed N [--one-in N]
    RUN: the run directory; for each guest with RUN/<vm>/monitor.sock it listens on RUN/<vm>/proxy.sock.
    What was done to which event is written to RUN/<vm>/tampered.jsonl, before it is done.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import random
import select
import socket
import threading
import time
from pathlib import Path
from typing import Any

from harness.devicemodel.rtc_port import RtcPort
from harness.listener import ObjectReader
from harness.vm_event import RtcChange, RtcChangeSettler
from harness.vrtc import DmVrtc

DEEDS = ("drop", "double", "double later", "delay", "hasten next", "alter", "alter", "alter")
HASTENED_BY = 0.3
FIELDS = ("vm_event", "last_time", "new_time", "delta_time", "raw_events", "source", "vm", "estimated", "lost")


class Oracle:
    """Knows of an event before it is due: reads the guest's trace as the device model does.

    able: whether it does; it knows nothing of the hypervisor's vRTC.
    """

    def __init__(self, trace: Path) -> None:
        self._trace = trace
        self._offset = 0
        self._stamp = 0
        self._settler = RtcChangeSettler(window=1.0 - HASTENED_BY)
        self._port: RtcPort | None = None

    @property
    def able(self) -> bool:
        return self._port is not None

    def early(self) -> dict[str, Any] | None:
        """An event 0.3 s before it is due; None when there is none now."""
        try:
            with self._trace.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return None
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        for line in data.splitlines():
            self._feed(line)
        settled = self._settler.expire(time.monotonic())
        return None if settled is None else dict(settled.as_json())

    def _feed(self, line: bytes) -> None:
        if line.startswith(b"# "):
            record = json.loads(line[2:])
            if record["event"] == "start" and record["vrtc"] == "dm":
                self._stamp = record["stamp_ns"]
                vrtc = DmVrtc(self._send, record["rtc_time"], lambda: self._stamp // 1000 / 1e6)
                self._port = RtcPort(vrtc, lambda full: None)
                self._settler.set_rtc(record["rtc_time"], self._stamp / 1e9)
            return
        _, stamp, raw = line.split(b" ", 2)
        self._stamp = int(stamp)
        if self._port is not None:
            self._port.feed(raw)

    def _send(self, change: RtcChange) -> None:
        self._settler.add(change, self._stamp / 1e9)


class Proxy:
    """Stands between one guest's service and the harness."""

    def __init__(self, folder: Path, seed: int, one_in: int) -> None:
        self._folder = folder
        self._choice = random.Random(f"{seed}/{folder.name}")
        self._one_in = one_in
        self._log = (folder / "tampered.jsonl").open("a", encoding="utf-8")
        self._later: queue.PriorityQueue[tuple[float, int, bytes]] = queue.PriorityQueue()
        self._sent_early: list[tuple[object, object]] = []
        self._number = 0
        self._oracle = Oracle(folder / "trace.log")

    def run(self) -> None:
        """Serve one client until either side closes."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.bind(str(self._folder / "proxy.sock"))
            server.listen(1)
            client, _ = server.accept()
        with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as service:
            self._connect(service)
            with contextlib.suppress(OSError):
                self._pump(client, service)

    def _connect(self, service: socket.socket) -> None:
        """The socket's file is there a moment before the service listens."""
        while True:
            try:
                service.connect(str(self._folder / "monitor.sock"))
            except ConnectionRefusedError:
                select.select([], [], [], 0.005)
            else:
                return

    def _pump(self, client: socket.socket, service: socket.socket) -> None:
        reader, oracle = ObjectReader(), self._oracle
        hasten_next = False
        while True:
            ready, _, _ = select.select([client, service], [], [], 0.01)
            if client in ready:
                data = client.recv(4096)
                if not data:
                    return
                service.sendall(data)
            early = oracle.early()
            if early is not None and hasten_next:
                hasten_next = False
                early["vm"] = self._folder.name
                self._sent_early.append((early["new_time"], early["raw_events"]))
                self._tell("hasten", early)
                client.sendall(json.dumps(early).encode())
            if service in ready:
                data = service.recv(65536)
                if not data:
                    return
                for event in reader.feed(data):
                    assert isinstance(event, dict)
                    if "ack" in event:
                        client.sendall(json.dumps(event).encode())
                    elif (event.get("new_time"), event.get("raw_events")) not in self._sent_early:
                        hasten_next = self._pass_on(client, event)
            while not self._later.empty() and self._later.queue[0][0] <= time.monotonic():
                client.sendall(self._later.get()[2])

    def _pass_on(self, client: socket.socket, event: dict[str, Any]) -> bool:
        """Pass the event on, honestly or not; True when the next event is to be hastened."""
        if self._choice.randrange(self._one_in):
            client.sendall(json.dumps(event).encode())
            return False
        what = self._choice.choice([deed for deed in DEEDS if self._oracle.able or deed != "hasten next"])
        if what == "hasten next":
            client.sendall(json.dumps(event).encode())
            return True
        self._tell(what, event)
        if what == "double":
            client.sendall(json.dumps(event).encode() * 2)
        elif what == "double later":
            client.sendall(json.dumps(event).encode())
            self._send_later(event, self._choice.uniform(0.05, 3))
        elif what == "delay":
            self._send_later(event, self._choice.uniform(0.2, 3))
        elif what == "alter":
            client.sendall(json.dumps(self._altered(event)).encode())
        return False

    def _altered(self, event: dict[str, Any]) -> dict[str, Any]:
        field = self._choice.choice(FIELDS)
        old = event.get(field)
        if isinstance(old, bool) or field in {"estimated", "lost"}:
            new: object = not old
        elif isinstance(old, int):
            new = old + self._choice.choice((-1, 1, 60, -3600))
        else:
            new = f"{old}x"
        return {**event, field: new}

    def _send_later(self, event: dict[str, Any], seconds: float) -> None:
        self._number += 1
        self._later.put((time.monotonic() + seconds, self._number, json.dumps(event).encode()))

    def _tell(self, what: str, event: dict[str, Any]) -> None:
        self._log.write(json.dumps({"t_ns": time.monotonic_ns(), "what": what, "event": event}) + "\n")
        self._log.flush()


def main() -> None:
    """Serve every guest of the run as it appears, until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--one-in", type=int, default=4)
    options = parser.parse_args()
    served: set[Path] = set()
    while True:
        for monitor in options.run.glob("*/monitor.sock"):
            if monitor.parent not in served:
                served.add(monitor.parent)
                proxy = Proxy(monitor.parent, options.seed, options.one_in)
                threading.Thread(target=proxy.run, daemon=True).start()
        select.select([], [], [], 0.02)


if __name__ == "__main__":
    main()
