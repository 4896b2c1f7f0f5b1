"""KVM is used only where it can get a guest through its firmware."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from harness.qemu.accelerator import choose_accelerator

FLAGS = "processor\t: 0\nmodel name\t: Test CPU with vmx in its name\nflags\t\t: fpu {} sse2\nbugs\t\t: {}\n"


def machine(folder: Path, flag: str, bug: str = "") -> tuple[Path, Path]:
    """A kvm device that opens, and a cpuinfo whose CPU has this flag."""
    device, cpuinfo = folder / "kvm", folder / "cpuinfo"
    device.touch()
    cpuinfo.write_text(FLAGS.format(flag, bug), encoding="ascii")
    return device, cpuinfo


@pytest.mark.parametrize("flag", ["vmx", "svm"])
def test_auto_takes_kvm_where_the_device_opens_and_the_cpu_virtualises(flag: str, tmp_path: Path) -> None:
    device, cpuinfo = machine(tmp_path, flag)
    assert choose_accelerator("auto", device=device, cpuinfo=cpuinfo) == "kvm"


@pytest.mark.parametrize("flag", ["", "vmxon", "xsvm", "svm_lock"])
def test_auto_takes_no_software_kvm_whose_cpu_has_no_such_flag(flag: str, tmp_path: Path) -> None:
    # given flags that only look alike, and the words in other lines
    device, cpuinfo = machine(tmp_path, flag, bug="vmx svm")
    assert choose_accelerator("auto", device=device, cpuinfo=cpuinfo) == "tcg"


def test_auto_takes_tcg_where_there_is_no_device(tmp_path: Path) -> None:
    device, cpuinfo = machine(tmp_path, "vmx")
    device.unlink()
    assert choose_accelerator("auto", device=device, cpuinfo=cpuinfo) == "tcg"


def test_auto_takes_tcg_where_the_device_has_the_rights_and_does_not_open(tmp_path: Path) -> None:
    # given a file that stands in for a node without a driver: nobody can open a socket
    device, cpuinfo = machine(tmp_path, "vmx")
    device.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(device))
        assert choose_accelerator("auto", device=device, cpuinfo=cpuinfo) == "tcg"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_auto_takes_tcg_where_the_device_may_not_be_opened(tmp_path: Path) -> None:
    device, cpuinfo = machine(tmp_path, "vmx")
    device.chmod(0)
    assert choose_accelerator("auto", device=device, cpuinfo=cpuinfo) == "tcg"


def test_auto_takes_tcg_where_nothing_is_known_of_the_cpu(tmp_path: Path) -> None:
    device, cpuinfo = machine(tmp_path, "vmx")
    cpuinfo.unlink()
    assert choose_accelerator("auto", device=device, cpuinfo=cpuinfo) == "tcg"


@pytest.mark.parametrize("wish", ["kvm", "tcg"])
def test_a_wish_is_obeyed_whatever_the_machine_has(wish: str, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert choose_accelerator(wish, device=nothing, cpuinfo=nothing) == wish  # type: ignore[arg-type]
