"""The options of `--attach`, as a user gives them, and options whose values are paths anywhere."""

from __future__ import annotations

import argparse
import configparser
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.options import UPDATES
from fixtures.session import _FOR_GUESTS_OF_OURS, AttachOptions, _attach_options
from harness.errors import ConfigurationError
from tests.chain import ROOT


def read(**options: object) -> AttachOptions | None:
    names = ("attach", "attach_for", "attach_trace", *_FOR_GUESTS_OF_OURS)
    return _attach_options(argparse.Namespace(**{**dict.fromkeys(names), **options}))


def test_a_relative_socket_is_meant_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert read(attach="vm0.sock", attach_for=2.5) == AttachOptions(tmp_path / "vm0.sock", 2.5, None)
    assert read() is None


@pytest.mark.parametrize(
    "options",
    [
        {"attach_for": 5.0},
        {"attach_trace": "trace.log"},
        {"attach": "s", "attach_for": 0.0},
        {"attach": "s", "attach_for": float("nan")},
        {"attach": "s", "rtc_plan": "plan.yaml"},
        {"attach": "s", "service_socket": "/tmp/s"},
        {"attach": "s", "bench": "bench.yaml"},
        {"attach": "s", "rtc_seed": 0},
        {"attach": "s", "rtc_guests": 1},
        {"attach": "s", "rtc_updates": 0},
    ],
    ids=str,
)
def test_what_contradicts_itself_is_a_configuration_error(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        read(**options)


def collected(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words, "--collect-only", "-q", "-p", "no:cacheprovider"],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_how_many_updates_are_the_usual_number_is_refused_too_where_somebody_says_it(tmp_path: Path) -> None:
    said = collected("-m", "pytest", "scenarios", f"--attach={tmp_path / 'vm0.sock'}", f"--rtc-updates={UPDATES}")
    assert f"--rtc-updates {UPDATES}: with --attach no guest is started" in said.stdout + said.stderr
    assert said.returncode == 11


def lab_qemu() -> tuple[str, ...]:
    """The words that ./lab qemu becomes."""
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    python, *words = shlex.split(tox["testenv:qemu"]["commands"].replace("{posargs}", ""))
    assert python == "python"
    return tuple(words)


@pytest.mark.parametrize(
    ("words", "option"),
    [(lab_qemu(), "--attach {}"), (("-m", "pytest"), "--attach={}"), (("-m", "pytest", "scenarios"), "--attach={}")],
    ids=["lab qemu", "pytest", "pytest scenarios"],
)
def test_a_path_outside_of_the_repository_is_no_test_to_run(
    words: tuple[str, ...], option: str, tmp_path: Path
) -> None:
    # given a socket anywhere
    socket = tmp_path / "vm0.sock"
    socket.touch()
    # when it is attached to
    done = collected(*words, *option.format(socket).split(" "))
    # then the one scenario that watches is all there is to run, in whichever way pytest was begun
    assert "scenarios/test_attach.py::test_attach" in done.stdout, done.stdout + done.stderr
    assert "1/" in done.stdout.splitlines()[-1]
