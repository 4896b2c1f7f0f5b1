"""The lease of a session on a host: what was started in it lives only as long as it is renewed.

The session renews it at every beat of the harness's. Times are the host's monotonic clock: its wall clock is what
these benches set.
"""

from __future__ import annotations

import fcntl
import os
import time

LEASE_NS = 10_000_000_000
"""A lease that was not renewed for so long is void."""

_WIDTH = 20
_ENDED = 0


class Lease:
    """A session's lease, seen by a tool that runs in it. While the tool holds it, the session's folder stays.

    Raises OSError when there is no such session (any more).
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._descriptor = os.open(f"{folder}/lease", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if self.void:
                raise OSError("the session has ended")
        except OSError:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Hold it no longer."""
        os.close(self._descriptor)

    @property
    def void(self) -> bool:
        """Whether the session has ended or was not renewed in time."""
        stamp = int(os.pread(self._descriptor, _WIDTH, 0) or b"0")
        age = time.monotonic_ns() - stamp
        return stamp == _ENDED or not -LEASE_NS < age < LEASE_NS  # a later stamp is from before the host's last start


class LeaseOwner:
    """A session's lease, as the session has it."""

    def __init__(self, folder: str) -> None:
        unfinished = f"{folder}/.lease"
        self._descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.renew()
        os.rename(unfinished, f"{folder}/lease")

    def renew(self) -> None:
        """It holds for another 10 s."""
        self._write(time.monotonic_ns())

    def end(self) -> None:
        """It is void from now on."""
        self._write(_ENDED)

    def await_release(self, seconds: float) -> bool:
        """Wait until no tool holds it any more, and let none have it again; False when one still does."""
        until = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    return False
                time.sleep(0.02)  # a lock that is waited for has no time-out
            else:
                return True

    def _write(self, stamp: int) -> None:
        os.pwrite(self._descriptor, b"%0*d" % (_WIDTH, stamp), 0)


def is_stale(folder: str) -> bool:
    """Whether a folder is one of a session that is over: nobody holds its lease, and it is void."""
    try:
        lease = Lease(folder)
    except FileNotFoundError:
        return False
    except OSError:
        pass
    else:
        lease.release()
        return False
    descriptor = os.open(f"{folder}/lease", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
