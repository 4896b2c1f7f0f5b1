"""QMP beside the guest: commands from any thread, and the full history of QEMU's events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from harness.deadline import Deadline
from harness.errors import InfrastructureError

log = logging.getLogger(__name__)


class QmpMonitor:
    """A QMP session on a connected socket, in a thread of its own; owns the socket.

    `on_event` is called in that thread with every event as QEMU sent it. The session ends with QEMU or
    by `close`; QEMU's death is told by its pidfd, not here (qemu.qmp is not told of it reliably).
    """

    def __init__(self, connection: socket.socket, on_event: Callable[[Mapping[str, Any]], object]) -> None:
        self._connection = connection
        self._on_event = on_event
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None
        self._stop: asyncio.Event | None = None
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="qmp", daemon=True)

    @property
    def failure(self) -> str | None:
        """Why the session ended before QEMU or `close` ended it; None where it did not: all events were seen."""
        return self._failure

    def start(self) -> None:
        """Begin the session; does not wait for QEMU's greeting."""
        self._thread.start()

    def execute(
        self, command: str, deadline: Deadline, *, descriptor: int | None = None, **arguments: object
    ) -> object:
        """QEMU's answer to a command. descriptor: what goes with it (`getfd`); it stays the caller's.

        Raises InfrastructureError when QEMU refuses it, is gone, or does not answer in time.
        """
        self._ready.wait(deadline.remaining)
        client, loop = self._client, self._loop
        if client is None or loop is None:
            raise self._error(f"no QMP session for {command}", deadline)
        from qemu.qmp import QMPError

        try:
            future = asyncio.run_coroutine_threadsafe(_execute(client, command, arguments, descriptor), loop)
        except RuntimeError as closed:
            raise self._error(f"the QMP session ended before {command}", deadline) from closed
        try:
            return future.result(deadline.remaining)
        except FutureTimeout:
            future.cancel()
            raise self._error(f"QEMU did not answer {command}", deadline) from None
        except (QMPError, RuntimeError) as refused:
            raise self._error(f"QEMU refused {command}: {refused}", deadline) from refused

    def close(self, timeout: float) -> bool:
        """End the session; False when its thread still runs after `timeout` seconds."""
        if not self._thread.ident:
            self._connection.close()
            return True
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            try:
                loop.call_soon_threadsafe(stop.set)
            except RuntimeError:
                pass  # the loop has ended by itself
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _error(self, problem: str, deadline: Deadline) -> InfrastructureError:
        return InfrastructureError(
            problem,
            awaited="QEMU's answer on its QMP channel",
            waited=deadline.elapsed,
            last_lines=[self._failure] if self._failure else [],
        )

    def _run(self) -> None:
        try:
            asyncio.run(self._session())
        except Exception as error:  # however a session ends, who asks next is told; the guest is not its business
            self._failure = f"{type(error).__name__}: {error}"
            log.debug("QMP session ended: %s", self._failure)
        finally:
            self._client = None
            self._ready.set()
            self._connection.close()

    async def _session(self) -> None:
        from qemu.qmp import QMPClient
        from qemu.qmp.events import EventListener

        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        client = QMPClient("guest")
        listener = EventListener()
        client.register_listener(listener)
        # A guest may set its RTC before QMP is ready: the library's own negotiation takes an event that comes before
        # the answer for a failure.
        client.negotiate = False
        try:
            await client.connect(self._connection)
            await client.execute("qmp_capabilities")
        except BaseException:  # what QEMU's end left behind in the library is taken, or asyncio complains of it
            with contextlib.suppress(EOFError, OSError):
                await client.disconnect()
            raise
        self._client = client
        self._ready.set()
        events = asyncio.create_task(self._follow(listener))
        stop = asyncio.create_task(self._stop.wait())
        try:
            while client.runstate.name == "RUNNING" and not stop.done():
                changed = asyncio.create_task(client.runstate_changed())
                await asyncio.wait({stop, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            self._client = None
            # Events that came just before the end (SHUTDOWN and its reason) are still queued.
            while not listener.empty():
                self._on_event(_plain(await listener.get()))
            events.cancel()
            stop.cancel()
            try:
                await client.disconnect()
            except (EOFError, OSError):
                pass

    async def _follow(self, listener: Any) -> None:
        async for event in listener:
            self._on_event(_plain(event))


async def _execute(client: Any, command: str, arguments: Mapping[str, object], descriptor: int | None) -> object:
    if descriptor is not None:
        client.send_fd_scm(descriptor)
    return await client.execute(command, arguments or None)


def _plain(event: Any) -> dict[str, Any]:
    """A QMP event as an ordinary dictionary."""
    return dict(event)
