"""acrn-dm's command line, read as acrn-dm reads it and said in our device model's words.

The options are those of ACRN's public documentation (acrn-dm parameters). Each is honoured, or without effect here and
named in a note, or refused because nothing here can stand in for it. Nothing is passed over in silence.
"""

from __future__ import annotations

import difflib
import getopt
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import ConfigurationError

_MIB = 1 << 20
_SUFFIXES = {"": 1, "b": 1, "k": 1 << 10, "m": _MIB, "g": 1 << 30, "t": 1 << 40}

_WITH_VALUE = "BEGiklmprsU"
_SWITCHES = "AhvWY"
_LONG_WITH_VALUE = (
    "ovmf", "cmd_monitor", "cpu_affinity", "logger_setting", "pm_notify_channel", "pm_by_vuart", "virtio_poll",
    "mac_seed", "intr_monitor", "acpidev_pt", "mmiodev_pt", "vtpm2", "vsbl", "part_info", "iasl", "pcpu_list",
)
_LONG_SWITCHES = (
    "help", "version", "rtvm", "lapic_pt", "windows", "debugexit", "ssram", "psram", "enable_trusty", "virtio_msi",
)
_ALIASES = {
    "--bootargs": "-B", "--elf_file": "-E", "--kernel": "-k", "--ramdisk": "-r", "--memsize": "-m",
    "--pci_slot": "-s", "--lpc": "-l", "--acpi": "-A", "--help": "-h", "--version": "-v",
}
"""acrn-dm's long names of its short options."""

_NO_EFFECT = {
    "-A": "QEMU makes the guest's ACPI tables",
    "-W": "there is no virtio with INTx or MSI to choose from",
    "-Y": "there is no MP table to leave out",
    "-U": "the guest has QEMU's UUID",
    "-p": "processors are not dealt out",
    "--cpu_affinity": "processors are not dealt out",
    "--pcpu_list": "processors are not dealt out",
    "--logger_setting": "what is to be said goes to standard error",
    "--pm_notify_channel": "the guest's power management is QEMU's",
    "--pm_by_vuart": "the guest's power management is QEMU's",
    "--virtio_poll": "there is no virtio backend of ACRN's",
    "--mac_seed": "the guest has no network",
    "--intr_monitor": "interrupts are QEMU's",
    "--lapic_pt": "the local APIC is QEMU's",
    "--windows": "the guest has no virtio that would need it",
    "--debugexit": "the guest has no debug-exit port",
    "--ssram": "there is no software SRAM",
    "--psram": "there is no software SRAM",
    "--virtio_msi": "there is no virtio with INTx or MSI to choose from",
    "--iasl": "QEMU makes the guest's ACPI tables",
}
_IMPOSSIBLE = {
    "-G": "graphics (GVT-g)", "-i": "the IOC mediator", "--acpidev_pt": "a passed-through ACPI device",
    "--mmiodev_pt": "a passed-through MMIO device", "--vtpm2": "a virtual TPM", "--vsbl": "the vSBL boot loader",
    "--part_info": "the vSBL boot loader", "--enable_trusty": "a trusted execution environment",
}
_QUIET_DEVICES = frozenset({"hostbridge", "amd_hostbridge", "lpc"})
_DEVICES_WITHOUT_EFFECT = frozenset(
    {"virtio-net", "virtio-rnd", "virtio-input", "virtio-hyper_dmabuf", "virtio-rpmb", "xhci", "igd-lpc", "ivshmem",
     "wdt-i6300esb", "uart", "virtio-gpu", "virtio-audio", "virtio-i2c", "virtio-gpio", "npk", "pci-gvt", "ahci"}
)
_HINT = "see docs/rehearsals.md: what our device model takes of acrn-dm's command line"


@dataclass
class AcrnCommand:
    """What a command line of acrn-dm asks for; `notes` has what of it is without effect here, and why."""

    name: str = ""
    memory: int = 256
    """MiB; what acrn-dm gives where nothing is said."""

    monitor: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    boot_arguments: str = ""
    disk: Path | None = None
    firmware: Path | None = None
    console: bool = False
    real_time: bool = False
    wants_help: bool = False
    wants_version: bool = False
    notes: list[str] = field(default_factory=list)

    def device_model_arguments(self, monitor: Path) -> list[str]:
        """The arguments of `python -m harness.devicemodel`, but for the hypervisor's socket. `monitor`: its socket."""
        arguments = ["--as-acrn-dm", "--cmd_monitor", str(monitor), "--memory", str(self.memory)]
        for option, path in (
            ("--kernel", self.kernel), ("--initrd", self.initrd), ("--disk", self.disk), ("--firmware", self.firmware)
        ):
            if path is not None:
                arguments += [option, str(path)]
        if self.boot_arguments:
            arguments.append(f"--append={self.boot_arguments}")  # it may begin with a dash
        if not self.console:
            arguments.append("--no-console")
        if self.real_time:
            arguments += ["--vrtc", "hv"]
        return [*arguments, "--", self.name]


def parse_command(arguments: Sequence[str]) -> AcrnCommand:
    """Read acrn-dm's arguments (without the program's name).

    Raises ConfigurationError naming every argument that cannot be had, or that acrn-dm would not understand either.
    """
    short = "".join(f"{letter}:" for letter in _WITH_VALUE) + _SWITCHES
    long_with_value = [*_LONG_WITH_VALUE, *(name[2:] for name, letter in _ALIASES.items() if letter[1] in _WITH_VALUE)]
    long_switches = [*_LONG_SWITCHES, "acpi"]
    names = [*(f"{name}=" for name in long_with_value), *long_switches]
    try:
        options, rest = getopt.gnu_getopt(list(arguments), short, names)
    except getopt.GetoptError as error:
        raise ConfigurationError(_unknown(error, [*long_with_value, *long_switches]), hint=_HINT) from error
    command, problems = AcrnCommand(), []
    for option, value in options:
        option = _ALIASES.get(option, option)  # noqa: PLW2901
        try:
            _take(command, option, value)
        except ValueError as error:
            problems.append(f"{option} {value}".rstrip() + f": {error}")
    if not (command.wants_help or command.wants_version):
        if len(rest) != 1:
            said = f"there are {len(rest)}: {' '.join(rest)}" if rest else "there is none"
            problems.append(f"acrn-dm takes one name of a VM, and {said}")
        else:
            command.name = rest[0]
        if command.kernel is None and command.disk is None:
            problems.append("there is nothing to boot: neither -k nor -E nor a virtio-blk")
    if problems:
        raise ConfigurationError("acrn-dm's command line: " + "; ".join(problems), hint=_HINT)
    return command


def _unknown(error: getopt.GetoptError, long_names: Sequence[str]) -> str:
    problem = f"acrn-dm's command line: {error.msg}"
    if "not recognized" in error.msg and len(error.opt) > 1:
        near = difflib.get_close_matches(error.opt, long_names, 1)
        problem += f" (the nearest that acrn-dm has is --{near[0]})" if near else " (acrn-dm has none like it)"
    return problem


def _take(command: AcrnCommand, option: str, value: str) -> None:
    """One option into the command. Raises ValueError saying why it cannot be had."""
    if option in _IMPOSSIBLE:
        raise ValueError(f"{_IMPOSSIBLE[option]} is not to be had without ACRN")
    if option in _NO_EFFECT:
        command.notes.append(f"{option} is without effect here: {_NO_EFFECT[option]}")
    elif option in _SWITCHED_ON:
        setattr(command, _SWITCHED_ON[option], True)
    else:
        _TAKERS[option](command, value)


def _take_memory(command: AcrnCommand, value: str) -> None:
    """acrn-dm's memory: a number with a suffix, or a bare one, which is in MiB where it is below a million."""
    match = re.fullmatch(r"(\d+)([bkmgt]?)", value.lower())
    if match is None or int(match[1]) == 0:
        raise ValueError("not a size such as 96M or 2G")
    number = int(match[1])
    if match[2] or number >= _MIB:
        number = max(1, -(-number * _SUFFIXES[match[2]] // _MIB))
    command.memory = number


def _take_kernel(command: AcrnCommand, value: str) -> None:
    if command.kernel is not None:
        raise ValueError(f"there is a kernel already, {command.kernel}")
    command.kernel = _file(value)


def _take_initrd(command: AcrnCommand, value: str) -> None:
    command.initrd = _file(value)


def _take_boot_arguments(command: AcrnCommand, value: str) -> None:
    command.boot_arguments = value


def _take_firmware(command: AcrnCommand, value: str) -> None:
    if value.startswith(("code=", "w,")):
        raise ValueError("a firmware that keeps its variables is not had here: name the file alone")
    command.firmware = _file(value)


def _take_monitor(command: AcrnCommand, value: str) -> None:
    command.monitor = Path(value)


def _take_device(command: AcrnCommand, value: str) -> None:
    """`-s SLOT,DEVICE[,CONFIGURATION]`. Raises ValueError."""
    slot, _, device = value.partition(",")
    kind, _, configuration = device.partition(",")
    if not re.fullmatch(r"\d+(:\d+){0,2}", slot) or not kind:
        raise ValueError("not SLOT,DEVICE[,CONFIGURATION]")
    if kind == "virtio-blk":
        if command.disk is not None:
            raise ValueError(f"there is a disk already, {command.disk}, and one is all there is here")
        command.disk = _file(configuration.split(",")[0])
        command.notes.append(f"{command.disk} is never written to: what the guest changes ends with it")
    elif kind == "virtio-console":
        for port in configuration.split(","):
            backend, _, rest = port.lstrip("@").partition(":")
            if backend != "stdio":
                raise ValueError(f"a console on {backend or 'nothing'}: here it is on stdio only")
            if not rest:
                raise ValueError("the port lacks its name (@stdio:NAME)")
        command.console = True
    elif kind == "passthru":
        raise ValueError("a passed-through device is not to be had without ACRN")
    elif kind in _DEVICES_WITHOUT_EFFECT:
        command.notes.append(f"-s {value} is without effect here: the guest has no such device")
    elif kind not in _QUIET_DEVICES:
        raise ValueError(f"{kind} is no device of acrn-dm's that is known here")


def _take_lpc(command: AcrnCommand, value: str) -> None:
    """`-l DEVICE,BACKEND`. Raises ValueError."""
    device, _, backend = value.partition(",")
    if device == "com1" and backend == "stdio":
        command.console = True
    elif device in {"com1", "com2", "com3", "com4", "com5"}:
        raise ValueError(f"{device} on {backend or 'nothing'}: here there is com1, on stdio only")
    else:
        raise ValueError(f"{device} is no LPC device that is known here")


def _file(value: str) -> Path:
    path = Path(value)
    if not path.is_file():
        raise ValueError("no such file")
    return path


_SWITCHED_ON = {"-h": "wants_help", "-v": "wants_version", "--rtvm": "real_time"}
_TAKERS: dict[str, Callable[[AcrnCommand, str], None]] = {
    "-m": _take_memory, "-k": _take_kernel, "-E": _take_kernel, "-r": _take_initrd, "-B": _take_boot_arguments,
    "-s": _take_device, "-l": _take_lpc, "--ovmf": _take_firmware, "--cmd_monitor": _take_monitor,
}
