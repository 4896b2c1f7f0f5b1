"""The hypervisor's slots: whose VM is in which, and by how much the last VM in it had moved its clock."""

from __future__ import annotations

import logging

from harness.hypervisor import wire
from harness.hypervisor.connection import Connection
from harness.hypervisor.vm import Vm
from harness.vm_event import Tunnel

MOST_SLOTS = 4096
"""VM names that are remembered; a run has one for each guest."""

log = logging.getLogger(__name__)


class Slots:
    """VMs by their names. A VM created again under a name begins with the offset that the former one left."""

    def __init__(self) -> None:
        self._holders: dict[str, Connection] = {}
        self._offsets: dict[str, int] = {}

    def holder(self, name: str) -> Connection | None:
        """Who has the VM of this name now."""
        return self._holders.get(name)

    def create(self, connection: Connection, new: wire.NewVm, descriptors: list[int]) -> int:
        """Give the connection its VM; the offset it begins with. The descriptors stay the caller's.

        Raises WireError when that cannot be, SourceError, RingError or OSError for ring and kick, ValueError or
        OverflowError for a time that the clock cannot show; then everything is as before.
        """
        if connection.vm is not None:
            raise wire.WireError(f"{new.name}: this connection has a VM already, {connection.vm.name}")
        if new.name in self._holders:
            raise wire.WireError(f"{new.name}: there is such a VM already")
        if len(descriptors) != wire.DESCRIPTORS:
            count = f"{wire.DESCRIPTORS} descriptors, not {len(descriptors)}"
            raise wire.WireError(f"{new.name}: ring and kick come as {count}")
        if new.name not in self._offsets and len(self._offsets.keys() | self._holders.keys()) >= MOST_SLOTS:
            raise wire.WireError(f"{new.name}: all {MOST_SLOTS} slots are taken")
        offset = self._offsets.get(new.name, 0)
        tunnel = Tunnel.attach(*descriptors)
        try:
            connection.vm = Vm(new, tunnel, offset)
        except BaseException:  # whatever it was, what is open is ours to close
            tunnel.close()
            raise
        self._holders[new.name] = connection
        log.info("%s: created; its RTC begins at %d %+d s", new.name, new.rtc_time, offset)
        return offset

    def end(self, connection: Connection) -> None:
        """The connection's VM, if it has one, is no more: its slot is free, with its clock's offset."""
        vm = connection.vm
        if vm is not None and self._holders.get(vm.name) is connection:
            del self._holders[vm.name]
            self._offsets[vm.name] = vm.offset
            log.info(
                "%s: ended; %d accesses, %d events, %d dropped; clock moved by %+d s",
                *(vm.name, vm.accesses, vm.events, vm.dropped, vm.offset),
            )
