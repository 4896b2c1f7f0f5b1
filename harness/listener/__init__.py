"""Listens on monitor sockets from a process of its own, and keeps a journal of everything received."""

from __future__ import annotations

from harness.listener.client import EventListener, ListenerProcess, Listening
from harness.listener.reader import ObjectReader

__all__ = ["EventListener", "ListenerProcess", "Listening", "ObjectReader"]
