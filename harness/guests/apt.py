"""Debian packages by `apt-get download`: fetched and unpacked into a folder, not installed, without root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
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


def _libraries(package: Package) -> Iterator[list[str]]:
    """The libraries that a package depends upon; each a choice of names."""
    for clause in package.depends.split(","):
        choices = [re.split(r"[\s(:]", choice.strip())[0] for choice in clause.split("|")]
        if choices[0].startswith(("lib", "zlib")):
            yield choices


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
        for name in names:
            if found := self._known([name]):
                return found[name]
        if names and not self._options:
            self._fetch_lists()
            return self.find(names)
        return None

    def find_with_libraries(self, name: str) -> list[Package]:
        """The package, and those of all libraries that it needs, down to the C library.

        Raises InfrastructureError where the package lists lack one of them.
        """
        package = self.find([name])
        if package is None:
            raise InfrastructureError(f"apt knows no {name}")
        found = {name: package}
        clauses = list(_libraries(package))
        while clauses:  # one question for each level: apt takes a second to answer
            answers = self._known(sorted({choice for choices in clauses for choice in choices} - set(found)))
            level = []
            for choices in clauses:
                package = next((answers[each] for each in choices if each in answers), None)
                if package is not None and package.name not in found:
                    found[package.name] = package
                    level.append(package)
                elif package is None and not set(choices) & set(found):
                    raise InfrastructureError(f"apt knows no {' or '.join(choices)}, which {name} needs")
            clauses = [choices for package in level for choices in _libraries(package)]
        return list(found.values())

    def _known(self, names: Sequence[str]) -> dict[str, Package]:
        """Those of `names` that the package lists know."""
        text = self._run("apt-cache", "show", "--no-all-versions", *names, check=False) if names else ""
        found = {}
        for stanza in re.split(r"\n\s*\n", text):
            fields = dict(re.findall(r"^(Package|Version|Depends|Pre-Depends): (.*)$", stanza, re.MULTILINE))
            if fields.get("Package") in names and "Version" in fields:
                depends = ", ".join(fields[key] for key in ("Pre-Depends", "Depends") if key in fields)
                package = Package(fields["Package"], fields["Version"], depends)
                found[package.name] = package
        return found

    def _fetch_lists(self) -> None:
        for folder in ("lists/partial", "cache/archives/partial"):
            (self._private / folder).mkdir(parents=True, exist_ok=True)
        places = (f"Dir::State::lists={self._private}/lists", f"Dir::Cache={self._private}/cache")
        self._options = [word for place in places for word in ("-o", place)]
        self._run("apt-get", "update")

    def with_all_dependencies(self, names: Sequence[str]) -> list[Package]:
        """What a machine with nothing on it needs for these packages, without what is only recommended.

        Raises InfrastructureError where the package lists lack one of them.
        """
        if (missing := next((name for name in names if self.find([name]) is None), None)) is not None:
            raise InfrastructureError(f"apt knows no {missing}", hint="`apt-get update` refreshes stale package lists")
        with tempfile.TemporaryDirectory(prefix="rtc-dpkg-") as nothing:
            (Path(nothing) / "partial").mkdir()
            (Path(nothing) / "status").touch()
            # What lies in the system's own store of archives would not be told.
            where = (f"Dir::State::status={nothing}/status", f"Dir::Cache::archives={nothing}", "Debug::NoLocking=true")
            options = [word for each in where for word in ("-o", each)]
            told = self._run("apt-get", *options, "-y", "--print-uris", "--no-install-recommends", "install", *names)
        files = re.findall(r"^'[^']+' ([^_\s]+)_([^_\s]+)_\S+\.deb ", told, re.MULTILINE)
        return [Package(name, urllib.parse.unquote(version), "") for name, version in files]

    def download(self, folder: Path, *packages: Package) -> list[Path]:
        """Fetches the packages into `folder`; their files. Raises InfrastructureError."""
        # apt verifies the download; run in `folder` because it downloads to where it stands.
        self._run("apt-get", "download", *(f"{each.name}={each.version}" for each in packages), cwd=folder)
        archives = sorted(folder.glob("*.deb"))
        if len(archives) != len(packages):
            names = ", ".join(package.name for package in packages)
            raise InfrastructureError(f"apt-get download left {len(archives)} archives of {names}")
        return archives

    def unpack(self, folder: Path, *packages: Package) -> None:
        """Fetches the packages and unpacks their files below `folder`. Raises InfrastructureError, OSError."""
        for archive in self.download(folder, *packages):
            self._run("dpkg-deb", "-x", str(archive), str(folder))
            archive.unlink()

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
