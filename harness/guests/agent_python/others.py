"""Who else would write the RTC, held off and given back: driver, time daemons, the kernel, a shutdown's hwclock."""

from __future__ import annotations

import os
import signal
import struct

from harness.guests.agent_python.machine import Refused, names_in, run_program, same_file, text_of, write_to

DRIVERS = ("/sys/bus/pnp/drivers/rtc_cmos", "/sys/bus/platform/drivers/rtc_cmos")
DAEMONS = (
    *("chronyd", "ntpd", "openntpd", "ntpsec", "systemd-timesyn", "ptp4l", "phc2sys", "timemaster", "sntp"),
    *("ntp-daemon", "htpdate"),
)
"""As /proc/PID/comm has them: at most 15 characters."""

HWCLOCKS = ("/sbin/hwclock", "/usr/sbin/hwclock", "/bin/hwclock", "/usr/bin/hwclock")
NO_HWCLOCK = ("/run/.rtc-no-hwclock", "/dev/shm/.rtc-no-hwclock", "/tmp/.rtc-no-hwclock")

PORTS = "/proc/ioports"


class Others:
    """The RTC's driver, time daemons, the kernel's own writes, a shutdown's hwclock: held off, and given back."""

    def __init__(self) -> None:
        self.devices: dict[str, str] = {}
        self.stopped: list[tuple[int, str, str]] = []
        self.covered: list[str] = []
        self.cover = ""
        self.hwclock = "none"

    def hold(self) -> None:
        """Raises Refused where the driver stays; then all is as it was."""
        self.stop_daemons()
        try:
            self.free_rtc()
        except Refused:
            self.give_back()
            raise

    def give_back(self) -> None:
        """All as it was found."""
        self.lend_rtc()
        while self.stopped:
            pid, _, unit = self.stopped.pop()
            if unit:
                run_program("systemctl", "start", unit)
            else:
                signal_to(pid, signal.SIGCONT)

    def free_rtc(self) -> None:
        """Unbinds Linux's driver, and sees to it that no shutdown writes the RTC. Raises Refused."""
        for driver in DRIVERS:
            for name in names_in(driver):
                if name != "module" and os.path.islink(f"{driver}/{name}"):
                    self.devices[driver] = name
        for driver, device in self.devices.items():
            write_to(driver + "/unbind", device)
        self.cover_hwclock()
        for line in text_of(PORTS).splitlines():
            ports, _, owner = line.strip().partition(" : ")
            if ports.startswith("0070-00") and owner.startswith("rtc"):
                raise Refused(f"other-driver the ports of the RTC belong to {owner}, which cannot be unbound")

    def lend_rtc(self) -> None:
        """Back to Linux's driver, until the next free_rtc()."""
        while self.covered:
            run_program("umount", "-l", self.covered.pop())
        if self.cover:
            os.unlink(self.cover)
            self.cover = ""
        for driver, device in self.devices.items():
            write_to(driver + "/bind", device)

    def cover_hwclock(self) -> None:
        """Mounts a program that does nothing over the guest's hwclock; never over a busybox."""
        self.hwclock = "none"
        for path in HWCLOCKS:
            if not os.path.exists(path) or (self.cover and same_file(path, self.cover)):
                continue
            if same_file(path, "/bin/busybox") or same_file(path, "/usr/bin/busybox"):
                self.hwclock = "busybox"
                return
            self.cover = self.cover or next((each for each in NO_HWCLOCK if write_to(each, "#!/bin/sh\nexit 0\n")), "")
            if not self.cover:
                self.hwclock = "not-held"
                return
            os.chmod(self.cover, 0o755)
            if run_program("mount", "--bind", self.cover, path)[0]:
                self.hwclock = "not-held"
                return
            self.covered.append(path)
        self.hwclock = "held" if self.covered else "none"

    def stop_daemons(self) -> None:
        """By systemd where it runs them, which would start anew what seems to hang; any other is frozen."""
        for entry in names_in("/proc"):
            if not entry.isdigit() or int(entry) <= 1 or int(entry) in [pid for pid, _, _ in self.stopped]:
                continue
            name = text_of(f"/proc/{entry}/comm").strip()
            if name not in DAEMONS:
                continue
            unit = text_of(f"/proc/{entry}/cgroup").partition("\n")[0].rpartition("/")[2]
            if not unit.endswith(".service") or not os.path.exists("/run/systemd/system"):
                unit = ""
            if unit and run_program("systemctl", "stop", unit)[0]:
                unit = ""
            if unit or signal_to(int(entry), signal.SIGSTOP):
                self.stopped.append((int(entry), name, unit))
        forbid_kernel_writes()


def signal_to(pid: int, number: int) -> bool:
    """Whether there was somebody to send it to."""
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def forbid_kernel_writes() -> None:
    """The kernel writes no RTC until someone claims again that its clock is right; the rate is the plain one."""
    unsynchronised, status, ticks = 0x40, 40, 88  # struct timex of 64-bit Linux: status at byte 40, tick at byte 88
    try:
        import ctypes
    except ImportError:
        return
    library = ctypes.CDLL(None)
    state = bytearray(256)
    buffer = (ctypes.c_char * 256).from_buffer(state)
    if library.adjtimex(buffer) < 0 or state[status] & unsynchronised:
        return
    state[:] = bytes(256)
    struct.pack_into("<I", state, 0, 0x4012)  # ADJ_TICK, ADJ_STATUS, ADJ_FREQUENCY
    struct.pack_into("<i", state, status, unsynchronised)
    struct.pack_into("<q", state, ticks, 10000)
    library.adjtimex(buffer)


def is_stopping() -> bool:
    """Whether the system is on its way down: then nothing is given back, for its end would write the RTC."""
    if not os.path.exists("/run/systemd/system"):
        return False
    return run_program("systemctl", "is-system-running")[1].startswith("stopping")
