"""Debian packages by `apt-get download`: fetched and unpacked into a folder, not installed, without root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError


@dataclass(frozen=True)
class Package:
    """A package that apt can fetch."""

    name: str
    version: str
    depends: str


class Apt:
    """apt as an ordinary user. `private` is a folder for package lists of our own, if the system has none."""

    def __init__(self, private: Path, deadline: Deadline) -> None:
        self._private = private
        self._deadline = deadline
        self._options: list[str] = []
        for program in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(program) is None:
                raise ConfigurationError(
                    f"{program} is not on this machine, so no kernel can be fetched",
                    hint="name a kernel of your own in the bench file, and install busybox-static",
                )

    def find(self, names: Sequence[str]) -> Package | None:
        """The first of `names` that the package lists know; fetches lists of our own when they know none."""
        found = self._find(names)
        if found is None and not self._options:
            self._fetch_lists()
            found = self._find(names)
        return found

    def _find(self, names: Sequence[str]) -> Package | None:
        for name in names:
            text = self._run("apt-cache", "show", "--no-all-versions", name, check=False)
            fields = dict(re.findall(r"^(Package|Version|Depends): (.*)$", text, re.MULTILINE))
            if fields.get("Package") == name and "Version" in fields:
                return Package(name, fields["Version"], fields.get("Depends", ""))
        return None

    def _fetch_lists(self) -> None:
        for folder in ("lists/partial", "cache/archives/partial"):
            (self._private / folder).mkdir(parents=True, exist_ok=True)
        places = (f"Dir::State::lists={self._private}/lists", f"Dir::Cache={self._private}/cache")
        self._options = [word for place in places for word in ("-o", place)]
        self._run("apt-get", "update")

    def unpack(self, package: Package, folder: Path) -> None:
        """Fetches the package and unpacks its files below `folder`. Raises InfrastructureError, OSError."""
        # apt verifies the download; run in `folder` because it downloads to where it stands.
        self._run("apt-get", "download", f"{package.name}={package.version}", cwd=folder)
        archives = list(folder.glob("*.deb"))
        if len(archives) != 1:
            raise InfrastructureError(f"apt-get download left {len(archives)} archives of {package.name}")
        self._run("dpkg-deb", "-x", str(archives[0]), str(folder))
        archives[0].unlink()

    def _run(self, *command: str, cwd: Path | None = None, check: bool = True) -> str:
        options = [] if command[0] == "dpkg-deb" else self._options
        if os.geteuid() == 0 and command[0] == "apt-get":
            # apt's own user may not write where we download to.
            options = [*options, "-o", "APT::Sandbox::User=root"]
        arguments = [command[0], *options, *command[1:]]
        try:
            done = subprocess.run(
                arguments,
                cwd=cwd,
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._deadline.remaining,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InfrastructureError(
                f"{' '.join(command[:2])} did not end in time",
                awaited=" ".join(command),
                waited=error.timeout,
                hint="the package mirror may be slow or out of reach",
            ) from error
        if check and done.returncode != 0:
            raise InfrastructureError(
                f"{' '.join(command)} failed with exit code {done.returncode}",
                last_lines=(done.stdout + done.stderr).splitlines()[-10:],
                hint="try it by hand; `apt-get update` refreshes stale package lists",
            )
        return done.stdout
