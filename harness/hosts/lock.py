"""A lock file: one process at a time has what it stands for, and whoever dies with it keeps nobody out.

Two things prove that the owner lives. On his own machine it is the kernel's lock on the open file (flock), which ends
with the process and not before. Elsewhere, where the folder is shared by several machines, it is the lease: the owner
writes the file anew every few seconds, and a lease that nobody renewed in time is void. How old a lease is is measured
by the clock of the folder's file system alone, so machines whose clocks differ agree about it.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import getpass
import json
import logging
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.onhost.processes import look

log = logging.getLogger(__name__)

FORMAT = 1
RENEWALS = 4
"""How often a lease is renewed while it lasts: a machine may stand still for three quarters of it."""

_SIZE = 1024
"""Bytes of the file, always: so it is written by one call, and a reader sees all of it or what was there before."""

_LOOK_EVERY = 0.1
_TOLD_EVERY = 30.0
_CHANGING = "another process, which takes or leaves it right now"
_CHANGES_FOR = 2.0
"""Seconds that taking and leaving may take, on a busy machine: nobody is refused because of that alone."""

_TORN_FOR = 1.0
"""Seconds in which what cannot be read may still be a file that is being written."""


@dataclass(frozen=True)
class Owner:
    """Who has a lock, as he wrote it down. born: when the process was, in ticks since the boot of its machine."""

    format: int
    token: str
    what: str
    user: str
    host: str
    boot: str
    pid_space: str
    pid: int
    born: str
    started: str
    renewed: str
    lease_s: float
    expires: str

    @classmethod
    def this_process(cls, what: str, lease_s: float) -> Owner:
        """As of now."""
        now = datetime.datetime.now(datetime.timezone.utc)
        return cls(
            FORMAT, secrets.token_hex(8), what, _user(), socket.gethostname(), _read("/proc/sys/kernel/random/boot_id"),
            _pid_space(), os.getpid(), birth(os.getpid()), _shown(now), _shown(now), lease_s,
            _shown(now + datetime.timedelta(seconds=lease_s)),
        )  # fmt: skip

    @classmethod
    def parse(cls, text: str) -> Owner:
        """Raises ValueError for what is no record of an owner."""
        found = json.loads(text)
        fields = cls.__dataclass_fields__
        if not isinstance(found, dict) or found.get("format") != FORMAT or not fields.keys() <= found.keys():
            raise ValueError("it has other keys, or another format")
        owner = cls(**{name: found[name] for name in fields})
        numbers = isinstance(owner.pid, int) and isinstance(owner.lease_s, (int, float))
        texts = [value for name, value in asdict(owner).items() if name not in {"format", "pid", "lease_s"}]
        if not numbers or not all(isinstance(value, str) for value in texts):
            raise ValueError("its values are of other types")
        return owner

    def renewed_now(self) -> Owner:
        """The same owner, whose lease begins anew."""
        now = datetime.datetime.now(datetime.timezone.utc)
        expires = now + datetime.timedelta(seconds=self.lease_s)
        return Owner(**{**asdict(self), "renewed": _shown(now), "expires": _shown(expires)})

    @property
    def is_of_this_machine(self) -> bool:
        """Whether its process id means something here."""
        return self.boot == _read("/proc/sys/kernel/random/boot_id") and self.pid_space == _pid_space()

    @property
    def is_alive(self) -> bool | None:
        """Whether the process is; None where that cannot be seen from here."""
        if not self.is_of_this_machine:
            return None
        return bool(self.born) and birth(self.pid) == self.born

    def __str__(self) -> str:
        until = f"until {self.expires} if not renewed"
        return f"{self.user} on {self.host} (process {self.pid}) since {self.started}, {until}"


class Held(InfrastructureError):
    """Somebody else has it."""

    def __init__(self, problem: str, *, waited: float, hint: str) -> None:
        super().__init__(problem, awaited="its release", waited=waited, hint=hint)


class LockFile:
    """An exclusive lock; a context manager, for once.

    what: what it is on, for messages. wait: seconds to wait for who has it. lease: seconds after which one that nobody
    renews is void. tell: is told whom it waits for, and whose lock was void.

    Raises Held naming who has it, and ConfigurationError for a folder that cannot be used and a file that is no lock.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        *,
        wait: float = 0.0,
        lease: float = 120.0,
        tell: Callable[[str], object] = log.warning,
    ) -> None:
        self.path = path
        self.former: Owner | None = None
        """Who died with it, where somebody did."""

        self.failure: InfrastructureError | None = None
        """How it was lost while it was held."""

        self._what = what
        self._wait = wait
        self._lease = lease
        self._tell = tell
        self._descriptor: int | None = None
        self._owner: Owner | None = None
        self._end = threading.Event()
        self._renewing: threading.Thread | None = None

    def __enter__(self) -> LockFile:
        try:
            self._acquire()
            self._renewing = threading.Thread(target=self._renew, name="lock", daemon=True)
            self._renewing.start()
        except BaseException:  # Ctrl-C too: nothing may stay locked
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()
        if self.failure is not None and error is None:
            raise self.failure

    # -- taking it ---------------------------------------------------------------------------------------------

    def _acquire(self) -> None:
        self._make_folder()
        deadline, told, changing = Deadline(self._wait), 0.0, Deadline(_CHANGES_FOR)
        while (held := self._try()) is not None:
            if held != _CHANGING:
                changing = Deadline(_CHANGES_FOR)
            elif not changing.expired:
                time.sleep(_LOOK_EVERY / 10)  # of no file's end is anybody told
                continue
            if deadline.expired:
                raise Held(
                    f"{self._what} is in use by {held}",
                    waited=deadline.elapsed,
                    hint="`reservation: {wait: SECONDS}` in the bench file waits for it, or use another bench"
                    f" (the lock is {self.path})",
                )
            if not told or time.monotonic() - told > _TOLD_EVERY:
                told = time.monotonic()
                self._tell(f"waiting up to {deadline.remaining:.0f} s for {self._what}, in use by {held}")
            time.sleep(min(_LOOK_EVERY, deadline.remaining))  # a file's lock tells nobody when it is free

    def _try(self) -> str | None:
        """Take it; who has it, where somebody does."""
        try:
            descriptor = self._open()
        except FileNotFoundError:
            return _CHANGING
        keep = False
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._whose(descriptor)
            except OSError as error:
                raise ConfigurationError(
                    f"{self.path}: the file system knows no locks ({error.strerror})",
                    hint="name another folder (reservation: {kind: lock, folder: ...})",
                ) from error
            if not self._is_there(descriptor):
                return _CHANGING
            held = self._judge(descriptor)
            if held is None:
                owner = Owner.this_process(self._what, self._lease)
                _write(descriptor, owner)
                self._descriptor, self._owner, keep = descriptor, owner, True
            return held
        finally:
            if not keep:
                os.close(descriptor)

    def _open(self) -> int:
        """Not followed where it is a link, and created by nobody else: in a folder that is everybody's."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            try:
                return os.open(self.path, flags)
            except FileNotFoundError:
                # Whoever may write to the folder may take over what a dead one left there.
                mode = self.path.parent.stat().st_mode & 0o666
                with contextlib.suppress(FileExistsError):
                    descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o600)
                    os.fchmod(descriptor, mode)
                    return descriptor
                return os.open(self.path, flags)
        except FileNotFoundError:
            raise
        except OSError as error:
            hint = "it is a symbolic link, which no lock is" if error.errno == errno.ELOOP else None
            raise ConfigurationError(
                f"the lock file {self.path} cannot be opened: {error.strerror}",
                hint=hint or "all who share the bench must be able to write to its lock folder",
            ) from error

    def _is_there(self, descriptor: int) -> bool:
        """Whether the open file is still the one with this name."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def _whose(self, descriptor: int) -> str:
        owner = self._read_owner(descriptor)
        if owner is None:
            return _CHANGING
        if owner.is_alive is False:
            return f"{owner}; that process is gone, but one that it left behind still has the file open"
        return str(owner)

    def _judge(self, descriptor: int) -> str | None:
        """With the kernel's lock in hand: who lives all the same; None where it is free or its owner provably dead."""
        owner = self._read_owner(descriptor)
        if owner is None:
            return None
        alive = owner.is_alive
        if alive or (alive is None and self._age(descriptor) <= owner.lease_s):
            return str(owner)
        why = f"has not been renewed for {self._age(descriptor):.0f} s" if alive is None else "the process is gone"
        self._tell(f"the lock on {self._what} was left by {owner}: {why}; it is taken over")
        self.former = owner
        return None

    def _read_owner(self, descriptor: int) -> Owner | None:
        """Raises ConfigurationError for a file that is no lock."""
        deadline = Deadline(_TORN_FOR)
        while True:
            data = os.pread(descriptor, 64 * 1024, 0)
            if not data.strip():
                return None
            try:
                return Owner.parse(data.decode())
            except (ValueError, TypeError) as error:
                if deadline.expired:
                    raise ConfigurationError(
                        f"{self.path} is no lock that this version knows: {error}",
                        hint=f"if nobody uses {self._what}, remove that file",
                    ) from error
                time.sleep(_LOOK_EVERY)  # it may be in the middle of being written

    def _age(self, descriptor: int) -> float:
        """Seconds since the file was written, by the clock that says when files are."""
        with tempfile.TemporaryFile(dir=self.path.parent) as now:
            now.write(b".")
            now.flush()
            return os.fstat(now.fileno()).st_mtime - os.fstat(descriptor).st_mtime

    def _make_folder(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the lock folder {self.path.parent} cannot be made: {error.strerror}",
                hint="name another one (reservation: {kind: lock, folder: ...})",
            ) from error

    # -- having it ---------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        while not self._end.wait(self._lease / RENEWALS):
            if not self._is_ours():
                return
            assert self._descriptor is not None and self._owner is not None
            try:
                _write(self._descriptor, self._owner.renewed_now())
            except OSError as error:
                log.warning("the lock %s cannot be renewed: %s", self.path, error)

    def _is_ours(self) -> bool:
        """Whether it still is: this process, or its machine, may have stood still for longer than its lease."""
        assert self._descriptor is not None and self._owner is not None
        try:
            found = self._read_owner(self._descriptor)
            ours = self._is_there(self._descriptor) and found is not None and found.token == self._owner.token
        except (OSError, ConfigurationError):
            found, ours = None, False
        if not ours:
            taken = f"now it is held by {found}" if found is not None else "somebody removed or changed it"
            self.failure = InfrastructureError(
                f"the lock on {self._what} was lost while it was held: {taken}",
                log=self.path,
                hint="what was judged since then may be worthless: two runs may have used the bench at once",
            )
            log.error("%s", self.failure)
        return ours

    def _release(self) -> None:
        self._end.set()
        if self._renewing is not None and self._renewing.ident is not None:
            self._renewing.join()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            self._descriptor = descriptor
            if self.failure is None and self._is_ours():
                self.path.unlink(missing_ok=True)  # with the kernel's lock in hand, so that nobody else's is removed
        finally:
            self._descriptor = None
            os.close(descriptor)


def birth(pid: int) -> str:
    """When a process was born, in ticks since boot; "" for none: a process id alone may be another one by now."""
    process = look(pid)
    return process.born if process is not None and process.lives else ""


def _write(descriptor: int, owner: Owner) -> None:
    text = json.dumps(asdict(owner), indent=1)
    data = text.encode().ljust(_SIZE - 1) + b"\n"
    os.pwrite(descriptor, data, 0)
    os.fsync(descriptor)


def _shown(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return str(os.getuid())


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _pid_space() -> str:
    """Processes of a container have ids of their own."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no path
    return ""
