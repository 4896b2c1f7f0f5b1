"""QEMU's own network, as a way into a machine's SSH from a port of this machine's loopback, and to nowhere else."""

from __future__ import annotations

import re
from typing import Any

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.qemu.qmp import QmpMonitor

ADDRESS = "10.0.2.15"
"""The machine's address there, which QEMU's own DHCP gives it too."""


def user_network(port: int, device: str) -> list[str]:
    """Arguments for it. port: on the loopback, 0 for any that is free; device: the machine's network card."""
    return [
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", f"{device},netdev=net"),
    ]


def forwarded_port(monitor: QmpMonitor, deadline: Deadline) -> int:
    """The loopback port that leads to the machine's SSH, as QEMU says. Raises InfrastructureError."""
    arguments: dict[str, Any] = {"command-line": "info usernet"}
    answer = str(monitor.execute("human-monitor-command", deadline, **arguments))
    found = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b", answer)
    if found is None:
        raise InfrastructureError("QEMU does not say which port leads to SSH", last_lines=answer.splitlines()[-10:])
    return int(found[1])
