"""The harness: boots guests, has them write their RTC, and judges what the event service says about it."""
