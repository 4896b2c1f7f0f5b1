"""Where the harness keeps things of a user's between runs."""

from __future__ import annotations

import os
from pathlib import Path


def _users_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def default_cache_dir() -> Path:
    """RTC_BENCH_CACHE, else acrn-rtc-bench in the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    if chosen := os.environ.get("RTC_BENCH_CACHE"):
        return Path(chosen)
    return _users_cache() / "acrn-rtc-bench"


def default_lock_folder() -> Path:
    """rtc-bench/locks in the user's cache folder: one place for all runs of a user, however they are started.

    Not XDG_RUNTIME_DIR, which a job of cron's does not have: two runs would not see each other.
    """
    return _users_cache() / "rtc-bench" / "locks"
