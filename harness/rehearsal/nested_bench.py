"""A rehearsal of nested hosts: the rehearsal machine's image in the place of the user's ACRN image."""

from __future__ import annotations

from pathlib import Path

import yaml

from harness.deadline import Deadline
from harness.rehearsal.keys import make_keys
from harness.rehearsal.machine_image import MEMORY, PROCESSORS, key_arguments, machine_image

_HEAD = """# Made by `python -m harness.rehearsal.machine prepare`: a rehearsal of `kind: nested` without
# ACRN. The machine is emulated (tcg), boots a kernel of the distribution without a boot loader, and our device model
# plays acrn-dm in it: docs/nested.md says all that differs from an ACRN image with KVM.
"""
_OPTIONS = "RTC_BENCH_DM_OPTIONS=--full-events"
_ARGUMENTS = ("-s", "5,virtio-console,@stdio:stdio_port", "--cmd_monitor", "{monitor}", "{vm}")


def prepare_nested(folder: Path, deadline: Deadline) -> Path:
    """Makes what the machine boots, its keys, and the bench file that says so; returns that file.

    Raises ConfigurationError, InfrastructureError, OSError.
    """
    keys, image = make_keys(folder), machine_image(None, deadline)
    image.write_initrd(folder / "initrd")
    kernel = folder / "kernel"
    kernel.unlink(missing_ok=True)
    kernel.symlink_to(image.kernel)
    host_key = keys.host_key.with_name("host_key.pub").read_text(encoding="ascii").split()
    host = {
        "kind": "nested",
        "kernel": "kernel",
        "initrd": "initrd",
        "append": image.append,
        "memory": MEMORY,
        "processors": PROCESSORS,
        "accelerator": "tcg",
        "arguments": key_arguments(keys),
        "detects": "Command line: .*rdinit=/init",
        "boot_timeout": 120,
        "ssh": {"user": "root", "identity": keys.identity.name, "host_key": " ".join(host_key[:2])},
    }
    bench = {
        "version": 1,
        "name": "rehearsal-nested",
        "host": host,
        "service": {"judged": "project"},
        "quiet": {"seconds": 1},
        "parallel": 1,
        "guests": [
            _guest("bare", "-k", "{kernel}", "-B", "{append}", system="bare"),
            _guest("linux", "-k", "{kernel}", "-r", "{initrd}", "-B", "{append}", boot_timeout=400),
        ],
    }
    path = folder / "bench.yaml"
    path.write_text(_HEAD + yaml.safe_dump(bench, sort_keys=False, width=110), encoding="utf-8")
    return path


def _guest(name: str, *boot: str, **more: object) -> dict[str, object]:
    arguments = [_OPTIONS, "acrn-dm", "-m", "{memory}M", *boot, *_ARGUMENTS]
    model = {"kind": "acrn-dm", "program": "env", "arguments": arguments}
    return {"name": name, **more, "hypervisor": ["TCGTCGTCGTCG"], "device_model": model}
