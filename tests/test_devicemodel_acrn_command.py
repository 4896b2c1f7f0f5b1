"""acrn-dm's command line as our device model understands it in rehearsals."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.devicemodel import acrn_dm
from harness.devicemodel.acrn_command import AcrnCommand, parse_command
from harness.devicemodel.exit_record import parse_exit_record
from harness.errors import EXIT_CONFIGURATION, ConfigurationError


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with what a guest boots from."""
    for name in ("kernel", "ramdisk", "disk.img", "OVMF.fd"):
        (tmp_path / name).write_bytes(b"\0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def notes_of(command: AcrnCommand) -> str:
    return "\n".join(command.notes)


def test_a_launch_script_of_acrns_guide(files: Path) -> None:
    # given the command line of a launch script: options after the name's place, long names shortened
    words = (
        "-A -m 1024M -s 0:0,hostbridge -s 1:0,lpc -s 3,virtio-blk,disk.img -s 4,virtio-net,tap=tap0 "
        "-s 5,virtio-console,@stdio:stdio_port --ovmf OVMF.fd --cpu_affinity 1,3 "
        "--logger_setting console,level=4;kmsg,level=3 --cmd_mon /run/vm1 vm1 --windows"
    )
    command = parse_command(words.split())
    # then what can be had is had, and the rest is named with its reason
    assert (command.name, command.memory, command.monitor) == ("vm1", 1024, Path("/run/vm1"))
    assert (command.disk, command.firmware, command.console) == (Path("disk.img"), Path("OVMF.fd"), True)
    assert not command.real_time
    for word in ("-A", "--cpu_affinity", "--logger_setting", "--windows", "virtio-net", "never written to"):
        assert word in notes_of(command)
    assert len(command.notes) == 6


def test_what_the_device_model_is_told(files: Path) -> None:
    command = parse_command(
        ["--rtvm", "--lapic_pt", "-k", "kernel", "--ramdisk=ramdisk", "-B", "-x rtc.nonce=1", "-l", "com1,stdio", "rt"]
    )
    arguments = command.device_model_arguments(Path("/run/rt"))
    assert arguments == [
        *("--as-acrn-dm", "--cmd_monitor", "/run/rt", "--memory", "256", "--kernel", "kernel", "--initrd", "ramdisk"),
        *("--append=-x rtc.nonce=1", "--vrtc", "hv", "--", "rt"),
    ]
    # and without a console on stdio, that is left alone
    assert "--no-console" in parse_command(["-E", "kernel", "vm"]).device_model_arguments(Path("m"))


@pytest.mark.parametrize(
    ("words", "mebibytes"),
    [("96M", 96), ("2G", 2048), ("2g", 2048), ("512", 512), ("1048576", 1), ("1500000K", 1465), ("1b", 1)],
)
def test_memory_is_read_as_acrn_dm_reads_it(files: Path, words: str, mebibytes: int) -> None:
    assert parse_command(["-m", words, "-k", "kernel", "vm"]).memory == mebibytes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-k kernel --cmd_monitro /run/x vm", "the nearest that acrn-dm has is --cmd_monitor"),
        ("-k kernel --frobnicate vm", "option --frobnicate not recognized (acrn-dm has none like it)"),
        ("-k kernel -Z vm", "option -Z not recognized"),
        ("-k kernel --cmd_monitor", "option --cmd_monitor requires argument"),
        ("-k kernel", "takes one name of a VM, and there is none"),
        ("-k kernel vm1 vm2", "there are 2: vm1 vm2"),
        ("vm", "nothing to boot"),
        ("-k nowhere vm", "-k nowhere: no such file"),
        ("-k kernel -E kernel vm", "there is a kernel already"),
        ("-k kernel -m lots vm", "-m lots: not a size"),
        ("-k kernel -m 0M vm", "-m 0M: not a size"),
        ("-k kernel -s virtio-blk,disk.img vm", "not SLOT,DEVICE"),
        ("-k kernel -s 3,virtio-blk,disk.img -s 4,virtio-blk,disk.img vm", "one is all there is here"),
        ("-k kernel -s 3,passthru,0/2/0 vm", "not to be had without ACRN"),
        ("-k kernel -s 3,virtio-consle,@stdio:x vm", "virtio-consle is no device"),
        ("-k kernel -s 3,virtio-console,@pty:x vm", "a console on pty: here it is on stdio only"),
        ("-k kernel -s 3,virtio-console,@stdio vm", "the port lacks its name"),
        ("-k kernel -l com2,/dev/pts/1 vm", "here there is com1, on stdio only"),
        ("-k kernel --vtpm2 sock vm", "a virtual TPM is not to be had without ACRN"),
        ("-k kernel --ovmf w,OVMF.fd vm", "name the file alone"),
    ],
)
def test_what_cannot_be_had_is_named(files: Path, words: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_command(words.split())
    assert said in caught.value.problem


def test_all_problems_are_named_at_once(files: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_command(["-k", "nowhere", "-m", "lots", "--vtpm2", "sock"])
    for word in ("nowhere", "lots", "--vtpm2", "name of a VM"):
        assert word in caught.value.problem


def test_the_program_says_what_is_wrong_and_what_it_is(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # when acrn-dm could not be started either
    assert acrn_dm.main(["--frobnicate", "vm"]) == EXIT_CONFIGURATION
    # then the end is told as every device model's end is
    record = parse_exit_record(capsys.readouterr().err.strip())
    assert record is not None and record.fault == "configuration" and "--frobnicate" in record.problem
    # and it never pretends to be what it is not
    for option in ("-v", "--help"):
        assert acrn_dm.main([option]) == 0
        assert "test bench" in capsys.readouterr().out


def test_options_of_our_own_that_cannot_be_read(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(acrn_dm.OPTIONS, "--window '")
    assert acrn_dm.main(["-k", "kernel", "vm"]) == EXIT_CONFIGURATION
    assert acrn_dm.OPTIONS in capsys.readouterr().err
