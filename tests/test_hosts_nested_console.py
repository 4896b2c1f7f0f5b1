"""What a nested machine's console says of its boot: how far it is, what it dies of."""

from __future__ import annotations

import pytest

from harness.hosts.nested_console import BootEnd, ConsoleReader

GRUB = b"\x1b[2J\x1b[01;01H\x1b[0;37;40mGNU GRUB  version 2.06\r\nLoading ACRN hypervisor ...\r\n"
HARMLESS = b"error: Can't get controller info..\r\nNon-UEFI environment detected.\r\n"
HYPERVISOR = b"ACRN Hypervisor\r\n[2355975us][cpu=0][(null)][sev=2][seq=2]:HV: 3.3 DBG shared@qemu\r\n"
KERNEL = b"[    0.000000] Linux version 6.1.80-acrn-service-vm (build@here)\r\n"
LOGIN = b"Ubuntu 22.04.3 LTS acrn ttyS0\r\n\r\nacrn login: "
ASSERTION = b"[2361017us][cpu=0][(null)][sev=2][seq=6]:Assertion failed in file %s,line %d : fatal error\r\n"


def read(*parts: bytes) -> tuple[ConsoleReader, list[BootEnd]]:
    reader = ConsoleReader()
    return reader, [end for part in parts if (end := reader.feed(part)) is not None]


def test_a_boot_from_stage_to_stage() -> None:
    reader = ConsoleReader()
    stages = [reader.stage]
    for part in (GRUB, HARMLESS, HYPERVISOR, KERNEL, LOGIN):
        assert reader.feed(part) is None
        stages.append(reader.stage)
    assert stages == [
        "nothing (firmware says nothing here)", "GRUB", "GRUB", "the hypervisor", "the Service VM's kernel",
        "the Service VM's login",
    ]
    # and all at once it is the last that counts
    assert read(GRUB + HYPERVISOR + KERNEL)[0].stage == "the Service VM's kernel"


@pytest.mark.parametrize(
    ("text", "kind", "transient"),
    [
        (ASSERTION % (b"arch/x86/vtd.c", 256), "hypervisor", True),
        (b"Assertion failed in file hw/vtd.c,line 255 : fatal error\n", "hypervisor", True),
        (ASSERTION % (b"acpi_parser/dmar_parse.c", 120), "hypervisor", False),
        (ASSERTION % (b"arch/x86/not_vtd.c", 1), "hypervisor", False),
        (b"[    1.2] Kernel panic - not syncing: Attempted to kill init!\r\n", "panic", False),
        (b"[    1.2] VFS: Unable to mount root fs on unknown-block(0,0)\r\n", "panic", False),
        (b"error: file `/boot/acrn.32.out' not found.\r\n", "grub", False),
        (b"error: no such device: 4f1b.\r\n", "grub", False),
        (b"grub rescue> ", "grub", False),
        (b"   Minimal BASH-like line editing is supported.", "grub", False),
    ],
)
def test_every_death_has_a_name(text: bytes, kind: str, transient: bool) -> None:
    reader, (end,) = read(GRUB, text)
    assert (end.kind, end.transient) == (kind, transient)
    assert end.line and end.line in end.problem and end.hint
    assert reader.end == end
    # and it is told once
    assert reader.feed(text) is None


def test_a_death_is_found_however_it_is_cut() -> None:
    text = GRUB + HARMLESS + HYPERVISOR + ASSERTION % (b"arch/x86/vtd.c", 256)
    for cut in range(len(text)):
        _, ends = read(text[:cut], text[cut:])
        assert [end.transient for end in ends] == [True], cut
    _, ends = read(*(bytes([byte]) for byte in text))
    assert len(ends) == 1


def test_what_only_looks_like_a_death() -> None:
    reader, ends = read(
        GRUB, HARMLESS, HYPERVISOR, KERNEL,
        b"[    2.000000] EXT4-fs error: no reason to worry\r\n",
        b"[    3.000000] panic=-1 is on the command line\r\n",
        b"x" * 100_000, LOGIN,
    )
    assert ends == [] and reader.stage == "the Service VM's login"
