"""Makes the guest image ready and prints what the device model is to be given: `python -m harness.guests`."""

from __future__ import annotations

import argparse
import shlex
import sys

from harness.deadline import Deadline
from harness.errors import BenchError
from harness.guests.image import AGENT_PATH, ImageSpec, prepare_image

_TIMEOUT = 600.0
_SHELL = "rdinit=/bin/busybox -- sh"


def main(arguments: list[str] | None = None) -> int:
    """Print the arguments on one line, quoted for a shell; versions go to stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.guests",
        description="Makes the guests' Linux image (in the cache) and prints the device model's arguments for it.",
    )
    parser.add_argument("--shell", action="store_true", help="start a busybox shell on the console, not the agent")
    options = parser.parse_args(arguments)
    try:
        image = prepare_image(ImageSpec(), None, Deadline(_TIMEOUT))
    except BenchError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    append = image.append.replace(f"rdinit={AGENT_PATH}", _SHELL) if options.shell else image.append
    for name, version in image.versions.items():
        print(f"{name}: {version}", file=sys.stderr)
    print(shlex.join(["--kernel", str(image.kernel), "--initrd", str(image.initrd), "--append", append]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
