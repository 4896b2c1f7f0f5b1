"""The parts of a bundle: wheels, Debian packages as a repository of their own, the source, what the cache has."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.guests.apt import Apt
from harness.guests.image import ImageSpec, prepare_bare_image, prepare_image
from harness.guests.parts import KERNELS

PACKAGES = (
    "qemu-system-x86", "strace", "busybox-static", "gcc", "libc6-dev", "python3-venv", "openssh-server",
    "openssh-client", "util-linux",
)
"""What the lab script installs, and what the harness starts besides."""

MAKING = ("pip", "setuptools", "wheel")
"""What environments are made with, where no index has it."""

_NOT_SOURCE = frozenset(
    {".git", ".venv", ".tox", ".mypy_cache", ".ruff_cache", ".pytest_cache", "__pycache__", "dist", "build",
     ".hypothesis"}
)
def extras(project: Path) -> dict[str, list[str]]:
    """The project's dependencies by extra, "" for those that it always has. Raises ConfigurationError."""
    try:
        toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "pip._vendor.tomli")
        about = toml.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return {"": list(about["dependencies"]), **about["optional-dependencies"]}
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigurationError(f"{project} has no pyproject.toml that can be read: {error}") from error


def fetch_wheels(
    folder: Path, requirements: Sequence[str], deadline: Deadline, *, python_version: str | None = None
) -> list[str]:
    """Wheels of these and of all that they need, for this Python or for another version; their names.

    Raises InfrastructureError where pip cannot have one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if python_version is None:
        # What there is as source only is built here.
        command += ["wheel", "--wheel-dir", str(folder)]
    else:
        command += ["download", "--dest", str(folder), "--only-binary=:all:", "--python-version", python_version]
    try:
        done = subprocess.run(
            [*command, *requirements], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=deadline.remaining, check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError("pip did not end in time", awaited="the wheels", waited=error.timeout) from error
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()[-12:]
        hint = "the package index may be out of reach; the same command by hand says more"
        raise InfrastructureError("pip could not have the wheels", last_lines=lines, hint=hint)
    return sorted(path.name for path in folder.glob("*.whl"))


def fetch_debs(folder: Path, names: Sequence[str], private: Path, deadline: Deadline) -> list[str]:
    """The packages and all that a bare machine needs for them, as a repository for apt; their files' names.

    Raises ConfigurationError without apt, InfrastructureError when something cannot be fetched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    apt = Apt(private, deadline)
    files = apt.download(folder, *apt.with_all_dependencies(names))
    index = "\n".join(_stanza(file) for file in files)
    (folder / "Packages").write_text(index, encoding="utf-8")
    _prove_complete(folder, names, deadline)
    return [file.name for file in files]


def _prove_complete(folder: Path, names: Sequence[str], deadline: Deadline) -> None:
    """That a machine with nothing on it could install these from here alone. Raises InfrastructureError."""
    with tempfile.TemporaryDirectory(prefix="rtc-debs-") as name:
        state = Path(name)
        for place in ("lists/partial", "archives/partial"):
            (state / place).mkdir(parents=True)
        (state / "status").touch()
        place = urllib.parse.quote(str(folder.absolute()))
        (state / "sources").write_text(f"deb [trusted=yes] file:{place} ./\n", encoding="utf-8")
        settings = {
            "Dir::Etc::sourcelist": "sources", "Dir::Etc::sourceparts": "none", "Dir::State::lists": "lists",
            "Dir::Cache": ".", "Dir::Cache::archives": "archives", "Dir::State::status": "status",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={state / value}")]
        options += ["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=true"]
        for words in (["update"], ["install", "--simulate", "--no-install-recommends", *names]):
            try:
                done = subprocess.run(
                    ["apt-get", *options, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                    errors="replace", env={**os.environ, "LC_ALL": "C"}, timeout=deadline.remaining, check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise InfrastructureError("apt-get did not end in time", waited=error.timeout) from error
            if done.returncode:
                lines = (done.stdout + done.stderr).splitlines()[-10:]
                raise InfrastructureError("a machine with nothing on it could not install the bundle", last_lines=lines)


def _stanza(file: Path) -> str:
    """What a repository's index has about a package."""
    try:
        done = subprocess.run(["dpkg-deb", "-f", str(file)], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise InfrastructureError(f"{file.name} is no package: {error}") from error
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return f"{done.stdout.rstrip()}\nFilename: ./{file.name}\nSize: {len(data)}\nSHA256: {digest}\n"


def copy_source(project: Path, folder: Path) -> int:
    """The project's files as git knows them; without git all but what is made from them. How many there are."""
    names = _tracked(project)
    if names is None:
        shutil.copytree(project, folder, ignore=lambda _, found: _NOT_SOURCE & set(found), symlinks=True)
        return sum(path.is_file() for path in folder.rglob("*"))
    for name in names:
        source = project / name
        if source.is_file():  # one that was removed and not yet committed is not there
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    return len(names)


def _tracked(project: Path) -> list[str] | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(project), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True, timeout=60, check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return [name for name in done.stdout.decode().split("\0") if name] or None


def make_cache(folder: Path, kernels: Sequence[str], *, machine: bool, deadline: Deadline) -> list[str]:
    """Makes the guests' images in a cache of its own, with nothing from other days in it; what it has, as `kind/key`.

    kernels: names of KERNELS. machine: the rehearsal machine's image as well. What is saved of guests that were booted
    is not made: it is of one version of QEMU's. Raises ConfigurationError and InfrastructureError for what cannot be.
    """
    for name in kernels:
        if name not in KERNELS:
            raise ConfigurationError(f"no kernel is called {name}", hint=f"there are {', '.join(KERNELS)}")
        prepare_image(ImageSpec(kernel=name), folder, deadline)
    prepare_image(ImageSpec(), folder, deadline)
    prepare_image(ImageSpec(ntp=True), folder, deadline)
    prepare_bare_image(folder, deadline)
    if machine:
        from harness.rehearsal.machine_image import machine_image

        machine_image(folder, deadline)
    shutil.rmtree(folder / "apt", ignore_errors=True)
    (folder / "lock").unlink(missing_ok=True)
    return sorted(str(path.relative_to(folder)) for path in folder.glob("*/*"))


def lab_packages(script: str) -> set[str]:
    """The Debian packages that the lab script names."""
    return set(re.findall(r"\|\| echo ([a-z0-9][a-z0-9.+-]+)$", script, re.MULTILINE)) | set(
        re.findall(r"^\s+echo ([a-z0-9][a-z0-9.+-]+)$", script, re.MULTILINE)
    )
