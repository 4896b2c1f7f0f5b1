"""ACRN's `vm_event` service in Python: raw RTC changes of a guest in, one settled event per update out.

Imports nothing but the standard library. The names below are the interface.
"""

from __future__ import annotations

from .abi import VmEventType
from .errors import ActionError, MonitorError, RingError, ServiceError, SourceError, VmEventError
from .events import RtcChange, SettledRtcChange, VmEvent
from .ring import SharedRing
from .service import VmEventService
from .settler import RtcChangeSettler
from .stream import EventStream
from .tunnel import Tunnel
from .watch import MonitorClient
from .wire import Garbage

__version__ = "0.1.0"

__all__ = [
    "ActionError",
    "EventStream",
    "Garbage",
    "MonitorClient",
    "MonitorError",
    "RingError",
    "RtcChange",
    "RtcChangeSettler",
    "ServiceError",
    "SettledRtcChange",
    "SharedRing",
    "SourceError",
    "Tunnel",
    "VmEvent",
    "VmEventError",
    "VmEventService",
    "VmEventType",
]
