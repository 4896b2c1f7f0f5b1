"""The host's RTC follows a guest's change, and refuses everything that looks wrong. No test sets a real RTC."""

from __future__ import annotations

import calendar
import errno
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.vm_event import ActionError, RtcChange, SettledRtcChange, VmEventService
from harness.vm_event import host_rtc as host_rtc_module
from harness.vm_event.host_rtc import RTC_RD_TIME, RTC_SET_TIME, HostRtc, SetHostRtc
from tests.vm_event_command import run, say, serving
from tests.vm_event_support import NOON, PATIENCE, eventually, nothing_left_open

DEVICE = "/dev/null"  # a character device that can be opened; the double stands behind it
SHOWN = NOON + 1000
HOUR = 3600


class Rtc:
    """What the kernel does with an RTC, in memory."""

    def __init__(self, shown: int = SHOWN) -> None:
        self.shown = shown
        self.set_to: list[int] = []
        self.fails: OSError | None = None
        self.deaf = False

    def ioctl(self, descriptor: int, request: int, argument: bytes | bytearray) -> int:
        assert os.fstat(descriptor).st_rdev == Path(DEVICE).stat().st_rdev
        if request == RTC_RD_TIME:
            moment = time.gmtime(self.shown)
            fields = (moment.tm_sec, moment.tm_min, moment.tm_hour, moment.tm_mday, moment.tm_mon - 1)
            assert isinstance(argument, bytearray)
            argument[:] = struct.pack("9i", *fields, moment.tm_year - 1900, 0, 0, 0)
        else:
            assert request == RTC_SET_TIME
            if self.fails is not None:
                raise self.fails
            second, minute, hour, day, month, year, week_day, year_day, _ = struct.unpack("9i", argument)
            wanted = calendar.timegm((year + 1900, month + 1, day, hour, minute, second))
            assert (time.gmtime(wanted).tm_wday + 1) % 7 == week_day
            assert time.gmtime(wanted).tm_yday - 1 == year_day
            self.set_to.append(wanted)
            if not self.deaf:
                self.shown = wanted
        return 0


def event(delta: int | None = 60, **more: object) -> SettledRtcChange:
    fields: dict[str, object] = {
        "last_time": NOON, "new_time": NOON + (delta or 0), "delta_time": delta, "raw_events": 7, "vm": "vm0", **more
    }  # fmt: skip
    return SettledRtcChange(**fields)  # type: ignore[arg-type]


def policy(rtc: Rtc, **limits: object) -> SetHostRtc:
    return SetHostRtc(HostRtc(DEVICE, ioctl=rtc.ioctl), **limits)  # type: ignore[arg-type]


def counts(policy: SetHostRtc) -> tuple[int, int, int, int]:
    status = policy.status()
    assert status["run"] == status["set"] + status["unchanged"] + status["refused"] + status["failed"]
    return status["set"], status["unchanged"], status["refused"], status["failed"]


@pytest.mark.parametrize("delta", [60, -60, HOUR, -HOUR, 1])
def test_it_moves_by_what_the_guest_moved_whatever_the_guest_shows(
    delta: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rtc = Rtc()
    follow = policy(rtc)
    follow.act(event(delta, new_time=NOON + 86400))
    assert rtc.set_to == [SHOWN + delta]
    assert counts(follow) == (1, 0, 0, 0)
    assert f"the host's RTC follows vm0/dm by {delta:+d} s: 2024-06-15 12:16:40 -> " in caplog.text


def test_what_changes_nothing_sets_nothing() -> None:
    rtc = Rtc()
    follow = policy(rtc)
    follow.act(event(0))
    assert (rtc.set_to, counts(follow)) == ([], (0, 1, 0, 0))


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (event(estimated=True), "the event is estimated"),
        (event(lost=True), "the event is lost"),
        (event(overrun=3), "the event is overrun"),
        (event(None, last_time=None), "by how much the guest's RTC changed is not known"),
        (event(new_time=None), "by how much the guest's RTC changed is not known"),
        (event(HOUR + 1), "+3601 s is more than 3600 s at once"),
        (event(-HOUR - 1), "-3601 s is more than 3600 s at once"),
        (event(60, new_time=-1), "the guest's RTC would show the year 1969, not 2020 to 2037"),
        (event(60, new_time=2**63 - 1), "the guest's RTC would show 9223372036854775807, which is no date"),
    ],
)
def test_what_looks_wrong_is_refused_told_and_counted(
    refused: SettledRtcChange, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    rtc = Rtc()
    follow = policy(rtc)
    follow.act(refused)
    assert (rtc.set_to, counts(follow)) == ([], (0, 0, 1, 0))
    assert follow.status()["last_refusal"] == why
    assert [record.message for record in caplog.records] == [f"vm0/dm: the host's RTC does not follow: {why}"]


def test_a_year_that_is_implausible_for_the_host_is_refused_too() -> None:
    last_second = calendar.timegm((2037, 12, 31, 23, 59, 59))
    rtc = Rtc(last_second)
    follow = policy(rtc)
    follow.act(event(1))
    follow.act(event(-1))
    assert rtc.set_to == [last_second - 1]
    assert follow.status()["last_refusal"] == "the host's RTC would show the year 2038, not 2020 to 2037"


def test_it_is_not_set_more_often_than_allowed_and_a_restart_does_not_help() -> None:
    rtc, now = Rtc(), [0.0]
    follow = policy(rtc, max_per_hour=2, monotonic=lambda: now[0])
    for at in (0, 10, 20, 3599, 3600, 3601, 3610, 3620):
        now[0] = float(at)
        follow.act(event(estimated=True))  # what is refused for another reason does not count
        follow.act(event())
        follow.begin()
    assert len(rtc.set_to) == 4, "at 0 and 10, 3600 and 3610"
    now[0] = 3620.0
    follow.act(event())
    assert follow.status()["last_refusal"] == "it was set 2 times within the last hour already"
    assert len(rtc.set_to) == 4


def test_limits_are_the_users() -> None:
    rtc = Rtc(calendar.timegm((1999, 12, 31, 23, 0, 0)))
    follow = policy(rtc, max_step=86400, years=(1990, 2000))
    follow.act(event(86400, new_time=calendar.timegm((2000, 6, 1, 0, 0, 0))))
    follow.act(event(86401, new_time=calendar.timegm((2000, 6, 1, 0, 0, 0))))
    assert counts(follow) == (1, 0, 1, 0)
    never = policy(Rtc(), max_per_hour=0)
    never.act(event())
    assert counts(never) == (0, 0, 1, 0)


def test_an_rtc_that_cannot_be_set_is_a_failure_and_the_next_event_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    rtc = Rtc()
    follow = policy(rtc)
    rtc.fails = OSError(errno.EPERM, "Operation not permitted")
    follow.act(event())
    rtc.fails = None
    rtc.deaf = True
    follow.act(event())
    rtc.deaf = False
    follow.act(event())
    assert counts(follow) == (1, 0, 0, 2)
    assert f"{DEVICE}: the host's RTC could not be set: Operation not permitted" in caplog.text
    assert f"it was set to {SHOWN + 60} and shows {SHOWN}" in caplog.text


def test_an_rtc_that_somebody_else_has_open_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel lets one at a time open it."""
    rtc, real_open = Rtc(), os.open
    busy = [0, 3]

    def open_busy(path: str, flags: int) -> int:
        if busy[0]:
            busy[0] -= 1
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real_open(path, flags)

    monkeypatch.setattr("harness.vm_event.host_rtc.os.open", open_busy)
    follow = policy(rtc)
    busy[0] = 3
    follow.act(event())
    assert (rtc.set_to, busy[0]) == ([SHOWN + 60], 0)
    busy[0] = 10**9
    monkeypatch.setattr(host_rtc_module, "BUSY_PATIENCE", PATIENCE)
    thread = threading.Thread(target=follow.act, args=(event(),))
    thread.start()
    eventually(lambda: busy[0] < 10**9, "the attempt")
    follow.interrupt()
    thread.join(PATIENCE)
    assert counts(follow) == (1, 0, 0, 1)


def test_what_is_no_rtc_is_known_beforehand(tmp_path: Path) -> None:
    for device, problem in (
        ("/dev/null", "/dev/null: the host's RTC cannot be read: Inappropriate ioctl for device"),
        (str(tmp_path / "rtc"), "the host's RTC cannot be read: No such file or directory"),
        (str(tmp_path), f"{tmp_path}: not a device"),
    ):
        with nothing_left_open(), pytest.raises(ActionError) as error:
            SetHostRtc(HostRtc(device))
        assert problem in str(error.value)
    with pytest.raises(ActionError, match="it shows no date"):
        SetHostRtc(HostRtc(DEVICE, ioctl=lambda *arguments: 0))


def test_a_service_follows_until_it_stops() -> None:
    rtc = Rtc()
    with nothing_left_open(), VmEventService("vm0", window=1e-6) as service:
        service.add_action("set-host-rtc", policy(rtc))
        service.start()
        service.send(RtcChange(NOON, 60))
        service.send(RtcChange(-1, NOON))
        eventually(lambda: service.status()["actions"]["set-host-rtc"]["run"] == 2, "both")
        service.stop()
        status = service.status()["actions"]["set-host-rtc"]
    assert (status["set"], status["refused"]) == (1, 1)
    assert rtc.set_to == [SHOWN + 60]


def strace_can_inject() -> bool:
    strace = shutil.which("strace")
    if strace is None:
        return False
    probe = [strace, "-qq", "-e", "trace=getppid", "-e", "inject=getppid:retval=0:poke_exit=@arg1=00", sys.executable]
    return subprocess.run([*probe, "-S", "-c", ""], capture_output=True, timeout=60, check=False).returncode == 0


def test_the_command_line_sets_it_by_the_right_system_call(tmp_path: Path) -> None:
    """Under strace, which answers the ioctl instead of the kernel: RTC_RD_TIME with a date of its own."""
    if not strace_can_inject():
        pytest.skip("needs strace that can inject results, and ptrace")
    shown = struct.pack("9i", 40, 16, 12, 15, 5, 124, 6, 166, 0).hex()
    trace = tmp_path / "trace"
    inject = f"inject=ioctl:retval=0:poke_exit=@arg3={shown}"
    before = ("strace", "-f", "-P", DEVICE, "-e", "trace=ioctl", "-X", "raw", "-e", inject, "-o", str(trace))
    path = tmp_path / "monitor"
    options = ("--stdin", "--window", "0.001", "--policy", "set-host-rtc", "--rtc-device", DEVICE)
    with serving(path, *options, before=before) as serve:
        say(serve, '{"last_time":1718452800,"delta_time":-1}')

        def done() -> bool:
            return "set 1" in (said := run("status", "--socket", str(path)).stdout) or "failed 1" in said

        eventually(done, "the policy to act")
        assert "set 1, unchanged 0, refused 0, failed 0" in run("status", "--socket", str(path)).stdout
    calls = [line for line in trace.read_text(encoding="ascii").splitlines() if "ioctl(" in line]
    requests = [line.partition("ioctl(")[2].split(", ")[1] for line in calls]
    assert [request for request in requests if request in ("0x80247009", "0x4024700a")] == [
        "0x80247009",  # at the start
        "0x80247009",
        "0x4024700a",
        "0x80247009",
    ]
    (setting,) = [line for line in calls if "0x4024700a" in line]
    assert "tm_sec=39, tm_min=16, tm_hour=12, tm_mday=15, tm_mon=5, tm_year=124" in setting


def test_the_help_tells_the_limits_there_are() -> None:
    said = " ".join(run("serve", "--help").stdout.split())
    first, last = host_rtc_module.YEARS
    for default in (host_rtc_module.DEVICE, host_rtc_module.MAX_STEP, host_rtc_module.MAX_PER_HOUR, f"{first}-{last}"):
        assert f"(default: {default})" in said


def test_the_command_line_refuses_limits_without_the_policy_and_an_rtc_that_is_none(tmp_path: Path) -> None:
    serve = ("serve", "--monitor", str(tmp_path / "monitor"), "--stdin")
    wrong = run(*serve, "--max-step", "5")
    assert wrong.returncode == 2 and "belong to --policy set-host-rtc" in wrong.stderr
    wrong = run(*serve, "--policy", "set-host-rtc", "--years", "2037-2020")
    assert wrong.returncode == 2 and "is not FIRST-LAST" in wrong.stderr
    wrong = run(*serve, "--policy", "set-host-rtc", "--rtc-device", "/dev/null")
    assert wrong.returncode == 1
    assert wrong.stderr == "error: /dev/null: the host's RTC cannot be read: Inappropriate ioctl for device\n"
