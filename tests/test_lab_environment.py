"""./lab makes what a run needs of Python: once, whole, one at a time."""

from __future__ import annotations

import os
from pathlib import Path

from tests.lab_support import Checkout


def test_what_is_missing_is_made_once_and_later_calls_are_quiet(checkout: Checkout) -> None:
    first = checkout.lab("qemu")
    made = checkout.kinds()
    second = checkout.lab("tests")

    assert first.returncode == second.returncode == 0, first.stderr
    assert made == ["venv", "pip", "tox", "pip", "pytest"]
    assert checkout.kinds() == ["pytest"]
    assert second.stderr == ""


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


def test_an_unusable_python_is_named(checkout: Checkout) -> None:
    done = checkout.lab("tests", LAB_PYTHON="/nonexistent/python")

    assert done.returncode == 10
    assert "LAB_PYTHON=/nonexistent/python is not a Python of 3.10 or newer" in done.stderr
