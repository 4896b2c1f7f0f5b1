"""The agent's commands and its side of the line protocol."""

from __future__ import annotations

import binascii
import os
import platform
import select
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

from harness.guests.agent_python.items import INDEX_LIMIT, MAX_STEPS, Step, access_registers, parse_step
from harness.guests.agent_python.machine import (
    Refused,
    names_in,
    open_ports,
    run_program,
    same_file,
    text_of,
    token,
    whereabouts,
    write_to,
)
from harness.guests.agent_python.others import HWCLOCKS, Others, is_stopping

VERSION = "1"
LINE_SIZE, PART_SIZE = 4096, 400
SERVICE_VM = "this is ACRN's Service VM: its RTC is the machine's own"


class Ending(Exception):
    """The console hung up, or somebody ends us."""


class Agent:
    """One agent at one console. command_line: words, of which `rtc.nonce=NONCE` counts."""

    def __init__(self, command_line: str, in_fd: int = 0, out_fd: int = 1) -> None:
        self.nonce = ""
        for word in command_line.split():
            if word.startswith("rtc.nonce="):
                self.nonce = word[len("rtc.nonce=") :]
        self.in_fd, self.out_fd = in_fd, out_fd
        self.signature = ""
        self.proved = False
        self.others = Others()
        self.ports: Any = None
        self.steps: list[Step] = []
        self.last, self.answer = 0, ""
        self.afterwards: Callable[[], object] | None = None
        self.commands: dict[str, Callable[[list[str]], str]] = {
            "hello": self.hello, "info": lambda words: self.info(), "time": self.time, "load": self.load,
            "run": self.run, "adopt": self.adopt, "hwclock": self.hwclock, "clock": self.clock, "noise": self.noise,
            "bye": self.bye, "panic": self.panic, "reboot": self.reboot, "poweroff": self.power_off,
        }  # fmt: skip

    def hello(self, words: list[str]) -> str:
        """Proves where we are, and takes the RTC."""
        self.proved = False
        self.steps = []
        self.signature, service_vm = whereabouts()
        if service_vm:
            raise Refused("service-vm " + SERVICE_VM)
        if not self.signature:
            raise Refused("hypervisor this machine's processor tells of none: this is no guest")
        accepted = words[0].split(",") if words else []
        if self.signature.encode("latin-1").hex() not in accepted:
            raise Refused("hypervisor this machine's is " + token(self.signature))
        self.ports = self.ports or open_ports()
        self.others.hold()
        self.proved = True
        return self.info()

    def info(self) -> str:
        """Who and where we are, and who was held off."""
        daemons = ",".join(f"{token(name)}:{token(unit) or pid}" for pid, name, unit in self.others.stopped)
        device = next(iter(self.others.devices.values()), "")
        clock = text_of("/sys/devices/system/clocksource/clocksource0/current_clocksource").strip()
        return (
            f"ok agent={VERSION} variant=python grain_ns=1 hypervisor={token(self.signature)} "
            f"kernel={os.uname().release} uptime={time.monotonic():.3f} clocksource={clock} "
            f"load={text_of('/proc/loadavg').partition(' ')[0]} rtc_device={device} "
            f"python={platform.python_version()} shutdown_hwclock={self.others.hwclock} time_daemons={daemons}"
        )

    def time(self, words: list[str]) -> str:
        """The clock that accesses are stamped with."""
        return f"ok ns={time.monotonic_ns()} grain_ns=1"

    def load(self, words: list[str]) -> str:
        """More steps of an item; one that is not acceptable refuses the whole item."""
        try:
            for word in words:
                if len(self.steps) == MAX_STEPS:
                    raise Refused(f"steps there are more than {MAX_STEPS}")
                step = parse_step(word)
                if step.kind != "p" and step.register >= INDEX_LIMIT:
                    raise Refused(f"index 0x{step.register:02x} is not one of the RTC's own bytes")
                self.steps.append(step)
        except Refused:
            self.steps = []
            raise
        return "ok"

    def run(self, words: list[str]) -> str:
        """Carries out what `load` brought and these steps, if they are COUNT together; reports each access."""
        self.load(words[1:])
        steps, self.steps = self.steps, []
        if not words or not words[0].isdigit() or int(words[0]) != len(steps):
            raise Refused(f"count there are {len(steps)} steps")
        done, longest = access_registers(self.ports, steps)
        accesses = (f"{kind}{index:02x}{value:02x}={ns}" for kind, index, value, ns in done)
        return " ".join(["ok", f"g{longest}", *accesses])

    def adopt(self, words: list[str]) -> str:
        """Another nonce from now on."""
        if not words or not 16 <= len(words[0]) < 80 or set(words[0]) - set("0123456789abcdef"):
            raise Refused(f"word '{words[0][:20] if words else ''}' is no nonce")
        self.nonce = words[0]
        return "ok"

    def hwclock(self, words: list[str]) -> str:
        """`hwclock --systohc --utc` through Linux's own driver, which is bound for that long."""
        self.others.lend_rtc()
        device = "/dev/" + next(iter(reversed(names_in("/sys/class/rtc"))), "rtc0")
        own = any(os.path.exists(path) and not same_file(path, "/bin/busybox") for path in HWCLOCKS)
        program = ["hwclock", "--noadjfile"] if own else ["busybox", "hwclock"]
        start = time.monotonic_ns()
        status, output = run_program(*program, "-w", "-u", "-f", device, limit=15.0)
        end = time.monotonic_ns()
        self.others.free_rtc()
        return f"ok exit={status} start_ns={start} end_ns={end} output={token(output)}"

    def clock(self, words: list[str]) -> str:
        """The system clock (not the RTC)."""
        try:
            time.clock_settime(time.CLOCK_REALTIME, int(words[0]))
        except (OSError, ValueError, IndexError, OverflowError) as error:
            raise Refused(f"clock cannot be set to '{words[0][:20] if words else ''}'") from error
        return "ok"

    def noise(self, words: list[str]) -> str:
        """Kernel messages from beside; what the protocol must live with (fault tests)."""
        if os.fork() == 0:
            for _ in range(int(words[0]) if words and words[0].isdigit() else 0):
                write_to("/dev/kmsg", "<0>noise: the kernel printed this line\n")
                time.sleep(0.0001)  # it is to come in between what the agent says
            os._exit(0)
        return "ok"

    def bye(self, words: list[str]) -> str:
        """All as it was found; the agent is gone then."""
        self.afterwards = self.leave
        return "ok"

    def panic(self, words: list[str]) -> str:
        """The kernel's end."""
        self.afterwards = lambda: write_to("/proc/sysrq-trigger", "c")
        return "ok"

    def reboot(self, words: list[str]) -> str:
        """The way that no init sees."""
        self.afterwards = self.restart
        return "ok"

    def restart(self) -> None:
        """By the kernel, at once."""
        os.sync()
        write_to("/proc/sysrq-trigger", "b")

    def power_off(self, words: list[str]) -> str:
        """In order, by the init that there is, and with hwclock still held off; else short."""
        self.afterwards = self.off
        return "ok"

    def off(self) -> NoReturn:
        """Never comes back."""
        if self.others.hwclock != "busybox" and run_program("poweroff", limit=90.0)[0] == 0:
            try:
                time.sleep(90)  # init ends this process: the signal is what is waited for
            except Ending:
                os._exit(0)
        os.sync()
        for key in "uo":
            write_to("/proc/sysrq-trigger", key)
        os._exit(0)

    def leave(self) -> NoReturn:
        """Gives all back, unless the system is on its way down."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if not is_stopping():
            self.others.give_back()
        raise SystemExit(0)

    # -- the line protocol

    def serve(self) -> None:
        """Says that it is ready until it is spoken to, and answers until the console ends."""
        line, spoken_to = b"", False
        try:
            while True:
                if not spoken_to:
                    self.send(0, f"ready agent={VERSION}")
                if not select.select([self.in_fd], [], [], None if spoken_to else 1.0)[0]:
                    continue
                data = os.read(self.in_fd, 4096)
                if not data:
                    self.leave()
                for byte in data:
                    if byte in b"\r\n":
                        spoken_to = True
                        self.take_line(line)
                        line = b""
                    elif len(line) < LINE_SIZE - 1:
                        line += bytes((byte,))
        except (Ending, OSError):
            self.leave()

    def take_line(self, line: bytes) -> None:
        """A repeated number is answered from memory, never carried out again; only `hello` may go back in number."""
        if not line or b"@<" in line:
            return  # an echo of our own words
        frame, star, check = line[line.rfind(b"@>") + 2 :].rpartition(b"*")
        number, space, payload = frame.partition(b" ")
        framed = b"@>" in line and star and space and number.isdigit()
        if not framed or b"%08x" % binascii.crc32(frame) != check:
            self.send(0, "no damaged")
            return
        sequence = int(number)
        if sequence == 0 or (sequence < self.last and not payload.startswith(b"hello ")):
            self.send(0, f"no sequence the last was {self.last}")
            return
        if sequence != self.last:
            self.last = sequence
            self.answer = self.execute(payload.decode("ascii", "replace"))
        self.send(sequence, self.answer)
        if self.afterwards is not None:
            end, self.afterwards = self.afterwards, None
            end()

    def execute(self, payload: str) -> str:
        """What `NAME NONCE WORDS...` is answered, after it was carried out or refused."""
        name, *rest = payload.split() or [""]
        try:
            command = self.commands.get(name)
            if command is None:
                raise Refused(f"command '{name[:20]}' is unknown")
            if not self.nonce or not rest or rest[0] != self.nonce:
                raise Refused("nonce the command's is not this guest's own")
            if not self.proved and name not in ("hello", "info", "time", "bye"):
                raise Refused("hello has been said")
            return command(rest[1:])
        except Refused as refused:
            return f"no {refused}"

    def send(self, sequence: int, payload: str) -> None:
        """Numbered, checksummed parts."""
        parts = [payload[at : at + PART_SIZE] for at in range(0, len(payload), PART_SIZE)] or [""]
        for number, part in enumerate(parts, 1):
            body = f"{sequence}.{number}/{len(parts)} {part}".encode("ascii", "replace")
            line = b"@<" + body + b"*%08x\r\n" % binascii.crc32(body)
            while line:
                line = line[os.write(self.out_fd, line) :]
