"""Turns what the trace drain queued into the raw trace log, untouched, and into vRTC accesses."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from harness.qemu.clock import StampMapper
from harness.qemu.trace import Chunk, TraceDrain, wall_stamp_ns

BLOCKED_AFTER = 5.0
"""Seconds after which a chunk still being worked on means that the log's disk, or the vRTC, hangs."""


class TraceLog:
    """The raw trace log: `arrival stamp line` in monotonic nanoseconds, and our own records behind `# `.

    Raises OSError where the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("ab", buffering=0)

    def lines(self, data: bytes) -> None:
        """Append lines that are already in the log's form."""
        if self._file is not None:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:]) or 0

    def record(self, event: str, stamp_ns: int, **details: object) -> None:
        """Append a record of the device model's own."""
        self.lines(b"# " + json.dumps({"event": event, "stamp_ns": stamp_ns, **details}).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class TraceWorker:
    """A thread between the drain's queue and whoever wants stamped lines.

    feed: called with (stamp_ns, line) for each line in order, after the line is in the log. end_of_chunk: called
    when what came at once has been fed.
    on_failure: told (reason, problem) when the log cannot be written or `feed` raises; lines go on being
    taken from the queue, so that QEMU's memory is not what fills up next.
    """

    def __init__(
        self,
        drain: TraceDrain,
        log: TraceLog,
        feed: Callable[[int, bytes], object],
        end_of_chunk: Callable[[], object],
        on_failure: Callable[[str, str], object],
    ) -> None:
        self._drain = drain
        self._log = log
        self._feed = feed
        self._end_of_chunk = end_of_chunk
        self._on_failure = on_failure
        self._mapper = StampMapper(self._stepped)
        self._failed = False
        self._busy_since: float | None = None
        self.last_stamp_ns: int | None = None
        self._thread = threading.Thread(target=self._run, name="trace-worker", daemon=True)

    def start(self) -> None:
        """Begin; ends by itself when the trace does."""
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait until everything traced has been worked off; False if that took longer than `timeout`."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def blocked_for(self) -> float:
        """Seconds since work on the present chunk began; 0 when there is none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def _run(self) -> None:
        while (chunk := self._drain.chunks.get()) is not None:
            self._busy_since = time.monotonic()
            if not self._failed:
                try:
                    self._work(chunk)
                except OSError as error:
                    self._fail("trace-log", f"the raw trace log cannot be written: {error}")
                except Exception as error:  # a bug of the model ends the guest by name, not this thread in silence
                    self._fail("vrtc", f"the vRTC model failed: {type(error).__name__}: {error}")
            self._busy_since = None

    def _work(self, chunk: Chunk) -> None:
        arrival = chunk.arrival.monotonic_ns
        stamped = []
        for line in chunk.data.split(b"\n")[:-1]:
            wall = wall_stamp_ns(line)
            stamp = arrival if wall is None else self._mapper.map(wall, chunk.arrival)
            stamped.append((stamp, line))
        self._log.lines(b"".join(b"%d %d %s\n" % (arrival, stamp, line) for stamp, line in stamped))
        for stamp, line in stamped:
            self.last_stamp_ns = stamp
            self._feed(stamp, line)
        self._end_of_chunk()

    def _stepped(self, by_ns: int) -> None:
        self._log.record("clock-step", time.monotonic_ns(), by_ns=by_ns)

    def _fail(self, reason: str, problem: str) -> None:
        self._failed = True
        self._on_failure(reason, problem)
