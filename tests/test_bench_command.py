"""`./lab bench check --connect`: a line a step, what to mend, and the exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from harness.bench import DEFAULT_BENCH, Bench
from harness.bench.command import main
from harness.errors import (
    EXIT_CONFIGURATION,
    EXIT_INFRASTRUCTURE,
    BenchError,
    ConfigurationError,
    InfrastructureError,
)

EXAMPLE = Path(DEFAULT_BENCH).with_name("attach-running.yaml")


@dataclass(frozen=True)
class Step:
    name: str
    ok: bool
    detail: str = ""
    hint: str = ""


Steps = Callable[[Bench], Iterator[Step]]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Callable[[Steps], None]:
    """Has these steps tried in place of a host's."""

    def put(steps: Steps) -> None:
        module = ModuleType("harness.hosts.check")
        module.steps = steps  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "harness.hosts.check", module)

    return put


def test_each_step_is_told_and_a_failed_one_with_what_to_mend(
    tried: Callable[[Steps], None], capsys: pytest.CaptureFixture[str]
) -> None:
    told = [Step("log in", False, "refused", "add your key"), Step("x", True)]
    tried(lambda bench: iter([Step(bench.name, True), *told]))

    status = main(["check", "--connect", str(EXAMPLE)])

    assert status == EXIT_INFRASTRUCTURE
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  ok      attach-running",
        "  FAILED  log in: refused",
        "          add your key",
        "  ok      x",
    ]


@pytest.mark.parametrize(
    ("error", "exit_status"),
    [
        (ConfigurationError("the variable X is not set"), EXIT_CONFIGURATION),
        (InfrastructureError("no answer"), EXIT_INFRASTRUCTURE),
    ],
)
def test_an_error_in_a_step_is_told_by_its_family(
    tried: Callable[[Steps], None], capsys: pytest.CaptureFixture[str], error: BenchError, exit_status: int
) -> None:
    def steps(bench: Bench) -> Iterator[Step]:
        yield Step("read secrets", True)
        raise error

    tried(steps)

    assert main(["check", "--connect", str(EXAMPLE)]) == exit_status
    assert str(error) in capsys.readouterr().err


def test_good_links_are_good(tried: Callable[[Steps], None]) -> None:
    tried(lambda bench: iter([Step("all", True)]))

    assert main(["check", "--connect", str(EXAMPLE)]) == 0
    assert main(["check", "--connect", str(DEFAULT_BENCH)]) == 0
