"""Options, markers and plugins of the whole test suite."""

from __future__ import annotations

import pytest

pytest_plugins = [
    "fixtures.session",
    "fixtures.interrupt",
    "fixtures.outermost",
    "fixtures.plans",
    "fixtures.ladder",
    "fixtures.updates",
    "fixtures.attach",
    "fixtures.second_opinion",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of ARCHITECTURE.md; what they mean for a run is told by `fixtures.session`."""
    group = parser.getgroup("rtc", "RTC-change events")
    group.addoption("--bench", metavar="FILE", help="bench file (default: QEMU only)")
    group.addoption("--rtc-seed", metavar="N", type=int, help="seed of every random choice (default: random)")
    group.addoption(
        "--rtc-updates",
        metavar="N",
        type=int,
        default=10,
        help="random updates per mode, for each vRTC (%(default)s); -k hv or -k dm: of one vRTC only",
    )
    group.addoption("--rtc-guests", metavar="N", type=int, help="guests at once (default: the bench's)")
    group.addoption("--rtc-plan", metavar="FILE", help="replay a saved plan instead")
    group.addoption("--attach", metavar="SOCK", help="judge the running guest with this monitor socket, plan nothing")
    group.addoption("--attach-for", metavar="SECONDS", type=float, help="for so long (default: until it ends)")
    group.addoption("--attach-trace", metavar="FILE", help="its trace log (default: where its device model says)")
    group.addoption("--service-socket", metavar="PATH", help="where a device model's service listens; {vm}: the guest")
    group.addoption("--event-socket", metavar="PATH", help="where the harness listens (default: the service's socket)")
    group.addoption("--known-defects", metavar="FILE", help="which vRTC defects are no failure (default: fixtures/)")
    group.addoption("--run-dir", metavar="DIR", help="run directory (default: reports/runs/<time>-<seed>)")
    group.addoption("--no-html", action="store_true", help="make no HTML report at the end")
