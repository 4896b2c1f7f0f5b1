"""The byte channels that consoles run over, under the name that the guests' code has for them."""

from __future__ import annotations

from harness.hosts.channel import Channel, DescriptorChannel, channel_of

__all__ = ["Channel", "DescriptorChannel", "channel_of"]
