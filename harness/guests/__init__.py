"""Guests: what they boot, how their consoles are read, and how their agents are told to write the RTC."""

from harness.guests.agent_link import AgentRefused, AgentRestarted
from harness.guests.base import Guest
from harness.guests.console import Console, ConsoleClosed, ConsoleTimeout, GuestDied
from harness.guests.image import GuestImage, ImageSpec, prepare_image
from harness.guests.linux import ACRN, QEMU_KVM, QEMU_TCG, LinuxGuest
from harness.guests.steps import AgentReport, Pause, Read, Step, Write

__all__ = [
    "ACRN",
    "QEMU_KVM",
    "QEMU_TCG",
    "AgentRefused",
    "AgentReport",
    "AgentRestarted",
    "Console",
    "ConsoleClosed",
    "ConsoleTimeout",
    "Guest",
    "GuestDied",
    "GuestImage",
    "ImageSpec",
    "LinuxGuest",
    "Pause",
    "Read",
    "Step",
    "Write",
    "prepare_image",
]
