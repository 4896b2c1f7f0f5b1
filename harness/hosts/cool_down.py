"""How long a host has been off: remembered between runs, so that none of them switches it on again too soon."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import InfrastructureError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class _Off:
    """A switching-off: when, by the clock of this boot of this machine, which goes on while it sleeps."""

    boottime_ns: int
    boot: str
    machine: str


class CoolDown:
    """Between off and on of one host.

    seconds: how long it stays off at least; file: where the last switching-off is kept.
    """

    def __init__(self, seconds: float, file: Path) -> None:
        self.seconds = seconds
        self._file = file
        self._off: _Off | None = None

    def switched_off(self) -> None:
        """It begins now. Raises InfrastructureError where that cannot be written down."""
        self._off = _Off(time.clock_gettime_ns(time.CLOCK_BOOTTIME), _boot(), socket.gethostname())
        self._write(json.dumps(asdict(self._off)))

    def switched_on(self) -> None:
        """It is over: the next one begins with the next switching-off."""
        self._off = None
        with contextlib.suppress(FileNotFoundError):
            self._file.unlink()

    @property
    def rest(self) -> float:
        """Seconds that are left of it; 0 where nobody has switched the host off."""
        off = self._off or self._read()
        if off is None:
            return 0.0
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if off.machine != socket.gethostname():
            return self.seconds  # by another machine's clock, which says nothing here
        # Before this boot: then it has been off for as long as this machine is up, at least.
        since = now - off.boottime_ns if off.boot == _boot() else now
        return min(self.seconds, max(0.0, self.seconds - since / 1e9))

    def wait(self, deadline: Deadline) -> None:
        """Until it is over. Raises InfrastructureError where the deadline comes before that."""
        rest = self.rest
        if rest > deadline.remaining:
            raise InfrastructureError(
                f"the host has to stay off for {rest:.1f} s yet, and there are {deadline.remaining:.1f} s left",
                hint="give it more time (host.boot_timeout), or less of a `cool_down`, in the bench file",
            )
        while (rest := self.rest) > 0:
            time.sleep(rest)  # for just what is left of it: there is nothing to be awaited

    def _read(self) -> _Off | None:
        try:
            found = json.loads(self._file.read_text())
            return _Off(int(found["boottime_ns"]), str(found["boot"]), str(found["machine"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return _Off(0, "", "")  # somebody has switched it off, and nobody knows when: wait in full

    def _write(self, text: str) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._file.parent, prefix=".power-", delete=False) as file:
                file.write(text)
            Path(file.name).replace(self._file)
        except OSError as error:
            raise InfrastructureError(
                f"cannot note in {self._file} that the host is off: {error.strerror or error}",
                hint="name a folder that can be written to (reservation: {kind: lock, folder: ...})",
            ) from error


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return f"unknown-{os.getpid()}"
