"""`serve`: the service of one VM as a process, from its sources to what is done with its events, until a signal."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import struct
import sys
import threading
from contextlib import ExitStack

from . import systemd
from .abi import VmEventType
from .errors import VmEventError
from .events import Event, RtcChange
from .logs import Log
from .service import VmEventService
from .typed import Any
from .watch import describe

EXIT_FAILED = 1

#: Told whenever a ring is registered with the hypervisor.
REPLACES = (
    "registering a ring replaces acrn-dm's for good: its monitor socket tells nothing of the hypervisor's events any "
    "more; a full reset of the VM makes acrn-dm register its own again, and then this one falls silent"
)

_log = logging.getLogger(__name__)


def serve(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; the exit code. Raises ActionError when there is no log to write to."""
    ends = {signal.SIGINT, signal.SIGTERM}
    # Before any thread is made: all inherit it, so that this thread alone takes them, when it asks for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    _keep_descriptors_from_commands()
    with Log(options.log):
        try:
            return _serve(options, ends)
        except VmEventError as error:
            _log.error("%s", error)
            if options.log == "journald":
                print(f"error: {error}", file=sys.stderr)
            return EXIT_FAILED


def _serve(options: argparse.Namespace, ends: set[signal.Signals]) -> int:
    service = VmEventService(options.vm, window=options.window, dm=options.stdin)
    _add_actions(service, options)
    service.subscribe_all(_log_event)
    with service:
        with ExitStack() as held:
            _add_sources(service, options, held)
            service.start(options.monitor)
        sources = ", ".join(service.status()["sources"])
        print(f"serving {options.vm} on {options.monitor} from {sources}", flush=True)
        if options.stdin:
            threading.Thread(target=_feed, args=(service,), name="stdin", daemon=True).start()
        threading.Thread(target=_end_with, args=(service,), name="failure-watch", daemon=True).start()
        systemd.notify("READY=1", f"STATUS=serving {options.vm} from {sources}")
        signal.sigwait(ends)
        systemd.notify("STOPPING=1")
        failure = service.status()["error"]
    if failure is not None:
        _log.error("the service failed: %s", failure)
        return EXIT_FAILED
    return 0


def _add_sources(service: VmEventService, options: argparse.Namespace, held: ExitStack) -> None:
    """Add what is asked for. What is `held` is needed for the start only. Raises SourceError, ServiceError."""
    for ring in options.ring:
        service.add_ring(ring.source, ring.ring, ring.kick, stamped=ring.stamped)
    if options.hsm is not None or options.hsm_of is not None:
        from .hsm import take_over

        descriptor = options.hsm if options.hsm_of is None else take_over(options.hsm_of)
        # Closed after the start: the kernel keeps a VM for as long as anyone has it open.
        held.callback(_close, descriptor)
        service.add_hsm(descriptor)
        _log.warning(REPLACES)
    if options.acrn_dm is not None:
        service.add_acrn_dm(options.acrn_dm)


def _add_actions(service: VmEventService, options: argparse.Namespace) -> None:
    """Add what is asked for. Raises ActionError."""
    if options.on_rtc_change:
        from .actions import RunCommands

        given = {"timeout": options.on_rtc_change_timeout} if options.on_rtc_change_timeout is not None else {}
        service.add_action("on-rtc-change", RunCommands(options.on_rtc_change, **given))
    if options.policy == "set-host-rtc":
        from .host_rtc import HostRtc, SetHostRtc

        limits = {name: getattr(options, name) for name in ("max_step", "max_per_hour", "years")}
        rtc = HostRtc() if options.rtc_device is None else HostRtc(options.rtc_device)
        service.add_action("set-host-rtc", SetHostRtc(rtc, **{k: v for k, v in limits.items() if v is not None}))


def _log_event(event: Event) -> None:
    told = event.as_json()
    _log.info("%s", describe(told), extra={"event": told})


def _keep_descriptors_from_commands() -> None:
    """What this process inherited, rings and devices among it, is not for the commands that it runs."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                pass  # that of the listing itself


def _close(descriptor: int) -> None:
    if descriptor <= 2:
        return  # given by mistake, and needed to say so
    try:
        os.close(descriptor)
    except OSError:
        pass  # it was never open, which the start has told


def _end_with(service: VmEventService) -> None:
    service.wait()
    os.kill(os.getpid(), signal.SIGTERM)  # blocked in every thread, and awaited by the main one


def _feed(service: VmEventService) -> None:
    """Send what comes on stdin. Read from the descriptor: a thread inside sys.stdin would block the exit."""
    rest = b""
    while data := os.read(0, 65536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                _feed_line(service, line)
    if rest.strip():
        _feed_line(service, rest)


def _feed_line(service: VmEventService, line: bytes) -> None:
    problem: Any = None
    try:
        match json.loads(line):
            case {"last_time": int(last_time), "delta_time": int(delta_time)}:
                taken = service.send(RtcChange(last_time, delta_time))
            case {"set_rtc": int(rtc)}:
                service.set_rtc(rtc)
                taken = True
            case {"vm_event": 1 | 2 as kind}:
                taken = service.send(VmEventType(kind))
            case _:
                raise ValueError("not a raw event")
        problem = None if taken else "the ring is full"
    except (ValueError, RecursionError, struct.error) as error:
        problem = error
    if problem is not None:
        _log.warning("stdin: %r: %s", line[:200], problem)
