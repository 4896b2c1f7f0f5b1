"""The command line: `serve` runs the service, `watch` prints its events, `status` its counts."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

from . import __version__, systemd
from .abi import VmEventType
from .errors import VmEventError
from .events import RtcChange
from .service import VmEventService
from .typed import Any, NamedTuple
from .watch import MonitorClient, describe
from .wire import Garbage

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


class _Ring(NamedTuple):
    source: str
    ring: int
    kick: int
    stamped: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. 0: ended as asked; 1: failed, and stderr says why; 2: wrong usage."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        return command(options)
    except VmEventError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:
        # Whoever read our output has left; nothing more can be said to them, not at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


class _Help(argparse.HelpFormatter):
    """Looks up the width of the terminal itself: argparse imports shutil for it, half a MB of every running service."""

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS") or os.get_terminal_size().columns)
        except (ValueError, OSError):
            columns = 80
        super().__init__(prog, width=columns - 2)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Help, **settings)


def _program() -> str:
    """What a user types to get here."""
    name = os.path.basename(sys.argv[0])
    return name if name.endswith(".pyz") else f"python -m {__package__}"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=_program(), description="ACRN's vm_event service in Python.")
    parser.add_argument("--version", action="version", version=f"vm_event {__version__}")
    commands = parser.add_subparsers(required=True, metavar="serve|watch|status")

    serve = commands.add_parser("serve", help="run the service until SIGINT or SIGTERM")
    serve.add_argument("--monitor", required=True, metavar="PATH", help="where the monitor socket is made")
    serve.add_argument("--vm", default="vm", metavar="NAME", help="the VM's name in every event (default: vm)")
    serve.add_argument("--window", type=_seconds, default=1.0, metavar="S", help="settle window, seconds (default: 1)")
    serve.add_argument(
        "--ring",
        type=_ring,
        action="append",
        default=[],
        metavar="SOURCE:RING_FD:KICK_FD[:stamped]",
        help="read a ring that another process fills: inherited descriptors of its page and of its eventfd, "
        "e.g. hv:5:6; 'stamped' when its elements carry their send times",
    )
    serve.add_argument(
        "--stdin",
        action="store_true",
        help='raw events by hand, a JSON object a line: {"last_time":N,"delta_time":N}, {"set_rtc":N}, '
        '{"vm_event":1}; they come from source dm',
    )
    serve.set_defaults(run=_serve)

    watch = commands.add_parser("watch", help="register as the event client and print events until the service ends")
    watch.add_argument("--socket", required=True, metavar="PATH", help="the service's monitor socket")
    watch.add_argument("--json", action="store_true", help="print the events as JSON, one a line")
    watch.set_defaults(run=_watch)

    status = commands.add_parser("status", help="print the service's state and counts")
    status.add_argument("--socket", required=True, metavar="PATH", help="the service's monitor socket")
    status.add_argument("--json", action="store_true", help="print it as JSON")
    status.set_defaults(run=_status)
    return parser


def _serve(options: argparse.Namespace) -> int:
    if not options.ring and not options.stdin:
        print("error: no source: give --ring or --stdin", file=sys.stderr)
        return 2
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    # Blocked before any thread is made, so that this thread alone takes them, when it asks for them.
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with VmEventService(options.vm, window=options.window, dm=options.stdin) as service:
        for ring in options.ring:
            service.add_ring(ring.source, ring.ring, ring.kick, stamped=ring.stamped)
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
        print(f"error: the service failed: {failure}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _end_with(service: VmEventService) -> None:
    service.wait()
    os.kill(os.getpid(), signal.SIGTERM)


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
    problem = None
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
        problem = str(error)
    if problem is not None:
        print(f"stdin: {line[:200]!r}: {problem}", file=sys.stderr, flush=True)


def _watch(options: argparse.Namespace) -> int:
    with MonitorClient(options.socket) as client:
        client.register()
        print(f"registered at {options.socket}", file=sys.stderr, flush=True)
        for event in client.events():
            if isinstance(event, Garbage):
                print(f"garbage on the event stream: {event.reason}: {event.data[:200]!r}", file=sys.stderr)
            elif options.json:
                print(json.dumps(event, separators=(",", ":")), flush=True)
            else:
                print(describe(event), flush=True)
    print("the service closed the connection", file=sys.stderr)
    return 0


def _status(options: argparse.Namespace) -> int:
    with MonitorClient(options.socket) as client:
        answer = client.command("status")
    if answer.get("ack") != 0:
        print(f"error: {options.socket}: does not know the command 'status'", file=sys.stderr)
        return EXIT_FAILED
    status = answer.get("status", {})
    if options.json:
        print(json.dumps(status, separators=(",", ":")))
    else:
        _print_tree(status)
    return 0


def _print_tree(values: Mapping[str, Any], indent: str = "") -> None:
    for key, value in values.items():
        if key == "last_event":
            print(f"{indent}{key}: {describe(value) if value else 'none'}")
        elif isinstance(value, dict):
            print(f"{indent}{key}:")
            _print_tree(value, indent + "  ")
        else:
            print(f"{indent}{key}: {value if isinstance(value, str) else json.dumps(value)}")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be longer than 0 s")
    return value


def _ring(text: str) -> _Ring:
    source, _, rest = text.partition(":")
    numbers, stamped, marker = rest.partition(":stamped")
    ring, _, kick = numbers.partition(":")
    if not source or not ring.isdecimal() or not kick.isdecimal() or marker:
        raise argparse.ArgumentTypeError(f"{text!r} is not SOURCE:RING_FD:KICK_FD[:stamped]")
    return _Ring(source, int(ring), int(kick), bool(stamped))
