"""ACRN's throttle for events that pass at once: one of a type in a window, the rest dropped and counted."""

from __future__ import annotations


class Throttle:
    """Admits the first event of a window; the window begins with the event that is admitted.

    `window` and `now` are in the same unit, on a monotonic clock. RTC changes never go through here: they are
    settled, and a settled event is never dropped.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._opened: dict[int, float] = {}
        self.dropped = 0

    def reset(self) -> None:
        """Begin anew, with no window open; the count goes on."""
        self._opened.clear()

    def admit(self, event_type: int, now: float) -> bool:
        """Whether this event may pass; False counts it as dropped."""
        opened = self._opened.get(event_type)
        if opened is not None and now - opened < self._window:
            self.dropped += 1
            return False
        self._opened[event_type] = now
        return True
