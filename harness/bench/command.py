"""`python -m harness.bench`: checks bench files, tries their links, prints the JSON Schema."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.bench.model import Bench, load_bench
from harness.errors import EXIT_CONFIGURATION, EXIT_INFRASTRUCTURE, BenchError, ConfigurationError


def schema() -> dict[str, object]:
    """The JSON Schema of bench files, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Bench.model_json_schema(),
        "title": "bench file",
    }


def _check(files: Sequence[Path], connect: bool) -> int:
    status = 0
    for path in files:
        try:
            bench = load_bench(path)
        except ConfigurationError as error:
            print(error, file=sys.stderr)
            status = EXIT_CONFIGURATION
            continue
        guests = ", ".join(
            f"{kind.name} ({kind.machine + ', ' if bench.host.kind == 'local' else ''}{kind.vrtc}, {kind.system})"
            for kind in bench.guests
        )
        print(f"{path}: good: bench {bench.name} on a host of kind {bench.host.kind}; guests {guests}", flush=True)
        if connect:
            status = _connect(bench) or status
    return status


def _connect(bench: Bench) -> int:
    """Try every link, a line a step as it is done; the exit status."""
    if bench.host.kind == "local":
        print("  ok      this machine: there is no link to try")
        return 0
    from harness.hosts.check import steps

    status = 0
    try:
        for step in steps(bench):
            said = f": {step.detail}" if step.detail else ""
            print(f"  {'ok' if step.ok else 'FAILED':7} {step.name}{said}", flush=True)
            if not step.ok:
                status = EXIT_INFRASTRUCTURE
                if step.hint:
                    print(f"          {step.hint}", flush=True)
    except BenchError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="./lab bench", description="Bench files.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say all that is wrong with bench files")
    check.add_argument("--connect", action="store_true", help="and try each link of theirs, step by step")
    check.add_argument("files", metavar="FILE", type=Path, nargs="+")
    commands.add_parser("schema", help="print the JSON Schema of bench files, for editors")
    options = parser.parse_args(arguments)
    if options.command == "schema":
        print(json.dumps(schema(), indent=2))
        return 0
    return _check(options.files, options.connect)
