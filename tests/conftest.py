"""Fixtures that many tests share, most of them the event service's."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from harness.secrets import MASKER
from harness.vm_event import VmEventService
from tests.lab_support import Checkout, make_checkout
from tests.vm_event_support import INSTANT, nothing_left_open

# On a busy machine a case takes as long as it takes: that is no fault of what is tested.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests() -> Iterator[None]:
    """What one test calls a secret is a word like others in the next."""
    yield
    MASKER.forget()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout for ./lab, on a machine of stand-ins."""
    return make_checkout(tmp_path)


@pytest.fixture
def terminal() -> Iterator[str]:
    """A device like a serial adapter's."""
    ours, theirs = pty.openpty()
    yield os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a monitor socket is made."""
    return tmp_path / "monitor"


@pytest.fixture
def instant() -> Iterator[VmEventService]:
    """Running, and its window is over at once: every raw event settles by itself."""
    with nothing_left_open(), VmEventService("vm0", window=INSTANT) as service:
        service.start()
        yield service


@pytest.fixture
def service(path: Path) -> Iterator[VmEventService]:
    """The same with a monitor socket."""
    with nothing_left_open(), VmEventService("vm0", window=INSTANT) as service:
        service.start(path)
        yield service
