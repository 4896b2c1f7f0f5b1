"""Asks the kernel for how long the threads of a service have waited for a processor while they could have run."""

from __future__ import annotations

import os
import socket
import struct

_CREDENTIALS = struct.Struct("3i")


class ProcessorWaits:
    """The waits of one process of this machine, by /proc/PID/task/TID/schedstat; nothing where there is no such thing.

    On a busy machine a process can be left standing for hundreds of milliseconds while all others go on, so that
    no heartbeat of ours misses a beat. What a process does of itself, sleep or loop, is no wait of this kind.
    """

    def __init__(self, pid: int) -> None:
        self._tasks = f"/proc/{pid}/task"
        self._waited: dict[str, int] = {}
        self.grown()

    def grown(self) -> int:
        """Nanoseconds that those two of its threads which waited longest have done so since the last call, together.

        Two, since an event goes through two of them one after the other: who reads what the guest wrote, and who
        tells of it when the window has passed. Whatever more there are do not hold it up.
        """
        grown: list[int] = []
        try:
            threads = os.listdir(self._tasks)  # noqa: PTH208 - a thousand times a second
        except OSError:
            return 0
        for thread in threads:
            try:
                with open(f"{self._tasks}/{thread}/schedstat", "rb", buffering=0) as file:
                    waited = int(file.read(100).split()[1])
            except (OSError, ValueError, IndexError):
                continue  # the thread has ended, or this kernel does not count
            grown.append(waited - self._waited.get(thread, 0))
            self._waited[thread] = waited
        return sum(sorted(grown)[-2:])


def waits_of_peer(connection: socket.socket) -> ProcessorWaits | None:
    """Of the process that listens at the other end of a unix socket; None where it is not to be seen from here."""
    try:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    pid = int(_CREDENTIALS.unpack(credentials)[0])
    return ProcessorWaits(pid) if pid > 0 else None
