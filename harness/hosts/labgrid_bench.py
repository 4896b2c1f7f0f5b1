"""A bench of a lab that labgrid looks after: its power by labgrid's drivers, its place at labgrid's coordinator."""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from harness.bench import LabgridPowerSpec, LabgridReservationSpec
from harness.deadline import Deadline
from harness.errors import EXIT_CONFIGURATION, ConfigurationError, InfrastructureError
from harness.folders import default_lock_folder
from harness.hosts.cool_down import CoolDown
from harness.hosts.labgrid_switch import UNKNOWN
from harness.hosts.lock import Held, LockFile
from harness.hosts.program import run_program, shown, status_of

log = logging.getLogger(__name__)

INSTALL = "pip install 'labgrid>=26.0', or this project with its extra `lab`"
_SWITCH_TIMEOUT = 120.0
_CLIENT_TIMEOUT = 60.0
_LOOK_EVERY = 1.0
_TOLD_EVERY = 30.0
_ABOUT = r"^ *(acquired|changed): (.*)$"
_LINES = 10_000
"""Of what labgrid's client tells: a place can have many resources."""


def _need_labgrid(for_what: str) -> None:
    if importlib.util.find_spec("labgrid") is None:
        raise ConfigurationError(f"{for_what}: {{kind: labgrid}} needs labgrid, which is not installed", hint=INSTALL)


class LabgridPower:
    """A power driver of labgrid's switches. coordinator: where the environment's remote places are, if not as it says.

    Raises ConfigurationError where labgrid is not installed.
    """

    def __init__(self, spec: LabgridPowerSpec, cool_down: CoolDown, coordinator: str | None = None) -> None:
        _need_labgrid("power")
        self._spec = spec
        self._cool_down = cool_down
        self._environment = {} if coordinator is None else {"LG_COORDINATOR": coordinator}

    def on(self, deadline: Deadline) -> None:
        """Raises InfrastructureError with what labgrid says, ConfigurationError for a wrong environment file."""
        self._cool_down.wait(deadline)
        self._switch("on", deadline)
        self._cool_down.switched_on()

    def off(self, deadline: Deadline) -> None:
        """Raises as `on`."""
        try:
            self._switch("off", deadline)
        finally:
            self._cool_down.switched_off()  # perhaps: a driver that failed may have switched all the same

    def is_on(self) -> bool | None:
        """What the driver says; None where it cannot tell, as many cannot."""
        status, lines = self._run("status", Deadline(_SWITCH_TIMEOUT))
        if status not in {0, 1, UNKNOWN}:
            log.warning("labgrid does not say whether %s is on: %s", self._spec.target, " ".join(lines[-1:]))
        # An uncaught error of a driver's exits with 1 too, and says so.
        failed = any(line.startswith("Traceback ") for line in lines)
        return None if failed else {0: True, 1: False}.get(status)

    def _switch(self, do: str, deadline: Deadline) -> None:
        status, lines = self._run(do, deadline)
        if status != 0:
            raise InfrastructureError(
                f"labgrid could not switch {self._spec.target} {do}: {status_of(status)}",
                last_lines=lines,
                hint=f"try it by hand: labgrid-client -c {self._spec.environment} power {do}",
            )

    def _run(self, do: str, deadline: Deadline) -> tuple[int, list[str]]:
        spec = self._spec
        command = [
            sys.executable, "-m", "harness.hosts.labgrid_switch", do, str(spec.environment.absolute()), spec.target,
            *([] if spec.driver is None else [spec.driver]),
        ]  # fmt: skip
        status, lines = run_program(
            "labgrid's power driver by", command, spec.environment.absolute().parent, deadline.within(_SWITCH_TIMEOUT),
            hint="is what it switches with there?", environment=self._environment,
        )  # fmt: skip
        if status == EXIT_CONFIGURATION:
            hint = "mend labgrid's environment file, or `target` and `driver` of the bench file's power"
            raise ConfigurationError(" ".join(lines), hint=hint)
        return status, lines


class LabgridPlace:
    """A place at a coordinator, acquired as labgrid-client does; a context manager, for once.

    Labgrid knows a place's user and machine, not his process, and does not end an acquisition with it. So there is a
    lock beside it, which two runs of one user on one machine need anyway, and by which a run that comes after one that
    was killed knows that the place was left by it. A place that the user acquired by hand stays acquired.

    Raises Held naming who has it, InfrastructureError where the coordinator cannot be reached or refuses,
    ConfigurationError where labgrid is not installed or there is no such place.
    """

    failure: InfrastructureError | None = None

    def __init__(
        self, spec: LabgridReservationSpec, name: str, tell: Callable[[str], object] = log.warning
    ) -> None:
        _need_labgrid("reservation")
        self._spec = spec
        self._what = f"the bench {name} (place {spec.place} at {spec.coordinator})"
        self._tell = tell
        self._me = "/".join(
            (os.environ.get("LG_HOSTNAME") or socket.gethostname(), os.environ.get("LG_USERNAME") or getpass.getuser())
        )
        words = f"labgrid-{spec.coordinator}-{spec.place}-{self._me}"
        mark = hashlib.sha256(words.encode()).hexdigest()[:10]
        file = f"{re.sub(r'[^A-Za-z0-9.]+', '-', words)[:80]}-{mark}.lock"
        self._lock = LockFile(default_lock_folder() / file, self._what, wait=spec.wait, tell=tell)
        self._acquired = False

    def __enter__(self) -> LabgridPlace:
        deadline = Deadline(self._spec.wait)
        self._lock.__enter__()
        try:
            self._acquire(deadline)
        except BaseException as error:  # Ctrl-C too
            self._give_back(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back(error)

    def _give_back(self, error: BaseException | None) -> None:
        try:
            if self._acquired:
                holder, since = self._holder()
                if holder == self._me:
                    self._client("release-from", self._me)
                elif error is None:
                    told = "nobody has it" if holder is None else f"it was taken by {_person(holder)} at {since}"
                    raise InfrastructureError(f"{self._what} was taken away while it was held: now {told}")
        finally:
            self._lock.__exit__(None if error is None else type(error), error, None)

    def _acquire(self, deadline: Deadline) -> None:
        told = 0.0
        while True:
            holder, since = self._holder()
            if holder == self._me:
                if self._lock.former is None:
                    self._tell(f"{self._what} was acquired by you before; it stays so")
                    return
                self._acquired = True
                return
            if holder is None:
                self._acquired = True  # perhaps, from here on
                status, lines = self._client("acquire")
                if status == 0:
                    return
                holder, since = self._holder()
                if holder in {None, self._me}:
                    by_hand = f"labgrid-client -x {self._spec.coordinator} -p {self._spec.place} acquire"
                    raise InfrastructureError(
                        f"{self._what} could not be acquired", last_lines=lines, hint=f"try it by hand: {by_hand}"
                    )
            self._acquired = False
            who = f"{_person(holder)} since {since}, until he releases it"
            if deadline.expired:
                raise Held(
                    f"{self._what} is in use by {who}",
                    waited=deadline.elapsed,
                    hint="`reservation: {wait: SECONDS}` in the bench file waits for it, or use another bench",
                )
            if not told or time.monotonic() - told > _TOLD_EVERY:
                told = time.monotonic()
                self._tell(f"waiting up to {deadline.remaining:.0f} s for {self._what}, in use by {who}")
            time.sleep(min(_LOOK_EVERY, deadline.remaining))  # each look is a connection of its own

    def _holder(self) -> tuple[str | None, str]:
        """Who has the place, as HOST/USER, and since when; None where nobody has."""
        status, lines = self._client("show")
        if status != 0:
            text = " ".join(lines)
            if "matches nothing" in text or "matches multiple" in text:
                raise ConfigurationError(f"the coordinator {self._spec.coordinator} has no place {self._spec.place}")
            raise InfrastructureError(
                f"the labgrid coordinator {self._spec.coordinator} does not tell of {self._spec.place}",
                last_lines=lines[-20:],
            )
        # The place comes first; after it what it is made of, with words of the same kind.
        found = {name: value.strip() for name, value in reversed(re.findall(_ABOUT, "\n".join(lines), re.MULTILINE))}
        holder = found.get("acquired", "None")
        return None if holder in {"", "None"} else holder, found.get("changed", "?").partition(".")[0]

    def _client(self, *words: str) -> tuple[int, list[str]]:
        spec = self._spec
        command = [sys.executable, "-m", "labgrid.remote.client", "-x", spec.coordinator, "-p", spec.place, *words]
        log.info("%s", shown(command))
        return run_program(
            "labgrid's client", command, Path("/"), Deadline(_CLIENT_TIMEOUT),
            hint="is the coordinator there, and does it answer?", lines=_LINES,
        )  # fmt: skip


def _person(holder: str | None) -> str:
    host, _, user = (holder or "?/?").partition("/")
    return f"{user} on {host}"
