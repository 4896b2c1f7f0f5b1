"""./lab: what it says of itself, and what it becomes."""

from __future__ import annotations

import configparser
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab_support import ROOT, Checkout

RUNS = ["tests", "qemu", "exhaustive", "nested", "hw", "nightly"]


def test_without_a_run_or_with_help_it_prints_its_usage(checkout: Checkout) -> None:
    alone, asked = checkout.lab(), checkout.lab("--help")

    assert (alone.returncode, asked.returncode) == (2, 0)
    assert alone.stderr == asked.stdout
    assert asked.stdout.startswith("usage: ./lab RUN")
    assert all(f"\n  {run} " in asked.stdout for run in [*RUNS, "lint", "pyz", "bench"])
    assert checkout.calls() == []


def test_an_unknown_run_is_named_and_nothing_is_done(checkout: Checkout) -> None:
    done = checkout.lab("qmeu")

    assert done.returncode == 2
    assert "no run is called 'qmeu': tests, qemu" in done.stderr
    assert checkout.calls() == []
    assert not (checkout.path / ".tox").exists()


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


def test_bench_runs_where_it_is_called_so_that_files_are_named_from_there(
    checkout: Checkout, tmp_path: Path
) -> None:
    checkout.lab("tests")
    checkout.calls()

    done = subprocess.run(
        [checkout.path / "lab", "bench", "check", "--connect", "my bench.yaml"],
        cwd=tmp_path,
        env=checkout.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert checkout.calls() == [["-m", "harness.bench", "check", "--connect", "my bench.yaml"]]
    assert done.stdout == f"in {tmp_path} with {checkout.path}\n"
    assert done.stderr == ""


def test_bench_needs_no_qemu_and_no_apt(checkout: Checkout) -> None:
    for name in ("qemu-system-x86_64", "busybox", "gcc", "strace", "apt-get"):
        (checkout.programs / name).unlink()

    assert checkout.lab("bench", "schema").returncode == 0
