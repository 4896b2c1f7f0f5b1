"""Why a machine cannot run ACRN in QEMU: each reason by name, with what mends it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.bench import NestedHostSpec
from harness.errors import ConfigurationError
from harness.hosts.nested_preflight import Places, obstacles, require

GOOD = {"flags": "fpu vmx ept aes", "nested": "Y", "ept": "Y", "kvm": "device", "available": 8000}


def machine(folder: Path, facts: Mapping[str, Any]) -> Places:
    """A machine as its /proc, /sys and /dev tell of it; what is None is not there."""
    (folder / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {facts['flags']}\nbugs\t: none\n")
    (folder / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {facts['available'] * 1024} kB\n")
    parameters = folder / "module" / "kvm_intel" / "parameters"
    if facts["nested"] is not None:
        parameters.mkdir(parents=True)
        (parameters / "nested").write_text(f"{facts['nested']}\n")
        (parameters / "ept").write_text(f"{facts['ept']}\n")
    kvm = folder / "kvm"
    if facts["kvm"] == "device":
        kvm.write_bytes(b"")
    elif facts["kvm"] == "locked":
        kvm.mkdir()  # opened for writing it is refused, for root too
    return Places(folder / "cpuinfo", folder / "meminfo", folder / "module", kvm)


def spec(**keys: Any) -> NestedHostSpec:
    return NestedHostSpec(kind="nested", kernel=Path(__file__), **keys)


def test_a_machine_that_can(tmp_path: Path) -> None:
    assert obstacles(spec(), machine(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("facts", "problem", "mend"),
    [
        ({"flags": "fpu aes"}, "the processor shows no VMX", "Intel VT-x"),
        ({"flags": "fpu hypervisor"}, "this machine is a virtual one itself", "nested virtualization"),
        ({"flags": "fpu svm"}, "AMD processor", "another machine"),
        ({"nested": None}, "the kernel module kvm_intel is not loaded", "modprobe kvm_intel nested=1"),
        ({"nested": "N"}, "does not hand VMX on", "options kvm_intel nested=1"),
        ({"nested": "0"}, "does not hand VMX on", "modprobe -r kvm_intel"),
        ({"ept": "N"}, "without EPT", "ept=1"),
        ({"kvm": None}, "there is no", "--device /dev/kvm"),
        ({"kvm": "locked"}, "cannot be opened", "dmesg"),
        ({"available": 4300}, "4096 MiB and QEMU's own 256 do not fit into the 4300 MiB", "`memory`"),
    ],
)
def test_each_obstacle_is_named_with_what_mends_it(
    tmp_path: Path, facts: Mapping[str, Any], problem: str, mend: str
) -> None:
    (found,) = obstacles(spec(), machine(tmp_path, {**GOOD, **facts}))
    assert problem in found.problem
    assert mend in found.mend


def test_no_permission_on_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is refused nothing, so the refusal is made up."""
    places = machine(tmp_path, GOOD)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("harness.hosts.nested_preflight.os.open", refuse)
    (found,) = obstacles(spec(), places)
    assert "may not open" in found.problem and "usermod -aG kvm" in found.mend


def test_all_obstacles_are_told_at_once(tmp_path: Path) -> None:
    places = machine(tmp_path, {**GOOD, "nested": "N", "kvm": None, "available": 100})
    with pytest.raises(ConfigurationError) as caught:
        require(spec(), places)
    for number, words in enumerate(("does not hand VMX on", "there is no", "do not fit"), 1):
        assert f"({number})" in caught.value.problem and words in caught.value.problem
        assert f"({number})" in caught.value.hint


def test_emulation_is_for_rehearsals(tmp_path: Path) -> None:
    # given a machine without any KVM
    places = machine(tmp_path, {**GOOD, "flags": "fpu", "nested": None, "kvm": None})
    # then what is emulated there is no ACRN
    (found,) = obstacles(spec(accelerator="tcg"), places)
    assert "no VMX: ACRN cannot start" in found.problem
    # and what does not claim to be is let through
    assert obstacles(spec(accelerator="tcg", detects="Linux version"), places) == []
    assert obstacles(spec(accelerator="tcg", detects=None), places) == []


def test_a_qemu_that_is_not_there(tmp_path: Path) -> None:
    missing = spec().model_copy(update={"qemu": tmp_path / "qemu"})
    (found,) = obstacles(missing, machine(tmp_path, GOOD))
    assert "no QEMU binary" in found.problem and "apt-get install" in found.mend
