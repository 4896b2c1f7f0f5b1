"""The tools on a host, each a subcommand: `python3 -I tools.pyz NAME ...`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

_TOOLS = {
    "keep": "keeper",
    "session": "session",
    "receive": "receive",
    "relay": "relay",
    "observe": "observer",
}
"""Subcommand to module: a module's `main(arguments) -> int` is imported only when it is asked for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a tool; returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in _TOOLS:
        print(f"usage: tools.pyz {'|'.join(_TOOLS)} ...", file=sys.stderr)
        return 2
    tool = importlib.import_module(f"harness.onhost.{_TOOLS[given[0]]}")
    status: int = tool.main(given[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
