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

from fixtures.session import AttachOptions, _attach_options
from harness.errors import ConfigurationError
from tests.chain import ROOT


def read(**options: object) -> AttachOptions | None:
    names = ("attach", "attach_for", "attach_trace", "rtc_plan", "service_socket")
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
    ],
    ids=str,
)
def test_what_contradicts_itself_is_a_configuration_error(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        read(**options)


def test_a_path_outside_of_the_repository_is_no_test_to_run(tmp_path: Path) -> None:
    # given the command that ./lab qemu becomes, and a socket anywhere
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    python, *words = shlex.split(tox["testenv:qemu"]["commands"].replace("{posargs}", ""))
    assert python == "python"
    socket = tmp_path / "vm0.sock"
    socket.touch()
    # when it is attached to
    done = subprocess.run(
        [sys.executable, *words, "--attach", str(socket), "--collect-only", "-q", "-p", "no:cacheprovider"],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    # then the one scenario that watches is all there is to run
    assert "scenarios/test_attach.py::test_attach" in done.stdout, done.stdout + done.stderr
    assert "1/" in done.stdout.splitlines()[-1]
