"""The connections to one host: the first, and further ones where a host admits few sessions on each."""

from __future__ import annotations

import threading
from collections.abc import Callable

import paramiko

from harness.deadline import Deadline
from harness.errors import ConfigurationError
from harness.hosts.ssh_config import Target
from harness.hosts.ssh_link import Link, open_link

_PATIENCE = 20.0
"""Seconds for a host, however busy, to admit a session."""


class Links:
    """Connections that belong together: who loses one has lost the host.

    lost: called, from a thread, with the reason when one of them ends and nobody closed it.
    """

    def __init__(self, lost: Callable[[str], object]) -> None:
        self._lost = lost
        self._lock = threading.RLock()
        self._links: list[Link] = []
        self._target: Target | None = None

    def open(self, target: Target, deadline: Deadline) -> Link:
        """One more connection. Raises as `open_link`."""
        link = open_link(target, deadline)
        with self._lock:
            self._target = target
            self._links.append(link)
        threading.Thread(target=self._watch, args=(link,), name=f"ssh-link-{target.name}", daemon=True).start()
        return link

    def _watch(self, link: Link) -> None:
        link.transport.join()
        with self._lock:
            ours = link in self._links
        if ours:
            error = link.transport.get_exception()
            self._lost(f"the connection was closed{f' ({error})' if str(error or '') else ''}")

    def channel(self) -> paramiko.Channel:
        """A session channel; on a further connection where the others are full (sshd's MaxSessions).

        Raises ConfigurationError where the host admits none at all, and as `open_link` and paramiko do.
        """
        with self._lock:
            assert self._target is not None
            open_to = [link for link in self._links if not link.full]
        # Without the lock: a link that stands still is to be closed by another thread meanwhile, which ends the wait.
        for link in open_to:
            try:
                return link.transport.open_session(timeout=_PATIENCE)
            except paramiko.ChannelException:
                link.full = True
        link = self.open(self._target, Deadline(self._target.connect_timeout))
        try:
            return link.transport.open_session(timeout=_PATIENCE)
        except paramiko.ChannelException as error:
            raise ConfigurationError(
                f"{self._target.shown} lets us in and then admits no session: {error}",
                hint="see MaxSessions and ForceCommand in its sshd_config; 10 or more sessions are wanted",
            ) from error

    def close(self) -> None:
        """Close them all; nobody is told. Idempotent."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.close()
