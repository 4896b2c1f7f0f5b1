"""The listening process; it is told what to do on its standard input (harness/listener/recorder.py)."""

from __future__ import annotations

import gc
import os
import sys

from harness.listener.recorder import Recorder

if __name__ == "__main__":
    gc.disable()  # nothing here makes cycles, and a collection would be a stall
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    except PermissionError:
        pass  # a stall is then noticed more often, and said
    Recorder(sys.stdin.fileno(), sys.stdout.fileno()).run()
