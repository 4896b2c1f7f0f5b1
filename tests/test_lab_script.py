"""./lab in a checkout of its own, on a machine of stand-ins for python and apt-get: what it does and says."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNS = ["tests", "qemu", "exhaustive", "nested", "hw", "nightly"]
TOOLS = [
    "sh",
    "dirname",
    "cat",
    "cksum",
    "sed",
    "readlink",
    "flock",
    "grep",
    "tail",
    "mkdir",
    "rm",
    "cp",
    "env",
]
TOOLS += ["sleep", "chmod", "touch"]

# Stands in for python3 and, copied, for the Python of both environments; notes each call.
PYTHON = r"""#!/bin/sh
for word in "$@"; do printf '%s\037' "$word"; done >>"$CALLS"
printf '\n' >>"$CALLS"
case "$*" in
*"-m venv "*) mkdir -p "$3/bin" && cp "$SELF" "$3/bin/python" ;;
*"-m tox run --notest"*)
    if [ -n "${TOX_GATE-}" ]; then echo making >"$TOX_GATE.reached"; read -r _ <"$TOX_GATE"; fi
    if [ -e "$CALLS.tox-fails" ]; then echo "no index can be reached"; exit 1; fi
    mkdir -p "$CHECKOUT/.tox/shared/bin" && cp "$SELF" "$CHECKOUT/.tox/shared/bin/python" ;;
*"-m pip install "*nodejs*) exit 1 ;;
*"-m pytest "*)
    echo "pytest is $$"
    if [ -n "${HOLD-}" ]; then trap 'echo interrupted; exit 5' INT; echo holding; read -r _; fi
    exit "${PYTEST_STATUS:-0}" ;;
esac
"""

APT = r"""#!/bin/sh
printf 'apt-get\037' >>"$CALLS"
for word in "$@"; do printf '%s\037' "$word"; done >>"$CALLS"
printf '\n' >>"$CALLS"
case "$*" in
*update*) touch "$CALLS.updated" ;;
*install*)
    if [ -e "$CALLS.lists-missing" ] && [ ! -e "$CALLS.updated" ]; then
        echo "E: Unable to locate package"
        exit 100
    fi
    if [ -e "$CALLS.apt-fails" ]; then echo "E: the archive is on fire"; exit 100; fi
    echo '#!/bin/sh' >"$BIN/qemu-system-x86_64"
    chmod +x "$BIN/qemu-system-x86_64" ;;
esac
"""


@dataclass
class Checkout:
    """A checkout with only what ./lab reads, and the programs of a machine that has just these."""

    path: Path
    programs: Path
    calls_file: Path
    environment: dict[str, str] = field(default_factory=dict)

    def program(self, name: str, text: str = "#!/bin/sh\n") -> None:
        path = self.programs / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.path / "lab"), *arguments],
            env=self.environment | environment,
            cwd=self.path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lab(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def calls(self) -> list[list[str]]:
        """The calls of stand-ins since the last question, as lists of words."""
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.unlink()
        return [line.split("\037")[:-1] for line in lines]

    def kinds(self) -> list[str]:
        """The calls since the last question, in a word each."""
        words = {"venv": "venv", "pip": "pip", "tox": "tox", "pytest": "pytest"}
        kinds = []
        for call in self.calls():
            if call[0] == "apt-get":
                kinds.append("apt update" if "update" in call else "apt install")
            elif call[0] == "-m":
                kinds.append(words[call[1]])
        return kinds


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    path, programs = tmp_path / "a checkout", tmp_path / "bin"
    path.mkdir()
    programs.mkdir()
    for name in ("lab", "tox.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, path)
    for name in TOOLS:
        real = shutil.which(name)
        assert real is not None
        (programs / name).symlink_to(real)
    calls = tmp_path / "calls"
    python = tmp_path / "python-stand-in"
    made = Checkout(path, programs, calls)
    made.environment = {
        "PATH": str(programs),
        "HOME": str(tmp_path),
        "CALLS": str(calls),
        "SELF": str(python),
        "BIN": str(programs),
        "CHECKOUT": str(path),
    }
    python.write_text(PYTHON)
    python.chmod(0o755)
    made.program("python3", PYTHON)
    made.program("id", "#!/bin/sh\necho 0\n")
    made.program("apt-get", APT)
    for name in ("qemu-system-x86_64", "busybox", "gcc", "strace"):
        made.program(name)
    yield made


def test_without_a_run_or_with_help_it_prints_its_usage(checkout: Checkout) -> None:
    alone, asked = checkout.lab(), checkout.lab("--help")

    assert (alone.returncode, asked.returncode) == (2, 0)
    assert alone.stderr == asked.stdout
    assert asked.stdout.startswith("usage: ./lab RUN")
    assert all(f"\n  {run} " in asked.stdout for run in [*RUNS, "lint", "pyz"])
    assert checkout.calls() == []


def test_an_unknown_run_is_named_and_nothing_is_done(checkout: Checkout) -> None:
    done = checkout.lab("qmeu")

    assert done.returncode == 2
    assert "no run is called 'qmeu': tests, qemu" in done.stderr
    assert checkout.calls() == []
    assert not (checkout.path / ".tox").exists()


def test_what_is_missing_is_made_once_and_later_calls_are_quiet(checkout: Checkout) -> None:
    first = checkout.lab("qemu")
    made = checkout.kinds()
    second = checkout.lab("tests")

    assert first.returncode == second.returncode == 0, first.stderr
    assert made == ["venv", "pip", "tox", "pip", "pytest"]
    assert checkout.kinds() == ["pytest"]
    assert second.stderr == ""


@pytest.mark.parametrize("run", RUNS)
def test_it_runs_the_command_that_tox_has_for_the_run(checkout: Checkout, run: str) -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    command = shlex.split(tox[f"testenv:{run}"]["commands"])
    assert command[0] == "python"
    assert command[-1] == "{posargs}"

    checkout.lab(run, "-k", "two words", "$HOME", "--run-dir", "it's *")

    assert checkout.calls()[-1] == [*command[1:-1], "-k", "two words", "$HOME", "--run-dir", "it's *"]


@pytest.mark.parametrize("status", [0, 1, 5, 10, 11])
def test_the_exit_status_is_that_of_pytest(checkout: Checkout, status: int) -> None:
    assert checkout.lab("tests", PYTEST_STATUS=str(status)).returncode == status


def test_it_becomes_pytest_so_that_a_signal_reaches_pytest_once(checkout: Checkout) -> None:
    checkout.lab("tests")

    process = checkout.start("qemu", HOLD="yes")
    assert process.stdout is not None
    assert process.stdout.readline() == f"pytest is {process.pid}\n"
    assert process.stdout.readline() == "holding\n"
    process.send_signal(signal.SIGINT)
    process.stdin.write("\n")  # type: ignore[union-attr]
    out, _ = process.communicate(timeout=60)

    assert out == "interrupted\n"
    assert process.returncode == 5


def test_a_changed_list_of_packages_renews_the_environment_only(checkout: Checkout) -> None:
    checkout.lab("tests")
    checkout.calls()
    with (checkout.path / "pyproject.toml").open("a") as file:
        file.write("# changed\n")

    checkout.lab("tests")

    assert checkout.kinds() == ["tox", "pip", "pytest"]


def test_a_making_that_failed_says_why_and_is_tried_again(checkout: Checkout) -> None:
    fails = Path(f"{checkout.calls_file}.tox-fails")
    fails.touch()
    failed = checkout.lab("tests")
    fails.unlink()
    checkout.calls()

    again = checkout.lab("tests")

    assert failed.returncode == 10
    assert "    | no index can be reached\n" in failed.stderr
    assert "infrastructure error: could not make .tox/shared (whole log: " in failed.stderr
    assert again.returncode == 0
    assert checkout.kinds() == ["tox", "pip", "pytest"]


def test_without_node_from_the_index_the_run_goes_on_and_it_is_said(checkout: Checkout) -> None:
    done = checkout.lab("qemu")

    assert done.returncode == 0
    assert "no HTML report" in done.stderr


def test_a_node_that_is_there_is_enough(checkout: Checkout) -> None:
    checkout.program("node", "#!/bin/sh\necho v22.1.0\n")

    checkout.lab("qemu")

    assert checkout.kinds() == ["venv", "pip", "tox", "pytest"]


def test_two_calls_at_once_make_things_once(checkout: Checkout, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    os.mkfifo(f"{gate}.reached")

    first = checkout.start("tests", TOX_GATE=str(gate))
    assert Path(f"{gate}.reached").read_text() == "making\n"
    second = checkout.start("qemu")
    assert second.stderr is not None
    said = second.stderr.readline()
    gate.write_text("go\n")
    statuses = [process.communicate(timeout=60) and process.returncode for process in (first, second)]

    assert said == "lab: waiting for another ./lab in this checkout\n"
    assert statuses == [0, 0]
    assert sorted(checkout.kinds()) == ["pip", "pip", "pytest", "pytest", "tox", "venv"]


def test_a_missing_package_is_installed_without_fetching_lists(checkout: Checkout) -> None:
    (checkout.programs / "qemu-system-x86_64").unlink()

    done = checkout.lab("qemu")

    assert done.returncode == 0, done.stderr
    assert "lab: installing Debian packages: qemu-system-x86\n" in done.stderr
    apt = [call for call in checkout.calls() if call[0] == "apt-get"]
    assert [call[-4:] for call in apt] == [["install", "-y", "--no-install-recommends", "qemu-system-x86"]]


def test_lists_are_fetched_where_the_package_is_not_found(checkout: Checkout) -> None:
    (checkout.programs / "qemu-system-x86_64").unlink()
    Path(f"{checkout.calls_file}.lists-missing").touch()

    done = checkout.lab("qemu")

    assert done.returncode == 0, done.stderr
    assert checkout.kinds()[:3] == ["apt install", "apt update", "apt install"]


def test_an_installation_that_fails_shows_what_apt_said(checkout: Checkout) -> None:
    (checkout.programs / "qemu-system-x86_64").unlink()
    Path(f"{checkout.calls_file}.apt-fails").touch()

    done = checkout.lab("qemu")

    assert done.returncode == 10
    assert "    | E: the archive is on fire\n" in done.stderr
    assert "could not install qemu-system-x86 (whole log: " in done.stderr
    assert "pytest" not in checkout.kinds()


def test_without_root_and_sudo_the_missing_packages_are_named(checkout: Checkout) -> None:
    checkout.program("id", "#!/bin/sh\necho 1000\n")
    (checkout.programs / "qemu-system-x86_64").unlink()
    (checkout.programs / "busybox").unlink()

    done = checkout.lab("qemu")

    assert done.returncode == 10
    assert "missing on this machine: qemu-system-x86 busybox-static. " in done.stderr
    assert (
        "As root: apt-get update && apt-get install --no-install-recommends qemu-system-x86 busybox-static"
        in (done.stderr)
    )
    assert checkout.kinds() == []


def test_without_root_sudo_is_asked(checkout: Checkout) -> None:
    checkout.program("id", "#!/bin/sh\necho 1000\n")
    checkout.program("sudo", '#!/bin/sh\n[ "$1" = -n ] || exit 9\nshift\nexec "$@"\n')
    (checkout.programs / "qemu-system-x86_64").unlink()

    done = checkout.lab("qemu")

    assert done.returncode == 0, done.stderr
    assert "apt install" in checkout.kinds()


def test_a_sudo_that_refuses_is_asked_once(checkout: Checkout) -> None:
    checkout.program("id", "#!/bin/sh\necho 1000\n")
    checkout.program("sudo", "#!/bin/sh\necho sudo: a password is required\nexit 1\n")
    (checkout.programs / "qemu-system-x86_64").unlink()

    done = checkout.lab("qemu")

    assert done.returncode == 10
    assert done.stderr.count("sudo: a password is required") == 1
    assert "could not install qemu-system-x86" in done.stderr


def test_nothing_missing_takes_no_root(checkout: Checkout) -> None:
    checkout.program("id", "#!/bin/sh\necho 1000\n")

    assert checkout.lab("qemu").returncode == 0
    assert "apt install" not in checkout.kinds()


def test_the_hardware_run_needs_no_qemu_here(checkout: Checkout) -> None:
    for name in ("qemu-system-x86_64", "busybox", "gcc", "apt-get"):
        (checkout.programs / name).unlink()

    assert checkout.lab("hw").returncode == 0


def test_an_unusable_python_is_named(checkout: Checkout) -> None:
    done = checkout.lab("tests", LAB_PYTHON="/nonexistent/python")

    assert done.returncode == 10
    assert "LAB_PYTHON=/nonexistent/python is not a Python of 3.10 or newer" in done.stderr


def test_the_tests_need_strace_and_the_scenarios_do_not(checkout: Checkout) -> None:
    (checkout.programs / "strace").unlink()

    assert checkout.lab("qemu").returncode == 0
    refused = checkout.lab("tests", LAB_NO_APT="1")

    assert refused.returncode == 10
    assert "missing on this machine: strace " in refused.stderr


def test_pyz_takes_a_python_and_makes_no_environment(checkout: Checkout, tmp_path: Path) -> None:
    done = subprocess.run(
        [checkout.path / "lab", "pyz", "my file.pyz"],
        cwd=tmp_path,
        env=checkout.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert done.stderr == ""
    called = [call for call in checkout.calls() if call[0] != "-c"]
    assert called == [["-I", "-B", str(checkout.path / "harness" / "pyz.py"), "my file.pyz"]]
    assert not (checkout.path / ".tox").exists() and not (checkout.path / ".venv").exists()


def test_pyz_takes_the_python_that_is_named(checkout: Checkout) -> None:
    refused = checkout.lab("pyz", LAB_PYTHON="/nonexistent/python")

    assert refused.returncode == 10
    assert "LAB_PYTHON=/nonexistent/python is not a Python of 3.10 or newer" in refused.stderr


def test_from_another_folder_it_says_where_relative_paths_start(checkout: Checkout, tmp_path: Path) -> None:
    checkout.lab("tests")

    done = subprocess.run(
        [checkout.path / "lab", "tests"],
        cwd=tmp_path,
        env=checkout.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert done.stderr == f"lab: runs in {checkout.path}: relative paths start there\n"
