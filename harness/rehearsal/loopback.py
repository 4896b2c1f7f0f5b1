"""OpenSSH's own sshd on this machine's loopback, private to a folder: it plays the host of a bench.

`python -m harness.rehearsal.loopback on|off|status FOLDER [--port N]`: `on` makes keys, known_hosts and ssh_config in
FOLDER and starts the sshd, which outlives the command; `off` is the power cut: the sshd and its sessions are killed,
and it proves that nothing of them is left; `status` exits with 0 when it is on.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from harness.deadline import Deadline
from harness.errors import BenchError, ConfigurationError, InfrastructureError
from harness.onhost import processes
from harness.rehearsal.keys import ALIAS, Keys, make_keys, write_ssh_config

OFF_TIMEOUT = 15.0
"""Seconds for what ran below a killed sshd to end by itself: a keeper takes up to 6."""

_ON_TIMEOUT = 15.0
_LOOK = 0.01
_TRIES = 5
_SBIN = "/usr/sbin:/usr/local/sbin:/sbin"


def find_sshd() -> str | None:
    """The path of this machine's sshd; None where there is none. It is in no user's PATH but root's."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:{_SBIN}")


class LoopbackSshd:
    """A private sshd on 127.0.0.1; a context manager.

    port: 0 for one that is free. options: more lines of sshd_config, which go first, so that they win.
    """

    def __init__(self, folder: Path, *, port: int = 0, options: Sequence[str] = ()) -> None:
        self.folder = folder.absolute()
        self.keys = Keys(self.folder)
        self._wanted = port
        self._options = tuple(options)

    def __enter__(self) -> LoopbackSshd:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _record(self) -> Path:
        return self.folder / "sshd.running"

    @property
    def log(self) -> Path:
        """What sshd says."""
        return self.folder / "sshd.log"

    @property
    def pid(self) -> int | None:
        """The sshd's process id; None where none runs. A pid that another process has meanwhile is none."""
        try:
            pid, born, _ = self._record.read_text(encoding="ascii").split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _birth(int(pid)) == born else None

    @property
    def port(self) -> int:
        """Where it listens. Raises InfrastructureError when it does not run."""
        if self.pid is None:
            raise InfrastructureError(f"no sshd runs from {self.folder}")
        return int(self._record.read_text(encoding="ascii").split()[2])

    def start(self) -> None:
        """Start it, unless it runs. Raises ConfigurationError for what is missing, InfrastructureError otherwise."""
        if self.pid is not None:
            return
        program = find_sshd()
        if program is None:
            raise ConfigurationError("there is no sshd on this machine", hint="install the package openssh-server")
        keys = make_keys(self.folder)
        if os.geteuid() == 0:
            # What sshd wants of a machine that it was installed on and never started on.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for attempt in range(_TRIES):
            # sshd takes no socket and no port 0: if the port is gone when sshd wants it, another one is tried.
            port = self._wanted or _free_port()
            if self._started(program, port):
                write_ssh_config(keys, port, getpass.getuser())
                return
            if self._wanted or attempt == _TRIES - 1:
                break
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
        raise InfrastructureError(f"sshd does not start on port {port}", last_lines=lines, log=self.log)

    def _started(self, program: str, port: int) -> bool:
        config = self.folder / "sshd_config"
        config.write_text(
            "\n".join(
                [
                    *self._options,
                    f"Port {port}",
                    "ListenAddress 127.0.0.1",
                    f'HostKey "{self.keys.host_key}"',
                    f'AuthorizedKeysFile "{self.keys.authorized}"',
                    "PidFile none",
                    "PermitRootLogin yes",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "UsePAM no",
                    "StrictModes no",
                    "PrintMotd no",
                    "UseDNS no",
                    "LogLevel VERBOSE",
                    "",
                ]
            ),
            encoding="utf-8",
        )
        self.log.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [program, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        deadline = Deadline(_ON_TIMEOUT)
        while process.poll() is None and not deadline.expired:
            if b"Server listening on 127.0.0.1 port %d" % port in self.log.read_bytes():
                self._record.write_text(f"{process.pid} {_birth(process.pid)} {port}\n", encoding="ascii")
                process.returncode = 0  # it is no child to wait for: it outlives this process
                return True
            time.sleep(_LOOK)  # that it listens is a line in a file
        if process.poll() is None:
            process.kill()
            process.wait()
        return False

    def stop(self) -> None:
        """Cut the power: sshd and all its sessions are killed. Raises InfrastructureError naming who is left."""
        pid = self.pid
        if pid is not None:
            self._kill(pid)
        self._record.unlink(missing_ok=True)

    def sessions(self) -> dict[int, str]:
        """The processes of sshd that serve connections, pid to name."""
        pid = self.pid
        return {} if pid is None else _sshds(processes.descendants(pid))

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)  # it admits nobody while we look who is there
        below = processes.descendants(pid)
        births = {child: _birth(child) for child in below}
        processes.send([pid, *_sshds(below)], signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)  # where it is this process's child
        deadline = Deadline(OFF_TIMEOUT)
        while left := {child: name for child, name in below.items() if _lives(child, births[child])}:
            if deadline.expired:
                processes.send(left, signal.SIGKILL)
                names = ", ".join(f"{name} ({child})" for child, name in left.items())
                raise InfrastructureError(f"left after the sshd in {self.folder} was killed: {names}")
            time.sleep(_LOOK)  # of the end of others' children nobody is told


def _sshds(found: dict[int, str]) -> dict[int, str]:
    return {pid: name for pid, name in found.items() if name.startswith("sshd")}


def _birth(pid: int) -> str:
    """When a process, be it a zombie by now, was born; "" for none."""
    process = processes.look(pid)
    return "" if process is None else process.born


def _lives(pid: int, born: str) -> bool:
    process = processes.look(pid)
    return process is not None and process.lives and process.born == born


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BenchError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.rehearsal.loopback", description=__doc__)
    parser.add_argument("do", choices=["on", "off", "status"])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    options = parser.parse_args(arguments)
    sshd = LoopbackSshd(options.folder, port=options.port)
    with _told():
        if options.do == "on":
            sshd.start()
            print(f"on: ssh -F {sshd.keys.ssh_config} {ALIAS}")
        elif options.do == "off":
            sshd.stop()
            print("off")
        else:
            print("off" if sshd.pid is None else f"on: port {sshd.port}")
            return 0 if sshd.pid is not None else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
