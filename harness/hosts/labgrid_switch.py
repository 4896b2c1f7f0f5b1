"""`python -m harness.hosts.labgrid_switch on|off|status ENVIRONMENT TARGET [DRIVER]`: one of labgrid's power drivers.

A process of its own: a driver that hangs can be ended, and labgrid's event loop and log handlers stay out of a run.
`status` exits with 0 for on, 1 for off, 2 where the driver cannot tell. What is wrong with the environment file exits
with 11.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from harness.errors import EXIT_CONFIGURATION

UNKNOWN = 2


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code. Raises whatever the driver raises."""
    do, environment, target_name, *driver_names = arguments
    try:
        driver = _driver(environment, target_name, driver_names[0] if driver_names else None)
    except _Wrong as error:
        print(f"{environment}: {error}")
        return EXIT_CONFIGURATION
    if do == "status":
        get = getattr(driver, "get", None)
        return UNKNOWN if get is None else int(not get())
    getattr(driver, do)()
    return 0


class _Wrong(Exception):
    """What is wrong with an environment file."""


def _driver(environment: str, target_name: str, name: str | None) -> Any:
    from labgrid import Environment
    from labgrid.exceptions import InvalidConfigError, NoConfigFoundError, NoDriverFoundError, RegistrationError
    from labgrid.protocol import PowerProtocol

    try:
        target = Environment(environment).get_target(target_name)
        if target is None:
            raise _Wrong(f"it has no target {target_name}")
        return target.get_driver(PowerProtocol, name=name)
    except (InvalidConfigError, NoConfigFoundError, NoDriverFoundError, RegistrationError) as error:
        raise _Wrong(str(getattr(error, "msg", error))) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
