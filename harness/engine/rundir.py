"""The run directory: everything that a run leaves behind, and from which every report is made."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
from harness.engine.former import read_run_json
from harness.errors import ConfigurationError, InfrastructureError
from harness.plan import Plan, dump_plan, dump_plans
from harness.secrets import MASKER

FORMAT = 1

_OF_A_SESSION = ("started", "ended", "command", "clock", "load", "errors")
"""What of run.json is about the present session; of earlier ones it stands in `former_sessions`."""


class RunDirectory:
    """One run's directory; `run.json` is rewritten whole whenever something in it changes.

    resume: go on with the run that is there, in a new session: it keeps its guests, and its new ones have other names.
    Raises ConfigurationError when the directory holds another run or cannot be made, when there is none to go on
    with, and while another process is at work on it.
    """

    def __init__(self, path: Path, seed: int, details: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path = path
        self.seed = seed
        self._lock = threading.Lock()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"the run directory {path} cannot be made: {error}") from error
        if not resume and (path / "run.json").exists():
            hint = "name another directory with --run-dir; an unfinished run is gone on with by --resume"
            raise ConfigurationError(f"{path} holds a run already", hint=hint)
        former = read_run_json(path) if resume else {}
        self._claim = _claim(path)
        self._sessions: list[dict[str, Any]] = former.get("former_sessions", [])
        if former:
            self._sessions.append({name: former.get(name) for name in _OF_A_SESSION})
        self._document: dict[str, Any] = {
            "format": FORMAT,
            "seed": seed,
            "started": _utc_now(),
            "ended": None,
            "command": sys.argv,
            "versions": {"harness": harness.__version__, "python": platform.python_version()},
            "clock": {"monotonic_ns": time.monotonic_ns(), "wall_ns": time.time_ns()},
            "load": os.getloadavg()[0],
            **details,
            **({"former_sessions": self._sessions} if self._sessions else {}),
            "guests": former.get("guests", {}),
            "errors": [],
        }
        if former:
            self._document["versions"] = {**former.get("versions", {}), **self._document["versions"]}
        self._save()

    def guest(self, name: str) -> Path:
        """The guest's directory, made if need be."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder

    def add_guest(self, name: str, details: Mapping[str, Any]) -> None:
        """Note what a guest is made of."""
        session = {"session": len(self._sessions) + 1} if self._sessions else {}
        with self._lock:
            self._document["guests"][name] = {**details, **session}
        self._save()

    def last_number(self, kind: str) -> int:
        """The highest number that a guest of this kind has got in this run; 0 where there was none."""
        numbers = (re.fullmatch(re.escape(kind) + r"-([0-9]+)", entry.name) for entry in self.path.iterdir())
        return max((int(match[1]) for match in numbers if match), default=0)

    def add_versions(self, versions: Mapping[str, str]) -> None:
        """Note versions of what the run is made of."""
        with self._lock:
            self._document["versions"].update(versions)
        self._save()

    def add_error(self, family: str, vm: str | None, text: str) -> None:
        """Note an error that is nobody's verdict."""
        with self._lock:
            self._document["errors"].append({"class": family, "vm": vm, "text": text})
        self._save()

    def add_note(self, text: str) -> None:
        """Note what is no error, but what whoever reads of the run should know."""
        with self._lock:
            self._document.setdefault("notes", []).append(text)
        self._save()

    @property
    def error_classes(self) -> set[str]:
        """Of which families errors have been noted."""
        with self._lock:
            return {str(error["class"]) for error in self._document["errors"]}

    def end(self) -> None:
        """Note that the run has ended."""
        with self._lock:
            self._document["ended"] = _utc_now()
        self._save()
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def append_plan(self, vm: str, plan: Plan) -> None:
        """Add to the plans that a guest was given, in the order in which it carries them out.

        Raises InfrastructureError where the disk does not take it.
        """
        path = self.guest(vm) / "plans.yaml"
        text = dump_plan(plan) if path.exists() else dump_plans([plan], self.seed)
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise disk_error(path, error) from error

    def save_replay(self, vm: str, plans: Sequence[Plan]) -> Path:
        """Write the plans that reproduce the last of them: it, and what put the clock where it was."""
        folder = self.guest(vm) / "replay"
        folder.mkdir(exist_ok=True)
        path = folder / f"{plans[-1].id}.yaml"
        write_whole(path, dump_plans(plans, self.seed))
        return path

    def _save(self) -> None:
        with self._lock:
            text = json.dumps(MASKER.mask_value(self._document), indent=1)
            try:
                write_whole(self.path / "run.json", text + "\n")
            except OSError as error:
                raise disk_error(self.path, error) from error


def _claim(path: Path) -> int | None:
    """Have the directory for oneself, until the descriptor is closed; None where its file system has no such thing.

    By a file in it: the directory itself is locked by whoever makes a socket there, as the hypervisor process does.
    Raises ConfigurationError where another process has it.
    """
    descriptor = os.open(path / "lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigurationError(f"{path}: this run is still going on, in another process") from None
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the new one."""
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line, on disk before the call returns (to the kernel, not to the platter).

    Raises InfrastructureError where the disk does not take it.
    """
    try:
        with path.open("ab", buffering=0) as file:
            file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
    except OSError as error:
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> InfrastructureError:
    """The run directory does not take what the run has to say."""
    return InfrastructureError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="make room, or choose another disk with --run-dir; verdicts not on disk are not given",
    )


def _utc_now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
