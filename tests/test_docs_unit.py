"""The example of a systemd unit: systemd takes it, the service takes its options, and little is left to it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.vm_event import cli
from tests.docs_support import ROOT
from tests.vm_event_program import build

UNIT = ROOT / "docs" / "vm_event@.service"
#: On systemd-analyze's scale from 0 (nothing left) to 10; its versions differ a little.
EXPOSURE_LIMIT = 2.0


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit of a VM, with the file it starts where it says."""
    archive = build(tmp_path)
    unit = tmp_path / "vm_event@vm0.service"
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/vm_event.pyz", str(archive)))
    return unit


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze here")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


def commands() -> list[list[str]]:
    """What the unit and the drop-ins in its comments start, for the VM vm0, as lists of words."""
    found = re.findall(r"^(?:#   )?ExecStart=(.+)$", UNIT.read_text(), re.MULTILINE)
    lists = []
    for line in found:
        words = shlex.split(line.replace("%i", "vm0"))
        if words[:2] == ["/bin/sh", "-c"]:
            words = shlex.split(re.sub(r"\$\$\([^)]*\)", "4711", words[2]).removeprefix("exec "))
        lists.append(words)
    return lists


def test_systemd_finds_nothing_wrong_with_it(installed: Path) -> None:
    done = analyze("verify", installed)

    # It looks at the units that this one needs, too, which are not ours.
    assert [line for line in done.stderr.splitlines() if installed.name in line] == []


def test_systemd_would_find_what_is_wrong_with_it(installed: Path) -> None:
    installed.write_text(installed.read_text().replace("ProtectSystem=strict", "ProtectSystm=strict"))

    assert installed.name in analyze("verify", installed).stderr


def test_little_is_left_to_it(installed: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", installed)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze rates only what is installed")

    exposure = re.search(r"exposure level for .*: ([\d.]+)", done.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= EXPOSURE_LIMIT


def test_every_command_in_it_is_one_that_the_service_takes() -> None:
    assert len(commands()) >= 2
    start = ["/usr/bin/python3", "-I", "-S", "/usr/local/bin/vm_event.pyz"]
    assert all(words[:4] == start for words in commands())

    parsed = [cli._parser().parse_args(words[4:]) for words in commands()]

    for options in parsed:
        assert options.vm == "vm0"
        assert options.monitor == "/run/vm_event/vm0/monitor"


def test_the_socket_is_in_a_folder_that_systemd_makes_for_this_vm_alone() -> None:
    text = UNIT.read_text()

    assert "\nRuntimeDirectory=vm_event/%i\nRuntimeDirectoryMode=0700\n" in text
    assert "/run/vm_event/%i/monitor " in text
