"""A Linux guest that goes on from a saved state instead of booting."""

from __future__ import annotations

from collections.abc import Sequence

from harness.deadline import Deadline
from harness.guests.console import Console
from harness.guests.linux import LinuxGuest


class RestoredGuest(LinuxGuest):
    """Its agent has long said that it is ready, and knows the nonce of the guest whose state was saved.

    saved_nonce: that one, which all guests from this state share; nonce: this guest's own from `boot` on.
    """

    def __init__(self, console: Console, *, nonce: str, saved_nonce: str, hypervisor: Sequence[str]) -> None:
        super().__init__(console, nonce=saved_nonce, hypervisor=hypervisor)
        self._own_nonce = nonce

    def boot(self, deadline: Deadline) -> None:
        """Has the agent prove where it is, and take on the nonce of this guest alone. Raises as `greet`."""
        self.greet(deadline)
        self.command("adopt", deadline, self._own_nonce)
        self._nonce = self._own_nonce
