"""`vm_event.pyz`: the same bytes wherever it is made, and on every Python the whole service, with nothing installed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

import harness
from harness.vm_event import __version__
from tests.vm_event_program import BARE, ROOT, VERSIONS, build, built, python_or_skip, running, serving
from tests.vm_event_support import NOON, PATIENCE

IMPORTER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from vm_event import RtcChange, VmEventService

heard = threading.Event()
with VmEventService("vm7", window=0.05) as service:
    service.subscribe(lambda event: (print(event), heard.set()))
    service.start()
    service.send(RtcChange(last_time=100, delta_time=-40))
    assert heard.wait(30)
"""


@pytest.fixture
def pyz(tmp_path: Path) -> Path:
    return build(tmp_path)


@pytest.mark.parametrize("minor", VERSIONS)
def test_it_is_the_same_wherever_whenever_and_with_whatever_it_is_made(tmp_path: Path, minor: int) -> None:
    python = python_or_skip(minor)
    harness = tmp_path / "another checkout" / "harness"
    shutil.copytree(ROOT / "harness" / "vm_event", harness / "vm_event", copy_function=shutil.copyfile)
    shutil.copyfile(ROOT / "harness" / "pyz.py", harness / "pyz.py")
    (harness / "vm_event" / "__pycache__").mkdir(exist_ok=True)
    (harness / "vm_event" / "__pycache__" / "left_over.py").write_text("")
    (harness / "vm_event" / "notes.txt").write_text("no source")
    os.utime(harness / "vm_event" / "abi.py", (1, 1))
    made = tmp_path / "deep" / "er" / "v.pyz"

    done = subprocess.run(
        [python, "-I", "-B", harness / "pyz.py", made],
        umask=0o077 if minor % 2 else 0o000,
        env={"TZ": "Asia/Tokyo", "PYTHONHASHSEED": str(minor)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert made.read_bytes() == built()
    path, size, checksum = done.stdout.splitlines()
    assert (path, size) == (str(made), f"{len(built())} bytes")
    assert checksum.startswith("sha256 ") and len(checksum) == 7 + 64
    assert stat.S_IMODE(made.stat().st_mode) == 0o755
    assert list(made.parent.iterdir()) == [made]


def test_it_holds_the_sources_as_they_are_in_order_and_nothing_else(pyz: Path) -> None:
    sources = {f"vm_event/{path.name}": path.read_bytes() for path in (ROOT / "harness" / "vm_event").glob("*.py")}

    with zipfile.ZipFile(pyz) as entries:
        names = entries.namelist()
        held = {name: entries.read(name) for name in names if name != "__main__.py"}
        kinds = {(entry.compress_type, entry.date_time, entry.extra) for entry in entries.infolist()}

    assert held == sources
    assert names == sorted(names)
    assert kinds == {(zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0), b"")}
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3\nPK")


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = subprocess.run(
        [ROOT / "lab", "pyz", tmp_path / "file" / "v.pyz"], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 10
    assert done.stderr.startswith(f"infrastructure error: cannot make {tmp_path}/file/v.pyz: ")


def test_the_version_is_that_of_the_project(pyz: Path) -> None:
    done = subprocess.run([pyz, "--version"], capture_output=True, text=True, check=True, timeout=60)

    assert harness.__version__ == __version__
    assert done.stdout == f"vm_event {__version__}\n"


@pytest.mark.parametrize("minor", VERSIONS)
def test_with_nothing_installed_it_serves_watches_and_tells_its_status(pyz: Path, tmp_path: Path, minor: int) -> None:
    command: list[str | Path] = [python_or_skip(minor), *BARE, pyz]
    path = tmp_path / "monitor"
    with (
        serving(command, path, "--vm", "vm0", "--stdin", "--window", "0.1") as service,
        running([*command, "watch", "--socket", path, "--json"]) as watch,
    ):
        assert watch.stderr is not None and watch.stdout is not None and service.stdin is not None
        assert watch.stderr.readline() == f"registered at {path}\n"
        service.stdin.write(f'{{"last_time":{NOON},"delta_time":3600}}\n')
        service.stdin.flush()
        event = json.loads(watch.stdout.readline())
        status = subprocess.run(
            [*command, "status", "--socket", path, "--json"], capture_output=True, check=True, timeout=PATIENCE
        )

    assert event == {
        "vm_event": 0,
        "last_time": NOON,
        "new_time": NOON + 3600,
        "delta_time": 3600,
        "raw_events": 1,
        "source": "dm",
        "vm": "vm0",
    }
    assert json.loads(status.stdout)["settled"] == 1


@pytest.mark.parametrize("minor", VERSIONS)
def test_a_program_imports_the_service_from_the_file(pyz: Path, minor: int) -> None:
    command = [python_or_skip(minor), *BARE, "-c", IMPORTER, str(pyz)]

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.startswith("SettledRtcChange(last_time=100, new_time=60, delta_time=-40, raw_events=1, ")
    assert "vm='vm7'" in done.stdout


def test_help_names_the_program_by_its_file(pyz: Path) -> None:
    done = subprocess.run([pyz, "watch", "--help"], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.startswith("usage: vm_event.pyz watch ")


@pytest.mark.parametrize("version", [(3, 9, 18), (2, 7, 18)])
def test_a_python_that_is_too_old_is_told_what_it_lacks(pyz: Path, version: tuple[int, ...]) -> None:
    program = f"import runpy, sys; sys.version_info = {version}; runpy.run_path(sys.argv[1], run_name='__main__')"

    done = subprocess.run(
        [python_or_skip(VERSIONS[-1]), "-c", program, str(pyz)], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 1
    assert done.stderr == f"vm_event.pyz needs Python 3.10 or newer; this is {version[0]}.{version[1]}\n"


def test_no_module_of_it_reaches_into_the_project(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as entries:
        texts = {name: entries.read(name).decode() for name in entries.namelist()}

    assert [name for name, text in texts.items() if "import harness" in text or "from harness" in text] == []
