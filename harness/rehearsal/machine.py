"""A machine that stands in for a bench, and its power: `python -m harness.rehearsal.machine on|off|status FOLDER`.

It is a QEMU machine with a kernel, sshd, Python and QEMU of the distribution, and our device model as `acrn-dm`. FOLDER
has its keys, its console's log, and `ssh_config` for whoever wants in (`ssh -F FOLDER/ssh_config rehearsal`). It runs
on when the command has ended, as a machine does, until `off`, which proves that nothing is left.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import EXIT_INFRASTRUCTURE, BenchError, InfrastructureError
from harness.flock import locked
from harness.qemu.qmp import QmpMonitor
from harness.qemu.user_network import forwarded_port, user_network
from harness.qemu.version import find_qemu
from harness.rehearsal.keys import ALIAS, Keys, make_keys, write_ssh_config
from harness.rehearsal.machine_image import MEMORY, NETWORK_CARD, PROCESSORS, MachineImage, key_arguments, machine_image
from harness.rehearsal.nested_bench import prepare_nested

OFF = 1
"""The exit status of `status` where the machine is off."""

TIMEOUT = 600.0
"""Seconds for any command; the first time packages are fetched."""

_USER = "root"
_FLOCK = struct.Struct("hhqqi4x")


def machine_command(
    image: MachineImage, initrd: Path, keys: Keys, *, binary: str, memory: int, processors: int
) -> list[str]:
    """QEMU's arguments for the machine itself; console, network and control are the caller's to add."""
    return [
        *(binary, "-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "pc"),
        *("-m", str(memory), "-smp", str(processors)),
        *("-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-kernel", str(image.kernel), "-initrd", str(initrd), "-append", image.append),
        *key_arguments(keys),
    ]


@dataclass(frozen=True)
class Machine:
    """The machine of a folder. One process at a time may switch it: the others wait."""

    folder: Path

    @property
    def pid_file(self) -> Path:
        """QEMU's; it holds a lock on it for as long as it lives."""
        return self.folder / "qemu.pid"

    @property
    def console_log(self) -> Path:
        """What the machine's console said since it was switched on."""
        return self.folder / "console.log"

    def on(self, deadline: Deadline, *, port: int = 0, memory: int = MEMORY, processors: int = PROCESSORS) -> int:
        """Switch it on, if it is off; the port at which its SSH will be. Does not wait for that.

        port: one of this machine's loopback; 0: the one that it had before if that is free, else any.
        Raises ConfigurationError, InfrastructureError, OSError.
        """
        binary = find_qemu("qemu-system-x86_64")
        with self._switching(deadline):
            if self.pid() is not None:
                return self._told_port()
            keys, image = make_keys(self.folder), machine_image(None, deadline)
            initrd = self.folder / "initrd.booting"
            image.write_initrd(initrd)
            command = machine_command(image, initrd, keys, binary=binary, memory=memory, processors=processors)
            wanted = [port] if port else [self._told_port(), 0] if self._told_port() else [0]
            try:
                self._start_at(wanted, command, deadline)
            finally:
                initrd.unlink()  # it has been read, and is large
            got = self._forwarded_port(deadline)
            (self.folder / "port").write_text(f"{got}\n", encoding="ascii")
            write_ssh_config(keys, got, _USER)
            return got

    def off(self, deadline: Deadline) -> bool:
        """Switch it off; whether it was on. Raises InfrastructureError where it does not end, OSError."""
        with self._switching(deadline):
            pid = self.pid()
            if pid is None:
                return False
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                return True
            try:
                if self.pid() != pid:  # the lock says that it is the one whose descriptor this is
                    return True
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                if not select.select([descriptor], [], [], deadline.remaining)[0]:
                    raise InfrastructureError(
                        f"the rehearsal machine's QEMU ({pid}) has not ended",
                        awaited="the end of its process", waited=deadline.elapsed,
                    )
            finally:
                os.close(descriptor)
            for name in (self.pid_file, self.folder / "qmp.sock"):
                name.unlink(missing_ok=True)
            return True

    def pid(self) -> int | None:
        """The process that holds QEMU's lock on its pid file; None: the machine is off. Raises OSError."""
        try:
            with self.pid_file.open("rb") as file:
                asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                answer = fcntl.fcntl(file.fileno(), fcntl.F_GETLK, asked)
        except FileNotFoundError:
            return None
        kind, _, _, _, pid = _FLOCK.unpack(answer)
        return None if kind == fcntl.F_UNLCK else pid

    def _start_at(self, ports: Sequence[int], command: list[str], deadline: Deadline) -> None:
        """With the first of these ports that is free."""
        for number, port in enumerate(ports, 1):
            try:
                return self._start([*command, *user_network(port, NETWORK_CARD)], deadline)
            except PortTaken:
                if number == len(ports):
                    raise
        return None

    def _start(self, command: list[str], deadline: Deadline) -> None:
        """QEMU as a daemon, which stands in `folder`: a socket's path may be no longer than 108 bytes."""
        arguments = [
            *("-serial", "file:console.log", "-qmp", "unix:qmp.sock,server=on,wait=off"),
            *("-daemonize", "-pidfile", "qemu.pid"),
        ]
        self.console_log.write_bytes(b"")
        (self.folder / "qmp.sock").unlink(missing_ok=True)
        try:
            done = subprocess.run(
                [*command, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, errors="replace", timeout=deadline.remaining, check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InfrastructureError("QEMU did not become a daemon", waited=error.timeout) from error
        if done.returncode:
            said = done.stderr.splitlines()[-5:]
            kind = PortTaken if "host forwarding" in done.stderr else InfrastructureError
            raise kind("QEMU did not start the rehearsal machine", last_lines=said)

    def _forwarded_port(self, deadline: Deadline) -> int:
        with _in_folder(self.folder) as place, contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.connect(f"{place}/qmp.sock")
            monitor = QmpMonitor(connection, lambda event: None)
            monitor.start()
            try:
                return forwarded_port(monitor, deadline)
            finally:
                monitor.close(deadline.remaining)

    def _told_port(self) -> int:
        """The port it has, or had last; 0: none is known."""
        try:
            return int((self.folder / "port").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0

    @contextlib.contextmanager
    def _switching(self, deadline: Deadline) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        busy = f"another process has been switching {self.folder} all the while"
        with locked(self.folder / "switch.lock", busy, deadline):
            yield


class PortTaken(InfrastructureError):
    """The port at which the machine's SSH was to be is another's."""

    hint = "name another port, or none"


@contextlib.contextmanager
def _in_folder(folder: Path) -> Iterator[str]:
    """A short name of a folder."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def main(arguments: list[str] | None = None) -> int:
    """Do as told; exit status 0 (`status`: 0 on, 1 off), or that of harness/errors.py."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.rehearsal.machine",
        description="Switches a machine that stands in for a bench: QEMU with sshd, Python, QEMU and our device model.",
    )
    parser.add_argument("command", choices=("prepare", "on", "off", "status"), help="prepare: makes"
                        " keys, kernel and initrd, and bench.yaml for a rehearsal of nested hosts; nothing is started")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where its keys, logs and state are")
    parser.add_argument("--port", type=int, default=0, help="its SSH's port on this machine's loopback (default: any)")
    parser.add_argument("--memory", type=int, default=MEMORY, metavar="MIB")
    parser.add_argument("--processors", type=int, default=PROCESSORS, metavar="N")
    options = parser.parse_args(arguments)
    machine, deadline = Machine(options.folder.absolute()), Deadline(TIMEOUT)
    try:
        if options.command == "status":
            pid = machine.pid()
            print("off" if pid is None else f"on: process {pid}, SSH at port {machine._told_port()}")
            return OFF if pid is None else 0
        if options.command == "prepare":
            nested = prepare_nested(machine.folder, deadline)
            print(f"ready: {nested}")
        elif options.command == "on":
            port = machine.on(deadline, port=options.port, memory=options.memory, processors=options.processors)
            print(f"on: ssh -F {machine.folder}/ssh_config {ALIAS} (port {port})")
        else:
            print("off" if machine.off(deadline) else "off already")
    except BenchError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"infrastructure error: {error}", file=sys.stderr)
        return EXIT_INFRASTRUCTURE
    return 0


if __name__ == "__main__":
    sys.exit(main())
