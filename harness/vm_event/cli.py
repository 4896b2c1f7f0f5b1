"""The command line: `serve` runs the service, `watch` prints its events, `status` its counts."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial

from . import __version__
from .errors import VmEventError
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
    _add_serve_options(serve)
    serve.set_defaults(run=partial(_serve, serve))

    watch = commands.add_parser("watch", help="register as the event client and print events until the service ends")
    watch.add_argument("--socket", required=True, metavar="PATH", help="the service's monitor socket")
    watch.add_argument("--json", action="store_true", help="print the events as JSON, one a line")
    watch.set_defaults(run=_watch)

    status = commands.add_parser("status", help="print the service's state and counts")
    status.add_argument("--socket", required=True, metavar="PATH", help="the service's monitor socket")
    status.add_argument("--json", action="store_true", help="print it as JSON")
    status.set_defaults(run=_status)
    return parser


def _add_serve_options(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--monitor", required=True, metavar="PATH", help="where the monitor socket is made")
    serve.add_argument("--vm", default="vm", metavar="NAME", help="the VM's name in every event (default: vm)")
    serve.add_argument("--window", type=_seconds, default=1.0, metavar="S", help="settle window, seconds (default: 1)")
    serve.add_argument(
        "--log",
        choices=("text", "json", "journald"),
        default="text",
        help="how the log, events included, is written: lines or JSON objects on stderr, or entries of journald",
    )

    sources = serve.add_argument_group("sources", "at least one")
    sources.add_argument(
        "--ring",
        type=_ring,
        action="append",
        default=[],
        metavar="SOURCE:RING_FD:KICK_FD[:stamped]",
        help="read a ring that another process fills: inherited descriptors of its page and of its eventfd, "
        "e.g. hv:5:6; 'stamped' when its elements carry their send times",
    )
    hsm = sources.add_mutually_exclusive_group()
    hsm.add_argument(
        "--hsm",
        type=_number,
        metavar="FD",
        help="source hv: the hypervisor's ring, on the inherited descriptor of /dev/acrn_hsm that owns the VM; "
        "replaces acrn-dm's own ring for good",
    )
    hsm.add_argument(
        "--hsm-of",
        type=_number,
        metavar="PID",
        help="the same, on a duplicate of the descriptor of this running acrn-dm",
    )
    sources.add_argument(
        "--acrn-dm",
        metavar="SOCK",
        help="source monitor: the monitor socket of a running acrn-dm; destroy and blkrescan are relayed to it",
    )
    sources.add_argument(
        "--stdin",
        action="store_true",
        help='source dm: raw events by hand, a JSON object a line: {"last_time":N,"delta_time":N}, {"set_rtc":N}, '
        '{"vm_event":1}',
    )

    acting = serve.add_argument_group("acting on settled RTC changes")
    acting.add_argument(
        "--on-rtc-change",
        type=_command,
        action="append",
        default=[],
        metavar="CMD",
        help="run this command for each, with the event as a line of JSON on stdin. One argument, taken apart into "
        "words as a shell does it, but there is no shell. Several times for several commands: they run in order",
    )
    acting.add_argument(
        "--on-rtc-change-timeout", type=_seconds, metavar="S", help="how long a command may take (default: 10)"
    )
    acting.add_argument(
        "--policy", choices=("set-host-rtc",), help="set-host-rtc: move the host's RTC by as much as the guest's"
    )
    acting.add_argument("--rtc-device", metavar="PATH", help="the host's RTC (default: /dev/rtc0)")
    acting.add_argument("--max-step", type=_number, metavar="S", help="refuse to move it further (default: 3600)")
    acting.add_argument("--max-per-hour", type=_number, metavar="N", help="refuse to move it more often (default: 6)")
    acting.add_argument(
        "--years", type=_years, metavar="FIRST-LAST", help="refuse all other years (default: 2020-2037)"
    )


def _serve(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    sources = (options.ring, options.stdin, options.hsm is not None, options.hsm_of is not None, options.acrn_dm)
    if not any(sources):
        parser.error("no source: give --ring, --hsm, --hsm-of, --acrn-dm or --stdin")
    limits = ("rtc_device", "max_step", "max_per_hour", "years")
    if options.policy is None and any(getattr(options, name) is not None for name in limits):
        parser.error("--rtc-device, --max-step, --max-per-hour and --years belong to --policy set-host-rtc")
    if options.on_rtc_change_timeout is not None and not options.on_rtc_change:
        parser.error("--on-rtc-change-timeout belongs to --on-rtc-change")
    from .serve import serve

    return serve(options)


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
    from .status import describe_status

    with MonitorClient(options.socket) as client:
        answer = client.command("status")
    if answer.get("ack") != 0:
        print(f"error: {options.socket}: does not know the command 'status'", file=sys.stderr)
        return EXIT_FAILED
    status = answer.get("status", {})
    if options.json:
        print(json.dumps(status, separators=(",", ":")))
    else:
        print(describe_status(status))
    return 0


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be longer than 0 s")
    return value


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _years(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1970 <= int(first) <= int(last) <= 9999):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST-LAST, e.g. 2020-2037")
    return int(first), int(last)


def _command(text: str) -> tuple[str, ...]:
    from .actions import words_of

    try:
        return words_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _ring(text: str) -> _Ring:
    source, _, rest = text.partition(":")
    numbers, stamped, marker = rest.partition(":stamped")
    ring, _, kick = numbers.partition(":")
    if not source or not ring.isdecimal() or not kick.isdecimal() or marker:
        raise argparse.ArgumentTypeError(f"{text!r} is not SOURCE:RING_FD:KICK_FD[:stamped]")
    return _Ring(source, int(ring), int(kick), bool(stamped))
