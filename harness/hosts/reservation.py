"""A bench for one run at a time: reserved before anything of it is touched, given back last."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from harness.bench import Bench, LabgridReservationSpec, LockReservationSpec, NestedHostSpec, SshHostSpec
from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.lock import Held, LockFile

log = logging.getLogger(__name__)

__all__ = ["Held", "Reservation", "identity", "reservation_for"]


class Reservation(AbstractContextManager[object], Protocol):
    """The bench is one's own from entering it to leaving it.

    Entering raises Held (an InfrastructureError) naming who has it, ConfigurationError for what cannot be used.
    """

    failure: InfrastructureError | None
    """How it was lost while it was held; None while it was not."""


def reservation_for(bench: Bench, tell: Callable[[str], object] = log.warning) -> Reservation:
    """What keeps other runs away from the bench, as its file says; one that keeps nobody away where it says null.

    tell: is told whom it waits for, and what a dead run has left.
    """
    spec = bench.reservation
    if isinstance(spec, LockReservationSpec):
        name = identity(bench)
        return LockFile(
            spec.place / f"{_file_name(name)}.lock",
            f"the bench {bench.name}",
            wait=spec.wait,
            lease=spec.expires,
            tell=tell,
        )
    if isinstance(spec, LabgridReservationSpec):
        from harness.hosts.labgrid_bench import LabgridPlace

        return LabgridPlace(spec, bench.name, tell)
    return _Unreserved()


class _Unreserved:
    """A bench that nobody else has, or that its user looks after himself."""

    failure: InfrastructureError | None = None

    def __enter__(self) -> object:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None


def identity(bench: Bench) -> str:
    """What two runs must not use at once: the host's address and port with the jumps to it, or the image.

    The bench's name, its user and its guests have no part in it: they differ between files about the same machine.
    """
    host = bench.host
    if isinstance(host, NestedHostSpec):
        image = host.image or host.kernel
        return f"nested {image.resolve()}" if image is not None else f"nested {bench.name}"
    if not isinstance(host, SshHostSpec):
        return f"this machine, {bench.name}"
    config = host.ssh_config
    if config is not None and bench.scratch in config.absolute().parents:
        # A file that switching on makes says another port each time; whose machine it is does not change.
        return f"{host.address} of {config.absolute()}"
    try:
        from harness.hosts.ssh_config import resolve
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"a host of kind ssh needs the Python package {error.name}", hint="pip install 'acrn-rtc-bench[ssh]'"
        ) from error
    target = resolve(host)
    jumps = "".join(f" by way of {jump.address}:{jump.port}" for jump in target.jumps)
    return f"{target.address.lower()}:{target.port}{jumps}"


def _file_name(name: str) -> str:
    """Readable, and another one for each name."""
    mark = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)[-60:].strip('-')}-{mark}"
