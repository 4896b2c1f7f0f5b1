"""A cache of built things: each is complete or not there, and parallel runs build it once."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.flock import locked
from harness.folders import default_cache_dir

__all__ = ["Cache", "default_cache_dir"]

_MANIFEST = "complete.json"
_HINT = "free some space, or name another place in the environment variable RTC_BENCH_CACHE"


class Cache:
    """Folders by kind and key, below `root`. A key names its contents, so an entry never changes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, kind: str, key: str) -> Path | None:
        """The entry's folder if it is complete, else None. Takes no lock: entries appear whole."""
        folder = self.root / kind / key
        try:
            sizes = json.loads((folder / _MANIFEST).read_text())
            whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
        except (OSError, ValueError, AttributeError):
            return None
        return folder if whole else None

    def get(self, kind: str, key: str, build: Callable[[Path], None], deadline: Deadline) -> Path:
        """The entry's folder; `build` fills it when it is not there, in one process at a time.

        Raises what `build` raises (nothing is kept then), and InfrastructureError when the disk is full, the
        folder cannot be written, or another run holds the lock beyond the deadline.
        """
        if found := self.find(kind, key):
            return found
        try:
            with self.lock(deadline):
                return self.find(kind, key) or self._build(kind, key, build)
        except OSError as error:
            problem = f"cannot build {kind} in the cache {self.root}: {error}"
            raise InfrastructureError(problem, hint=_HINT) from error

    def _build(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        folder = self.root / kind / key
        shutil.rmtree(folder, ignore_errors=True)  # incomplete: a find() has just said so
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.parent) as name:
            unfinished = Path(name) / key
            unfinished.mkdir(mode=0o755)
            build(unfinished)
            sizes = {}
            for path in sorted(unfinished.rglob("*")):
                if path.is_file():
                    sizes[str(path.relative_to(unfinished))] = path.stat().st_size
                    _flush(path)
            (unfinished / _MANIFEST).write_text(json.dumps(sizes))
            _flush(unfinished / _MANIFEST)
            unfinished.rename(folder)
        return folder

    @contextmanager
    def lock(self, deadline: Deadline) -> Iterator[None]:
        """Keeps other runs from building; what an interrupted run left unfinished is swept away.

        Raises OSError, and InfrastructureError when another run holds it until the deadline.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / "lock", "another run is building the guest image", deadline):
            for leftover in self.root.glob("*/.unfinished-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
