"""From when to when the witness of a guest on a bench tells what the guest did: what comes otherwise is not judged."""

from __future__ import annotations


class Coverage:
    """The spans of the witness. One that was never begun (QEMU's own trace) covers all."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int | None]] = []

    def begin(self, stamp_ns: int) -> None:
        """From here on."""
        if not self._spans or self._spans[-1][1] is not None:
            self._spans.append((stamp_ns, None))

    def end(self, stamp_ns: int) -> None:
        """Until here, or the next beginning."""
        if self._spans and self._spans[-1][1] is None:
            self._spans[-1] = (self._spans[-1][0], stamp_ns)

    def covers(self, t_ns: int, uncertainty_ns: int = 0) -> bool:
        """Whether the witness would know what led to an event that came at t_ns."""
        if not self._spans:
            return True
        return any(
            begin + uncertainty_ns <= t_ns and (end is None or t_ns + uncertainty_ns < end)
            for begin, end in self._spans
        )
