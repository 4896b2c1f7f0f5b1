"""Guests: what they boot, how their consoles are read, and how their agents are told to write the RTC."""

from harness.guests.agent_guest import ACRN, QEMU_KVM, QEMU_TCG, AgentGuest
from harness.guests.agent_link import AgentRefused, AgentRestarted
from harness.guests.base import Guest
from harness.guests.console import Console, ConsoleClosed, ConsoleTimeout, GuestDied
from harness.guests.image import GuestImage, ImageSpec, prepare_bare_image, prepare_image
from harness.guests.linux import LinuxGuest
from harness.guests.login import Login
from harness.guests.rtc_reading import RtcReading
from harness.guests.steps import AgentReport, Pause, Read, Step, Write
from harness.guests.system import SystemGuest

__all__ = [
    "ACRN",
    "QEMU_KVM",
    "QEMU_TCG",
    "AgentGuest",
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
    "Login",
    "Pause",
    "Read",
    "RtcReading",
    "Step",
    "SystemGuest",
    "Write",
    "prepare_bare_image",
    "prepare_image",
]
