"""The plugins of the whole test suite: options, markers, fixtures."""

from __future__ import annotations

pytest_plugins = [
    "fixtures.options",
    "fixtures.masking",
    "fixtures.session",
    "fixtures.interrupt",
    "fixtures.outermost",
    "fixtures.plans",
    "fixtures.large_runs",
    "fixtures.live",
    "fixtures.ladder",
    "fixtures.updates",
    "fixtures.attach",
    "fixtures.second_opinion",
]
