"""The hypervisor as a device model sees it: a VM of its own there, whose ring the event service reads."""

from __future__ import annotations

import os
import select
import socket
from contextlib import ExitStack
from pathlib import Path

from harness.errors import ConfigurationError, InfrastructureError
from harness.hypervisor import wire
from harness.vm_event import MonitorError, SharedRing
from harness.vm_event.sockets import connect

PATIENCE = 4.0
"""Seconds until a hypervisor that takes or answers nothing counts as lost: it needs microseconds."""

_ENDED = "its process has ended, or it has ended this VM"
_HINT = "see the hypervisor's log; one process serves all guests of a run, and has to outlive them"


class HypervisorLost(InfrastructureError):
    """The hypervisor process died, hangs, or will not have this VM: its RTC is not emulated any more."""

    label = "hypervisor lost"


class HypervisorVm:
    """A VM in the hypervisor: port accesses in, raw events on a ring. One thread at a time, but for `fileno`.

    Owns the connection, the ring and the kick; closing them ends the VM.
    """

    def __init__(self, path: Path, new: wire.NewVm) -> None:
        """Create the VM.

        Raises ConfigurationError when there is no hypervisor at `path`, HypervisorLost when it refuses.
        """
        self.new = new
        self._refusal: str | None = None
        self._accesses: list[bytes] = []
        self._written = False
        with ExitStack() as undo:
            try:
                self._socket = undo.enter_context(connect(path, timeout=PATIENCE, kind=socket.SOCK_SEQPACKET))
            except MonitorError as error:
                raise ConfigurationError(
                    f"there is no hypervisor to be had at {error}",
                    hint="start one (python -m harness.hypervisor --socket PATH), or name its socket by --hypervisor",
                ) from error
            self._socket.settimeout(PATIENCE)
            self._ring = undo.enter_context(SharedRing.create(shared=True))
            self._kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, self._kick)
            self._watch = undo.enter_context(select.epoll())
            self._watch.register(self._socket, select.EPOLLRDHUP)
            self._say(wire.create_message(new), [self.ring_descriptor, self._kick])
            #: Seconds that the clock is ahead of `rtc_time`, by what a former VM of this name did.
            self.offset = self._created()
            self._opened = undo.pop_all()

    def fileno(self) -> int:
        """Readable once the hypervisor has gone, or has ended this VM; for any thread."""
        return self._watch.fileno()

    @property
    def ring_descriptor(self) -> int:
        """The ring's memfd."""
        descriptor = self._ring.descriptor
        assert descriptor is not None
        return descriptor

    @property
    def kick_descriptor(self) -> int:
        """The kick's eventfd."""
        return self._kick

    def write(self, stamp_ns: int, register: int, value: int) -> None:
        """The guest wrote a register; goes with the next `send`."""
        self._accesses.append(wire.ACCESS.pack(stamp_ns, register, value, 1))
        self._written = True

    def read(self, stamp_ns: int, register: int) -> None:
        """The guest read a register; goes with the next `send`."""
        self._accesses.append(wire.ACCESS.pack(stamp_ns, register, 0, 0))

    def send(self) -> None:
        """Pass on what there is. If there are writes, wait until they are carried out and their events on the ring.

        An update that went into a hypervisor that hangs must be told as that, and not be missed without a word.
        Raises HypervisorLost.
        """
        while self._accesses:
            part, self._accesses = self._accesses[: wire.MOST_ACCESSES], self._accesses[wire.MOST_ACCESSES :]
            self._say(wire.ACCESSES + b"".join(part))
        if self._written:
            self._written = False
            self.sync()

    def sync(self) -> None:
        """Wait until everything sent has been carried out. Raises HypervisorLost."""
        self._say(wire.SYNC)
        if self._answer() != wire.SYNC:
            raise self._lost("it answered something else than was asked")

    def why_it_went(self) -> HypervisorLost:
        """What to say once `fileno` is readable. For any thread: takes no answer from the one that waits for it."""
        if self._refusal is None:
            try:
                self._note(self._socket.recv(wire.LONGEST, socket.MSG_PEEK | socket.MSG_DONTWAIT))
            except OSError:
                pass  # it said nothing
        return self._lost(_ENDED)

    def close(self) -> None:
        """End the VM. Closing again does nothing."""
        self._opened.close()

    def _created(self) -> int:
        answer = self._answer()
        try:
            if answer[:1] != wire.CREATE:
                raise wire.WireError(f"no answer of a hypervisor: {answer[:80]!r}")
            return wire.read_created(answer[1:])
        except wire.WireError as error:
            raise self._lost(str(error)) from error

    def _say(self, message: bytes, descriptors: list[int] | None = None) -> None:
        try:
            if descriptors:
                socket.send_fds(self._socket, [message], descriptors, socket.MSG_NOSIGNAL)
            else:
                self._socket.send(message, socket.MSG_NOSIGNAL)
        except TimeoutError as error:
            raise self._lost(f"it has taken nothing for {PATIENCE:.0f} s") from error
        except OSError as error:
            raise self._last_words() from error

    def _answer(self) -> bytes:
        try:
            answer = self._socket.recv(wire.LONGEST)
        except TimeoutError as error:
            raise self._lost(f"it has not answered for {PATIENCE:.0f} s") from error
        except OSError as error:
            raise self._last_words() from error
        self._note(answer)
        if not answer or self._refusal is not None:
            raise self._lost(_ENDED)
        return answer

    def _last_words(self) -> HypervisorLost:
        """After an error: a refusal that still lies there says more than a broken pipe."""
        try:
            while answer := self._socket.recv(wire.LONGEST, socket.MSG_DONTWAIT):
                self._note(answer)
        except OSError:
            pass  # there is no more
        return self._lost(_ENDED)

    def _note(self, answer: bytes) -> None:
        if answer[:1] == wire.REFUSED:
            self._refusal = answer[1:].decode("utf-8", "replace")

    def _lost(self, why: str) -> HypervisorLost:
        if self._refusal is not None:
            why = f"it refused: {self._refusal}"
        return HypervisorLost(f"{self.new.name}: the hypervisor is lost: {why}", hint=_HINT)
