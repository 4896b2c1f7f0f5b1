"""The guest that boots from a disk image of the user's, by the name that the engine has for it."""

from __future__ import annotations

from harness.guests.bring import push
from harness.guests.system import SystemGuest

DiskGuest = SystemGuest

__all__ = ["DiskGuest", "push"]
