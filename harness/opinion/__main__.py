"""The second opinion on a kept run: `python -m harness.opinion RUN [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import EXIT_CONFIGURATION, EXIT_INFRASTRUCTURE, ConfigurationError, InfrastructureError
from harness.opinion.opinions import totals
from harness.opinion.run import contradictions, opinions_of_run


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code is 0, 10 for what contradicts the run or cannot be read, 11 for no run."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.opinion", description="What QEMU's own RTC says to the settled events of a kept run."
    )
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--json", action="store_true", help="print every opinion as JSON, one a line")
    options = parser.parse_args(arguments)
    try:
        opinions = opinions_of_run(options.run)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    except OSError as error:
        print(InfrastructureError(f"no second opinion: {error}"), file=sys.stderr)
        return EXIT_INFRASTRUCTURE
    if options.json:
        for opinion in opinions:
            print(json.dumps({"vm": opinion.vm, **opinion.as_json()}))
    wrong = contradictions(opinions)
    for contradiction in wrong:
        print(contradiction, file=sys.stderr)
    print(totals(opinions).line(), file=sys.stderr if options.json else sys.stdout)
    return EXIT_INFRASTRUCTURE if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
