"""Keeps QEMU's RTC_CHANGE events, as they came over QMP: a second opinion on a guest's RTC, and no source of events."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class RtcChangeLog:
    """Appends one JSON line for each RTC_CHANGE, with its monotonic arrival; None as the path: nothing is kept.

    Raises OSError where the file cannot be opened. What cannot be written later is missed there, and only there.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._file = None if path is None else path.open("ab", buffering=0)
        self._record("start")

    def event(self, event: Mapping[str, Any]) -> None:
        """Take an event of QMP's, whatever it is."""
        if event.get("event") == "RTC_CHANGE":
            self._record("rtc-change", event=event)

    def close(self, failure: str | None = None) -> None:
        """No more will come. failure: why QMP ended before QEMU did, so that events may be missing."""
        self._record("end", failure=failure)
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    def _record(self, kind: str, **details: object) -> None:
        line = json.dumps({"t_ns": time.monotonic_ns(), "kind": kind, **details}, separators=(",", ":")) + "\n"
        with self._lock:
            if self._file is None:
                return
            try:
                self._file.write(line.encode())
            except OSError as error:  # the guest and its event service are not to suffer for it
                log.warning("RTC_CHANGE is not recorded any more: %s", error)
                self._file.close()
                self._file = None
