"""Tells a service manager that the service is ready: systemd's notification protocol (sd_notify)."""

from __future__ import annotations

import os
import socket


def notify(*assignments: str) -> bool:
    """Send assignments such as "READY=1" to the manager that started this process; False where none wants them.

    Never fails and never waits: a service that works is not to end because nobody could be told.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # a name in the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.setblocking(False)
            manager.connect(address)
            manager.send("\n".join(assignments).encode())
    except OSError:
        return False
    return True
