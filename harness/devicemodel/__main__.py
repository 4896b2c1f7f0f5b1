"""The device model's command line: `python -m harness.devicemodel --cmd_monitor SOCK [options] NAME`."""

from __future__ import annotations

import argparse
import datetime
import logging
import sys
from pathlib import Path

from harness.devicemodel.exit_record import HYPERVISOR_LOST, ExitRecord
from harness.devicemodel.model import DeviceModel, Settings
from harness.errors import ConfigurationError, InfrastructureError
from harness.hypervisor.client import HypervisorLost
from harness.qemu.accelerator import choose_accelerator
from harness.qemu.arguments import Machine
from harness.vm_event import MonitorError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.devicemodel",
        description="Runs one guest in QEMU with ACRN's RTC and event service beside it. The guest's console is "
        "on standard input and output; when standard input ends, so does the guest.",
    )
    parser.add_argument("name", metavar="NAME", help="the guest's name, the `vm` of its events")
    parser.add_argument("--cmd_monitor", metavar="SOCK", type=Path, required=True, help="monitor socket")
    parser.add_argument("--acrn-monitor", action="store_true", help="have the monitor socket behave exactly as "
                        "acrn-dm's: one connection, events as ACRN words them")
    parser.add_argument("--acrn-sums", action="store_true", help="with --acrn-monitor: events have the sums of"
                        " acrn-dm's own service, known to be wrong where a date was invalid in between")
    parser.add_argument("--as-acrn-dm", action="store_true", help="live and end as acrn-dm does: go on when standard "
                        "input ends, and refuse to destroy a real-time VM (--vrtc hv)")
    parser.add_argument("--memory", "-m", metavar="MIB", type=int, default=96)
    parser.add_argument("--machine", default="pc", help="QEMU machine: pc or q35")
    parser.add_argument("--cpu", help="QEMU CPU model")
    parser.add_argument("--accelerator", choices=("auto", "kvm", "tcg"), default="auto")
    parser.add_argument("--qemu", metavar="BINARY", default="qemu-system-x86_64")
    parser.add_argument("--kernel", type=Path)
    parser.add_argument("--initrd", type=Path)
    parser.add_argument("--append", default="", help="kernel command line")
    parser.add_argument("--disk", type=Path, help="disk image; never written to")
    parser.add_argument("--firmware", metavar="FILE", type=Path, help="firmware instead of QEMU's own (OVMF)")
    parser.add_argument("--rtc", metavar="TIME", type=_time, default=None, help="the RTC at the start (ISO 8601, "
                        "UTC; default: now), what ACRN's device model takes from the Service VM")
    parser.add_argument("--restore", metavar="FILE", type=Path, help="go on from this saved state of the same machine "
                        "instead of booting; --rtc is then what the RTC showed when it was saved")
    parser.add_argument("--rtc-registers", metavar="A,B", type=_registers, help="what its registers A and B held")
    parser.add_argument("--rtc-base", metavar="TIME", type=_time, help="what QEMU's RTC began with in the life before "
                        "that (default: --rtc)")
    parser.add_argument("--vrtc", choices=("dm", "hv"), default="dm", help="whose virtual RTC the guest has: the "
                        "device model's (default), or the hypervisor's, as real-time VMs have it")
    parser.add_argument("--hypervisor", metavar="SOCKET", type=Path, help="the hypervisor process, for --vrtc hv")
    parser.add_argument("--window", metavar="SECONDS", type=float, default=1.0, help="settle window")
    parser.add_argument("--trace-log", metavar="FILE", type=Path, help="raw trace of the guest's port writes")
    parser.add_argument("--rtc-change-log", metavar="FILE", type=Path, help="where to keep what QEMU says of its own "
                        "RTC (RTC_CHANGE): a second opinion")
    parser.add_argument("--exit-record", metavar="FILE", type=Path, help="where to say why the guest ended")
    parser.add_argument("--no-reboot", action="store_true", help="a reset of the guest ends it")
    parser.add_argument("--no-console", action="store_true", help="leave standard input and output alone")
    parser.add_argument("--verbose", action="store_true")
    return parser


def _time(text: str) -> int:
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return int(moment.timestamp())


def _registers(text: str) -> tuple[int, int]:
    register_a, register_b = (int(word, 0) for word in text.split(","))
    if not (0 <= register_a <= 0xFF and 0 <= register_b <= 0xFF):
        raise ValueError(text)
    return register_a, register_b


def main(arguments: list[str] | None = None) -> int:
    """Run one guest to its end; the exit status is that of harness/errors.py, 0 for an asked-for end."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.WARNING, stream=sys.stderr)
    hypervisor = options.hypervisor if options.vrtc == "hv" else None
    rtc_time = options.rtc if options.rtc is not None else int(datetime.datetime.now().timestamp())
    settings = Settings(
        name=options.name,
        machine=Machine(
            binary=options.qemu,
            accelerator=choose_accelerator(options.accelerator),
            machine=options.machine,
            memory=options.memory,
            cpu=options.cpu,
            kernel=options.kernel,
            initrd=options.initrd,
            append=options.append,
            disk=options.disk,
            rtc_time=rtc_time if options.rtc_base is None else options.rtc_base,
            reboot=not options.no_reboot,
            trace_reads=hypervisor is not None,
            incoming=options.restore is not None,
            extra=[
                *(() if options.firmware is None else ("-bios", str(options.firmware))),
                *(("-S",) if options.as_acrn_dm else ()),
            ],
        ),
        monitor=options.cmd_monitor,
        rtc_time=rtc_time,
        hypervisor=hypervisor,
        restore=options.restore,
        registers=options.rtc_registers,
        acrn_monitor=options.acrn_monitor,
        as_acrn_dm=options.as_acrn_dm,
        acrn_sums=options.acrn_sums,
        window=options.window,
        trace_log=options.trace_log,
        rtc_change_log=options.rtc_change_log,
        exit_record=options.exit_record,
        stdin=None if options.no_console else 0,
    )
    try:
        if options.vrtc == "hv" and hypervisor is None:
            raise ConfigurationError("--vrtc hv needs a hypervisor", hint="name its socket by --hypervisor")
        record = DeviceModel(settings).run()
    except ConfigurationError as error:
        record = ExitRecord("configuration", "not-started", f"{error.problem}. {error.hint}")
    except MonitorError as error:
        record = ExitRecord("configuration", "not-started", f"the event service cannot be had: {error}")
    except HypervisorLost as error:
        record = ExitRecord("infrastructure", HYPERVISOR_LOST, error.problem)
    except (InfrastructureError, OSError) as error:
        record = ExitRecord("infrastructure", "not-started", str(error))
    record.write(settings.exit_record)
    return record.status


if __name__ == "__main__":
    sys.exit(main())
