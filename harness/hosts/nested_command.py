"""QEMU's command line for a machine that ACRN can run on: VMX, EPT, an IOMMU that remaps interrupts, no kvmclock."""

from __future__ import annotations

from harness.bench import NestedHostSpec
from harness.hosts.nested_preflight import QEMU
from harness.qemu.user_network import user_network

ACRN_CPU = "host,+vmx,+invtsc,+x2apic,+tsc-deadline,+pdpe1gb,-xsave,-vmx-apicv-vid,kvmclock=off"
"""What ACRN wants to see and what KVM, one level down, does not do well. `arguments: [-cpu, ...]` replaces it."""

ACRN_IOMMU = "intel-iommu,intremap=on,caching-mode=on,aw-bits=48"


def nested_command(spec: NestedHostSpec, *, qmp: int, console: int) -> list[str]:
    """The argument list. qmp, console: descriptors of sockets that QEMU inherits.

    The image is never written to: what the machine changes goes to a file of QEMU's own, which ends with it. The
    bench's `arguments` come last; QEMU takes the last of an option that is given twice.
    """
    command = [str(spec.qemu or QEMU)]
    if spec.accelerator == "kvm":
        command += ["-machine", "q35,accel=kvm,kernel-irqchip=split", "-cpu", ACRN_CPU, "-device", ACRN_IOMMU]
    else:
        command += ["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]
    command += [
        *("-m", str(spec.memory), "-smp", str(spec.processors), "-rtc", "base=utc"),
        *("-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-msg", "timestamp=on,guest-name=off"),
        *("-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console"),
        *user_network(0, "virtio-net-pci,romfile="),
    ]
    if spec.ovmf is not None:
        command += ["-bios", str(spec.ovmf)]
    if spec.image is not None:
        image = str(spec.image).replace(",", ",,")
        command += [
            *("-drive", f"file={image},format={spec.image_format},if=none,id=image,snapshot=on"),
            *("-device", "virtio-blk-pci,drive=image,bootindex=0"),
        ]
    if spec.kernel is not None:
        command += ["-kernel", str(spec.kernel)]
        if spec.initrd is not None:
            command += ["-initrd", str(spec.initrd)]
        if spec.append:
            command += ["-append", spec.append]
    return [*command, *spec.arguments]
