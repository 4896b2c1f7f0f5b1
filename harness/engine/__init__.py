"""Runs plans on guests, many at once, and hands out verdicts; knows nothing of pytest."""

from __future__ import annotations

from harness.engine.engine import Engine, Outcome
from harness.engine.settings import EngineSettings

__all__ = ["Engine", "EngineSettings", "Outcome"]
