"""What can go wrong in the event service, by what a caller can do about it."""

from __future__ import annotations


class VmEventError(Exception):
    """Base of every error this package raises on purpose."""


class RingError(VmEventError):
    """A ring's page is not what ACRN's layout says: wrong magic, sizes, head or tail.

    The page is left as it was found. A reader that meets this must stop using the ring.
    """


class SourceError(VmEventError):
    """An event source cannot be opened: a descriptor that is closed, or not what it should be."""


class MonitorError(VmEventError):
    """The monitor socket cannot be made or reached: in use, not a socket, no directory, a long name."""


class ActionError(VmEventError):
    """What is to act on events or tell of them cannot be used: a command, the host's RTC, a log."""


class ServiceError(VmEventError):
    """The service was used in a state in which it cannot do what was asked."""
