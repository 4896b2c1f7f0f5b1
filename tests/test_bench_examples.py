"""The bench files that come with the project: right as they are, but for the files that a user brings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.bench import CommandPowerSpec, load_bench
from harness.yamlfile import FileProblems
from tests.docs_support import ROOT

FOLDER = ROOT / "fixtures" / "benches"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))
#: What of an example is the user's, and not there: by key.
OF_THE_USER = {
    "nuc": {"host.identity", "guests[1].console.device"},
    "nested": {"host.image", "host.ssh.identity"},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's, who has nothing yet."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_nothing_is_wrong_with_an_example_but_the_files_of_the_user(home: Path, example: Path) -> None:
    missing: dict[str, str] = {}
    try:
        load_bench(example)
    except FileProblems as error:
        missing = {problem.path: problem.text for problem in error.problems}

    assert set(missing) == OF_THE_USER.get(example.stem, set())
    assert all(re.search("[nN]o such file", text) for text in missing.values())


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_with_the_files_of_the_user_an_example_is_good(home: Path, terminal: str, example: Path) -> None:
    (home / ".ssh").mkdir()
    for name in (".ssh/id_rtc_bench", "acrn.qcow2"):
        (home / name).touch(0o600)
    copy = home / "bench.yaml"
    copy.write_text(example.read_text().replace("/dev/ttyUSB0", terminal))

    bench = load_bench(copy)

    assert bench.name
    assert {guest.hypervisor for guest in bench.guests} == {
        ("TCGTCGTCGTCG", "KVMKVMKVM") if bench.host.kind == "local"
        else ("TCGTCGTCGTCG",) if bench.name.startswith("rehearsal") else ("ACRNACRNACRN",)
    }  # fmt: skip


@pytest.mark.parametrize("name", ["loopback", "machine"])
def test_a_rehearsal_is_switched_on_by_what_the_project_has(name: str) -> None:
    bench = load_bench(FOLDER / f"rehearsal-{name}.yaml")

    assert isinstance(bench.power, CommandPowerSpec) and bench.power.status is not None
    for command, word in ((bench.power.on, "on"), (bench.power.off, "off"), (bench.power.status, "status")):
        assert command[1:] == ("-m", f"harness.rehearsal.{name}", word, str(bench.scratch))
    systems = {(guest.system, guest.own_system) for guest in bench.guests}
    assert systems == {("bare", False), ("linux", False)}


@pytest.mark.parametrize("name", sorted(OF_THE_USER))
def test_what_is_the_users_is_marked_in_the_example(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()

    for key in ("identity:", "device:", "image:", "vm_name:", "virtio-blk", "_env:"):
        assert all("YOURS" in line for line in lines if key in line and line.lstrip()[0] != "#"), key
