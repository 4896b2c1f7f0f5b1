"""`python -m harness.bench`."""

from __future__ import annotations

import sys

from harness.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
