"""Opens a guest's console, wherever it is: the device model's own, a serial line here, a socket or terminal there."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from harness.bench import ConsoleSpec, PtyConsoleSpec, SerialConsoleSpec, SocketConsoleSpec
from harness.deadline import Deadline
from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.base import Channel, Host, HostProcess

if TYPE_CHECKING:
    import serial


def open_console(
    spec: ConsoleSpec, host: Host, process: HostProcess | None, vm: str, deadline: Deadline
) -> Channel:
    """The console of a guest.

    process: its device model, whose own console it may be; None for a guest that others have started. vm: the
    guest's name, for `{vm}` in a path. What a launch script makes only when the guest starts is waited for.
    Raises ConfigurationError for what the user has to mend, InfrastructureError when nothing is there until the
    deadline, LinkLost.
    """
    if isinstance(spec, SerialConsoleSpec):
        return SerialChannel(str(spec.device), spec.baud)
    if isinstance(spec, SocketConsoleSpec):
        address = spec.address or (spec.path or "").replace("{vm}", vm)
        return _connected(host, address, f"the console's socket {address}", deadline)
    if isinstance(spec, PtyConsoleSpec):
        path = spec.path.replace("{vm}", vm)
        return _connected(host, path, f"the console's terminal {path}", deadline)
    if process is None:
        raise ConfigurationError(
            f"the console of {vm} is its device model's own, and that was started by somebody else",
            hint="name a console of kind serial, socket or pty in the bench file",
        )
    return process.console


def _connected(host: Host, address: str, what: str, deadline: Deadline) -> Channel:
    try:
        return host.connect(address, deadline)
    except InfrastructureError as error:
        if host.failure is None:
            error.awaited = what
            error.hint = (
                "does the launch script make it, under this name, and may the user read and write it?"
                f" On the host: ls -lL {address}"
                if "/" in address
                else "does anything listen there? On the host: ss -ltn"
            )
        raise


class SerialChannel:
    """A serial device of this machine as a channel; nobody else may have it open through pyserial meanwhile.

    Raises ConfigurationError when it is no serial device, may not be used, or is in use.
    """

    def __init__(self, device: str, baud: int) -> None:
        try:
            import serial
        except ImportError as error:
            raise ConfigurationError(
                "a serial console needs pyserial, which is not installed", hint="pip install 'acrn-rtc-bench[ssh]'"
            ) from error
        try:
            if not stat.S_ISCHR(os.stat(device).st_mode):
                raise ConfigurationError(f"{device} is no serial device")
            self._port: serial.Serial = serial.Serial(
                device, baud, timeout=0, write_timeout=0, exclusive=True, rtscts=False, dsrdtr=False
            )
        except FileNotFoundError as error:
            hint = "is the adapter plugged in? ls -l /dev/serial/by-id shows those that are"
            raise ConfigurationError(f"there is no serial device {device}", hint=hint) from error
        except (serial.SerialException, OSError, ValueError) as error:
            problem = f"the serial device {device} cannot be used: {error}"
            raise ConfigurationError(problem, hint=_mend(error)) from error

    def fileno(self) -> int:
        """The device's descriptor; -1 once it is closed."""
        return int(self._port.fileno()) if self._port.is_open else -1

    def recv(self, size: int, /) -> bytes:
        """Reads. An adapter that is pulled out ends the stream."""
        try:
            return os.read(self._port.fileno(), size)
        except OSError as error:
            if error.errno in {errno.EIO, errno.ENXIO, errno.ENODEV}:
                return b""
            raise

    def send(self, data: bytes, /) -> int:
        """Writes what fits."""
        return os.write(self._port.fileno(), data)

    def close(self) -> None:
        """Closes the device. Idempotent."""
        self._port.close()


def _mend(error: Exception) -> str:
    text = str(error)
    if "lock" in text or "temporarily unavailable" in text or "busy" in text:
        return "another program has it (fuser -v DEVICE says which): a terminal program, another run, ModemManager"
    if "ermission" in text:
        return "add this user to the group that owns it (dialout), then log in anew"
    return "is it a serial device, and does it know this baud rate?"
