"""`python -m reports RUN [summary | explain ITEM | lines | html | evidence ITEM]`: reads a kept run again."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import (
    EXIT_CONFIGURATION,
    EXIT_INFRASTRUCTURE,
    EXIT_PRODUCT,
    ConfigurationError,
    InfrastructureError,
)
from reports.allure_results import write_results
from reports.defects import why_not_passed
from reports.evidence import bundle
from reports.failure import explain
from reports.html import generate
from reports.lines import colour_wanted, verdict_line
from reports.rundir import RunDir, open_run, shown_path
from reports.summary import HTML_NAME, JUNIT_NAME, MOST_INCONCLUSIVE, summary, totals

_HTML_PATIENCE = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. The exit code is the run's: 1 product faults, 10 infrastructure, 11 configuration.

    `html` ends with 10 where no report could be made.
    """
    options = _parser().parse_args(arguments)
    try:
        run = open_run(options.run)
        if options.command in ("explain", "evidence"):
            return _one_item(run, options.command, options.item, options.output)
        if options.command == "lines":
            colour = colour_wanted(sys.stdout)
            for verdict in run.verdicts():
                print(verdict_line(verdict, vrtc=run.vrtc(verdict.vm), colour=colour))
        elif options.command == "html":
            return _html(run)
        else:
            print(summary(run))
        return outcome(run)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    except InfrastructureError as error:
        print(error, file=sys.stderr)
        return EXIT_INFRASTRUCTURE
    except BrokenPipeError:
        raise
    except OSError as error:
        print(InfrastructureError(f"{error.filename or options.run}: {error.strerror}"), file=sys.stderr)
        return EXIT_INFRASTRUCTURE


def outcome(run: RunDir) -> int:
    """The exit code that the run deserves. Damaged records count as infrastructure: something was lost."""
    numbers = totals(run.verdicts(), attached=run.attached)
    if any(verdict.is_fault or why_not_passed(run, verdict) for verdict in numbers.verdicts):
        return EXIT_PRODUCT
    kinds = {error.kind for error in run.errors}
    if "configuration" in kinds:
        return EXIT_CONFIGURATION
    if kinds or run.problems or numbers.inconclusive_share > MOST_INCONCLUSIVE:
        return EXIT_INFRASTRUCTURE
    return 0


def _one_item(run: RunDir, command: str, item: str, output: Path | None) -> int:
    verdict = run.find(item)
    if command == "explain":
        print(explain(run, verdict))
    else:
        _, body, _ = bundle(run, verdict)
        if output is None:
            output = run.path / "evidence" / f"{verdict.vm}-{Path(verdict.item).name}.html"
            output.parent.mkdir(exist_ok=True)
        output.write_bytes(body)
        print(shown_path(output))
    return EXIT_PRODUCT if verdict.is_fault else 0


def _html(run: RunDir) -> int:
    """From the results that pytest wrote, if it came to its end; else from the run directory itself."""
    results = run.path / "allure-results"
    if not (run.path / JUNIT_NAME).is_file() or not any(results.glob("*-result.json")):
        results = run.path / "allure-results-kept"
        write_results(run, results)
    html = generate(results, run.path / Path(HTML_NAME).parent, Deadline(_HTML_PATIENCE))
    if html.path is None:
        raise InfrastructureError(
            f"no HTML report: {html.reason}", hint="the run itself is kept and complete"
        )
    print(shown_path(html.path))
    return outcome(run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reports",
        description="Tells what is in a kept run directory.",
        epilog="exit: 0 all well, 1 product faults, 10 only infrastructure errors, 11 configuration",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, as in reports/runs/")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("summary", help="counts, latencies, faults, errors (what is done without a command)")
    commands.add_parser("lines", help="one line per update")
    commands.add_parser("html", help="the HTML report (needs Node.js)")
    for name, text in (
        ("explain", "expected against seen, on the terminal"),
        ("evidence", "the same as HTML"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("item", metavar="ITEM", help="an update's name, or GUEST/NAME")
        if name == "evidence":
            command.add_argument("--output", type=Path, help="where to write the document")
    parser.set_defaults(item=None, output=None)
    return parser


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # `| head` had enough; nothing is wrong
        code = 0
    except SystemExit as usage:
        code = EXIT_CONFIGURATION if usage.code == 2 else int(usage.code or 0)
    sys.exit(code)
