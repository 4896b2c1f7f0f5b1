"""The options of a run, as a user gives them: markers, seed, replay, reports, exit status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.plan import Plan, SetClock, WriteRegister, dump_plans
from tests.chain import ROOT, Run, bench_text, running

QUICK = ("-m", "qemu and dm", "-k", "test_random_order and (running-0001 or halted-0001)", "--rtc-guests", "1")
REPLAYED = ("zulu", "alpha", "mike")
"""Names that no sorting leaves in this order."""


def pytest_on(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A run of pytest that needs no guest."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--no-html", "--run-dir", str(folder / "run")]
    return subprocess.run(
        [*command, *options], check=False, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def scenario(folder: Path, text: str) -> tuple[str, ...]:
    """The options that run a scenario file of a user's own, which is not below the project's conftest.py."""
    path = folder / "test_scenario.py"
    path.write_text(text, encoding="utf-8")
    return "-c", "pyproject.toml", "-p", "conftest", str(path)


# -- three real runs side by side, on which the last tests of this file look back ------------------------------


@dataclass(frozen=True)
class Runs:
    """Two runs of one seed, and a replay of a saved plan file."""

    seeded: Run
    again: Run
    replay: Run
    saved: Path


@pytest.fixture(scope="module", autouse=True)
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs | None]:
    """Begun with the first test of this file: they wait most of their time, and the others need not wait for them."""
    if not any("runs" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    folders = [tmp_path_factory.mktemp(name) for name in ("seeded", "again", "replay")]
    saved = folders[2] / "saved.yaml"
    actions = (SetClock.model_validate({"mode": "running", "value": f"20{n}1-03-04T05:06:07"}) for n in (2, 3, 4))
    plans = [Plan(id=name, actions=(action,)) for name, action in zip(REPLAYED, actions, strict=True)]
    saved.write_text(dump_plans(plans, 77), encoding="utf-8")
    with ExitStack() as stack:
        seeded, again = (stack.enter_context(running(folder, *QUICK)) for folder in folders[:2])
        options = ("-m", "qemu", "--rtc-guests", "1", "--rtc-plan", str(saved))
        replay = stack.enter_context(running(folders[2], *options))
        yield Runs(seeded, again, replay, saved)


@pytest.fixture(scope="module")
def runs(begun: Runs) -> Runs:
    """All three, over."""
    for run in (begun.seeded, begun.again, begun.replay):
        assert run.wait() == 0, run.said
    return begun


# -- markers -------------------------------------------------------------------------------------------------

ONLY_THERE = """
import pytest
from fixtures import plan_sets
from fixtures.plans import rtc_plans

@pytest.mark.{mark}
@rtc_plans(plan_sets.silent_registers)
def test_there(update):
    raise AssertionError("it ran")
"""


@pytest.mark.parametrize("mark", ["hw", "nested"])
def test_a_scenario_for_a_bench_that_is_not_there_is_skipped_with_the_reason(mark: str, tmp_path: Path) -> None:
    done = pytest_on(tmp_path, *scenario(tmp_path, ONLY_THERE.format(mark=mark)))
    assert f"needs a bench of kind {mark}; qemu-only is qemu" in done.stdout, done.stdout + done.stderr
    assert re.search(r"\b4 skipped", done.stdout), "two plans, on each vRTC"
    assert done.returncode == 0
    assert not list((tmp_path / "run").glob("*/trace.log")), "no guest was started for it"


@pytest.mark.parametrize("mark", ["hw", "nested"])
def test_asking_for_a_bench_that_is_not_there_runs_nothing_elsewhere_instead(mark: str, tmp_path: Path) -> None:
    done = pytest_on(tmp_path, "scenarios", "-m", mark, "--rtc-updates", "1")
    assert f"needs a bench of kind {mark}; qemu-only is qemu" in done.stdout, done.stdout + done.stderr
    assert " passed" not in done.stdout and done.returncode == 0
    assert not list((tmp_path / "run").glob("*/trace.log")), "no guest was started for it"


def test_what_is_on_demand_runs_only_when_it_is_named(tmp_path: Path) -> None:
    text = "import pytest\n@pytest.mark.soak\ndef test_long():\n    print('it ran')\n"
    options = (*scenario(tmp_path, text), "-s")
    unnamed = pytest_on(tmp_path, *options)
    assert "1 deselected" in unnamed.stdout and "it ran" not in unnamed.stdout
    named = pytest_on(tmp_path, *options, "-m", "soak")
    assert "1 passed" in named.stdout and "it ran" in named.stdout


@pytest.mark.parametrize("mark", ["nested", "hw"])
def test_every_backend_has_scenarios(mark: str, tmp_path: Path) -> None:
    done = pytest_on(tmp_path, "scenarios", "--collect-only", "-q", "-m", mark)
    assert done.returncode == 0, done.stdout
    assert "test_random_order[dm-bare-running-0001]" in done.stdout
    assert "test_random_order[hv-bare-running-0001]" in done.stdout


def test_no_scenario_is_without_a_backend(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, "scenarios", "--collect-only", "-q", "-m", "not (qemu or nested or hw)")
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout


# -- the vRTC, a dimension of every scenario -----------------------------------------------------------------


def collected(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The items' names without their files."""
    return {line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line}


def test_one_vrtc_is_selected_by_its_name(tmp_path: Path) -> None:
    options = ("scenarios/test_windows.py", "--collect-only", "-q")
    selections: list[tuple[str, ...]] = [(), ("-k", "hv"), ("-m", "qemu and hv")]
    everything, by_name, by_mark = (collected(pytest_on(tmp_path, *options, *selected)) for selected in selections)
    assert by_name == by_mark == {name for name in everything if "[hv-" in name}
    assert {name.replace("[hv-", "[dm-") for name in by_name} == everything - by_name


OVERRIDES = {
    "a module's fixture": "@pytest.fixture(params=['hv'])\ndef vrtc(request):\n    return request.param\n",
    "a mark of the test's": "@pytest.mark.parametrize('vrtc', ['hv'], indirect=True)",
}
USES_VRTC = """
@pytest.mark.qemu
@rtc_plans(plan_sets.silent_registers)
def test_there(plan, vrtc):
    assert plan.vrtc == vrtc == 'hv' and plan.id.startswith('hv-silent')
"""
IMPORTS = "import pytest\nfrom fixtures import plan_sets\nfrom fixtures.plans import rtc_plans\n"


@pytest.mark.parametrize("override", OVERRIDES.values(), ids=list(OVERRIDES))
def test_a_scenario_can_override_the_vrtc(override: str, tmp_path: Path) -> None:
    done = pytest_on(tmp_path, *scenario(tmp_path, IMPORTS + override + USES_VRTC))
    assert "2 passed" in done.stdout and done.returncode == 0, done.stdout + done.stderr


def test_an_override_that_tells_the_vrtc_too_late_is_refused_with_what_is_wanted(tmp_path: Path) -> None:
    override = "@pytest.fixture\ndef vrtc():\n    return 'hv'\n"
    done = pytest_on(tmp_path, *scenario(tmp_path, IMPORTS + override + USES_VRTC))
    assert "the fixture `vrtc` must have `params`, of dm, hv" in done.stdout + done.stderr
    assert done.returncode == pytest.ExitCode.USAGE_ERROR


# -- what runs in the guest, another one ------------------------------------------------------------------------


def test_each_plan_is_an_item_on_one_system_and_a_quarter_of_them_on_linux(tmp_path: Path) -> None:
    options = ("scenarios/test_random_orders.py", "--collect-only", "-q", "--rtc-updates", "20", "-k", "dm")
    everything = collected(pytest_on(tmp_path, *options))
    linux = {name for name in everything if "-linux-" in name}
    assert len(everything) == 40 and len(linux) == 10
    assert {name.partition("linux-")[2][:6] for name in linux} == {"runnin", "halted"}
    assert collected(pytest_on(tmp_path, *options[:-1], "dm and linux")) == linux


def test_on_a_bench_with_one_system_every_plan_is_for_that(tmp_path: Path) -> None:
    (tmp_path / "bench.yaml").write_text(bench_text(), encoding="utf-8")
    options = ("scenarios/test_windows.py", "--collect-only", "-q", "-k", "dm", "--bench", str(tmp_path / "bench.yaml"))
    names = collected(pytest_on(tmp_path, *options))
    assert names and all("[dm-linux-" in name for name in names)


GUEST = """
@pytest.mark.parametrize("guest", ["{guest}"], indirect=True)
@pytest.mark.qemu
@rtc_plans(plan_sets.{plans})
def test_there(plan, vrtc, guest):
    assert plan.system == guest == "{guest}"
"""


def test_a_scenario_can_override_the_system(tmp_path: Path) -> None:
    text = IMPORTS + GUEST.format(guest="linux", plans="silent_registers")
    done = pytest_on(tmp_path, *scenario(tmp_path, text))
    assert "4 passed" in done.stdout and done.returncode == 0, done.stdout + done.stderr


def test_a_plan_that_takes_an_operating_system_is_refused_elsewhere(tmp_path: Path) -> None:
    text = IMPORTS + GUEST.format(guest="bare", plans="hwclock('pc')")
    done = pytest_on(tmp_path, *scenario(tmp_path, text))
    assert "hwclock-pc-1 is for guest linux" in done.stdout + done.stderr
    assert done.returncode != 0


# -- what the bench has not -----------------------------------------------------------------------------------


def test_what_the_bench_has_no_guest_for_is_skipped_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "bench.yaml").write_text(bench_text(), encoding="utf-8")
    text = IMPORTS + USES_VRTC.replace("'hv'", "'dm'").replace("hv-silent", "silent")
    done = pytest_on(tmp_path, *scenario(tmp_path, text), "--bench", str(tmp_path / "bench.yaml"))
    assert "the bench test has no guest with vrtc: hv" in done.stdout, done.stdout + done.stderr
    assert re.search(r"\b2 passed, 2 skipped", done.stdout) and done.returncode == 0


def test_a_replay_for_a_vrtc_that_the_bench_has_not_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bench.yaml").write_text(bench_text(), encoding="utf-8")
    (tmp_path / "plans.yaml").write_text(
        dump_plans([Plan(id="a", vrtc="hv", actions=(WriteRegister(index=0, value=1),))], 1), encoding="utf-8"
    )
    options = ("--bench", str(tmp_path / "bench.yaml"), "--rtc-plan", str(tmp_path / "plans.yaml"))
    done = pytest_on(tmp_path, "scenarios", "-m", "qemu", *options)
    assert "the bench test has no guest with the vRTC hv, as a needs" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 11


# -- where reports go ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [("-o", "testpaths=scenarios"), ("scenarios/test_replay.py",)])
def test_a_run_of_scenarios_has_a_run_directory_for_its_reports(given: tuple[str, ...], tmp_path: Path) -> None:
    done = pytest_on(tmp_path, *given, "-k", "nothing_is_called_so")
    assert f"rtc: run directory {tmp_path / 'run'}" in done.stdout, done.stdout
    assert (tmp_path / "run" / "junit.xml").exists()


def test_a_run_of_the_projects_own_tests_has_none_even_where_a_backend_is_named(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, "tests/test_qemu_arguments.py", "-m", "qemu")
    assert "rtc: seed" in done.stdout and "run directory" not in done.stdout
    assert not (tmp_path / "run").exists()


# -- exit status ---------------------------------------------------------------------------------------------

PRODUCT = "ProductFault('p')"
INFRASTRUCTURE = "InfrastructureError('i')"
CONFIGURATION = "ConfigurationError('c')"
FULL_DISK = "OSError(errno.ENOSPC, 'No space left on device')"
OUR_OWN = "AssertionError('a')"


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        ([], 0),
        ([OUR_OWN], 1),
        ([INFRASTRUCTURE, FULL_DISK], 10),
        ([INFRASTRUCTURE, CONFIGURATION], 11),
        ([INFRASTRUCTURE, CONFIGURATION, PRODUCT], 1),
    ],
)
def test_the_exit_status_says_whose_fault_it_was(raised: list[str], status: int, tmp_path: Path) -> None:
    text = "import errno\nfrom harness.errors import *\ndef test_fine():\n    pass\n"
    text += "".join(f"def test_{n}():\n    raise {error}\n" for n, error in enumerate(raised))
    done = pytest_on(tmp_path, *scenario(tmp_path, text))
    assert done.returncode == status, done.stdout + done.stderr


def test_what_a_fixture_raises_counts_like_what_a_test_raises(tmp_path: Path) -> None:
    text = "import pytest\nfrom harness.errors import *\n"
    for name, body in (("up", "raise InfrastructureError('i')"), ("down", "yield\n    raise InfrastructureError('j')")):
        text += f"@pytest.fixture\ndef {name}():\n    {body}\ndef test_{name}({name}):\n    pass\n"
    done = pytest_on(tmp_path, *scenario(tmp_path, text))
    assert "2 errors" in done.stdout
    assert done.returncode == 10, done.stdout


def test_a_wrong_option_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    done = pytest_on(tmp_path, "scenarios", "-m", "qemu", "--rtc-updates", "-1")
    assert done.returncode == 11
    assert "--rtc-updates -1: must be 0 or more" in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


# -- seed, replay and reports ---------------------------------------------------------------------------------


@pytest.mark.qemu
def test_the_seed_stands_in_the_header_and_in_the_record_of_the_run(runs: Runs) -> None:
    assert "rtc: seed 3, bench qemu-only" in runs.seeded.said
    information = runs.seeded.information()
    assert information["seed"] == 3
    assert information["ended"] is not None and information["errors"] == []


@pytest.mark.qemu
def test_the_same_seed_has_a_guest_do_exactly_the_same(runs: Runs) -> None:
    first, second = (run.directory / "bare-1" / "plans.yaml" for run in (runs.seeded, runs.again))
    assert first.read_text(encoding="utf-8") == second.read_text(encoding="utf-8")
    written = [
        [(line["item"], [write[:2] for write in line["writes"]]) for line in run.records("agent.jsonl")[:-1]]
        for run in (runs.seeded, runs.again)
    ]
    assert written[0] == written[1] and len(written[0]) == 2


def test_another_seed_has_it_do_something_else(tmp_path: Path) -> None:
    from fixtures.plan_sets import random_orders

    assert random_orders(3, 10, "dm") == random_orders(3, 10, "dm") != random_orders(4, 10, "dm")


@pytest.mark.qemu
def test_a_replay_does_what_the_file_says_in_its_order_and_nothing_else(runs: Runs) -> None:
    lines = runs.replay.records("agent.jsonl")
    assert [line["item"] for line in lines if line["role"] == "update"] == list(REPLAYED)
    years = [dict(map(tuple, (write[:2] for write in line["writes"])))[9] for line in lines[:3]]
    assert years == [0x21, 0x31, 0x41]
    done = (runs.replay.directory / "bare-1" / "plans.yaml").read_text(encoding="utf-8").partition("plans:")[2]
    assert done == runs.saved.read_text(encoding="utf-8").partition("plans:")[2]
    assert [guest.name for guest in runs.replay.guests()] == ["bare-1"]


@pytest.mark.qemu
def test_junit_and_allure_results_are_in_the_run_directory(runs: Runs) -> None:
    suite = ElementTree.parse(runs.replay.directory / "junit.xml").getroot()
    names = [case.get("name") for case in suite.iter("testcase")]
    assert names[:3] == [f"test_replay[{name}]" for name in REPLAYED]
    assert not list(suite.iter("failure")) and not list(suite.iter("error"))
    results = (runs.replay.directory / "allure-results").glob("*-result.json")
    named = [json.loads(path.read_text(encoding="utf-8"))["fullName"] for path in results]
    assert len([name for name in named if name.endswith("#test_replay")]) == len(REPLAYED)
    assert str(runs.replay.directory / "junit.xml") in runs.replay.said


@pytest.mark.qemu
def test_there_is_one_line_per_update_and_nothing_is_left(runs: Runs) -> None:
    for name in REPLAYED:
        assert len(re.findall(rf"^.*\bpass\b.*\b{name}\b|^.*\b{name}\b.*\bpass\b", runs.replay.said, re.M | re.I)) == 1
    for run in (runs.seeded, runs.again, runs.replay):
        run.assert_nothing_left()
