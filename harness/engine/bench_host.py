"""The host of a bench in use: reserved, powered, reached, its observer there; all given back at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.bench import Bench, NestedHostSpec, SshHostSpec
from harness.deadline import Deadline
from harness.engine.strategy import Root
from harness.errors import BenchError
from harness.hosts.base import Host
from harness.listener import Listening

if TYPE_CHECKING:
    from harness.hosts.power import Power
    from harness.hosts.reservation import Reservation

CLOSE_TIMEOUT = 60.0


class BenchUse:
    """A host that guests can be started on, and the observer there.

    lost: why the host is not ours any more, where it is not.
    """

    def __init__(
        self, host: Host, listening: Listening, lost: Callable[[], BenchError | None] = lambda: None
    ) -> None:
        self.host = host
        self.listening = listening
        self._lost = lost

    @property
    def failure(self) -> BenchError | None:
        """Why nothing can be done there any more: the link is lost, the host hangs, or somebody else has it now."""
        return self.host.failure or self.listening.failure or self._lost()


class BenchHosts:
    """Takes a bench's host into use, again and again where it fails.

    folder: of the run, for logs. What is held for the whole run, the reservation, is given back by `close`.
    """

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._bench = bench
        self._folder = folder
        self._kept = contextlib.ExitStack()
        self._reservation: Reservation | None = None
        self._powered_on = False
        self._was_on: bool | None = None
        self._let_in = False
        self._power: Power | None = None
        self.root: Root[BenchUse] = Root(self._take)

    def __enter__(self) -> BenchHosts:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def reserve(self, tell: Callable[[str], object]) -> None:
        """Keep other runs away, before anything of the host is touched; waits as long as the bench file says.

        tell: is told whom it waits for. A bench that cannot be had is broken from the beginning, with that cause.
        """
        if self._reservation is not None or self._bench.reservation is None:
            return
        from harness.hosts.reservation import reservation_for

        try:
            self._reservation = reservation_for(self._bench, tell)
            self._kept.enter_context(self._reservation)
        except BenchError as error:
            self.root.give_up(error)

    def _lost(self) -> BenchError | None:
        return None if self._reservation is None else self._reservation.failure

    def close(self) -> None:
        """Give the host back; what the harness has switched on it switches off, unless it is somebody else's by now.

        Raises BenchError naming what is left.
        """
        with self._kept:
            try:
                self.root.close()
            finally:
                if self._powered_on and self._power is not None and self._lost() is None:
                    self._power.off(Deadline(CLOSE_TIMEOUT))
                    self._powered_on = False

    def _take(self, stack: contextlib.ExitStack, anew: bool, deadline: Deadline) -> BenchUse:
        if (lost := self._lost()) is not None:
            raise lost
        switched = self._switch_on(anew, deadline)
        # A host that nobody switches and that has never let us in is not about to boot.
        host = self._host(stack, deadline, booting=switched or (anew and self._let_in))
        self._let_in = True
        from harness.listener.remote import RemoteListening

        listening = RemoteListening(host, self._folder, deadline)
        stack.callback(listening.close)
        return BenchUse(host, listening, self._lost)

    def _switch_on(self, anew: bool, deadline: Deadline) -> bool:
        """On, after a failure by way of off; whether it was switched. Where nobody can say whether it was on before it
        is left on at the end.
        """
        if self._bench.power is None:
            return False
        if self._power is None:
            from harness.hosts.power import power_for

            self._power = power_for(self._bench)
            self._was_on = self._power.is_on()
        if anew:
            self._power.off(deadline)
        elif self._was_on:
            return False
        self._power.on(deadline)
        self._powered_on = self._was_on is False
        return True

    def _host(self, stack: contextlib.ExitStack, deadline: Deadline, *, booting: bool) -> Host:
        """The host, when it has let us in. booting: it may take its time."""
        spec = self._bench.host
        if isinstance(spec, SshHostSpec):
            from harness.hosts.ssh import SshHost

            host = SshHost(spec)
            host.open(deadline.within(spec.boot_timeout if booting else spec.connect_timeout), booting=booting)
            stack.push(host)
            return host
        assert isinstance(spec, NestedHostSpec), "this machine is no bench's host"
        from harness.hosts.nested import NestedHost

        return stack.enter_context(NestedHost(spec, self._folder))
