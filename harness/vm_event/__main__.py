"""`python -m harness.vm_event serve|watch|status`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
