"""The harness: boots guests, has them write their RTC, and judges what the event service says about it."""

__version__ = "0.1.0"
"""The project's. The event service has its own beside it, for it is shipped alone; they agree."""
