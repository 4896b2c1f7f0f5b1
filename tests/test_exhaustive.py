"""A run that is cut goes on where it stopped: after Ctrl-C and after a power cut, and as many times as one likes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from harness.engine.former import read_former
from harness.engine.lane import LINGER_NS
from tests.chain import PATIENCE, ROOT, Run, running

ORDERS = "every-running-000 or every-running-001"
"""19 orders, each on one vRTC."""

SIGNALS = {"dm": signal.SIGINT, "hv": signal.SIGKILL}


@dataclass
class Cut:
    """A run that was cut, what was known for good then, and what came of it when it was resumed."""

    run: Run
    final: set[str] = field(default_factory=set)
    guests: list[Path] = field(default_factory=list)
    refused: list[subprocess.CompletedProcess[str]] = field(default_factory=list)
    resumed: subprocess.Popen[str] | None = None
    said: str = ""


def resume(run: Path, *options: str) -> subprocess.Popen[str]:
    """`./lab exhaustive --resume RUN`, in a run of so few updates reporting as in one of thousands."""
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "fixtures.options"]
    command += ["-p", "tests.few_are_many", "-o", "testpaths=scenarios"]
    command += ["-p", "no:cacheprovider", "-m", "exhaustive", "--no-html", "--resume", str(run), *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    )


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, _ = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, out)


def plans_of(run: Run) -> set[str]:
    prefix = "" if "dm" in run.information()["options"]["keyword"] else "hv-"
    return {f"{prefix}every-running-{number:04}" for number in range(1, 20)}


def known_for_good(run: Run) -> set[str]:
    return set(read_former(run.directory, plans_of(run), LINGER_NS).final)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cut]]:
    """Two runs side by side, then resumed: on the device model's vRTC one that gets a Ctrl-C, the other is killed."""
    cuts: dict[str, Cut] = {}
    with ExitStack() as stack:
        for vrtc in SIGNALS:
            options = ["-p", "tests.few_are_many", "-m", "exhaustive", "-k", f"{vrtc}-bare and ({ORDERS})"]
            options += ["--rtc-guests", "2"]
            cuts[vrtc] = Cut(stack.enter_context(running(tmp_path_factory.mktemp(vrtc), *options)))
        for vrtc, found in cuts.items():
            run = found.run
            run.until(lambda run=run: run.records("agent.jsonl"), "guest at work")  # type: ignore[misc]
            if vrtc == "dm":
                found.refused.append(finished(resume(run.directory)))
            run.until(lambda run=run: len(known_for_good(run)), "verdict known for good")  # type: ignore[misc]
            os.kill(run.process.pid, SIGNALS[vrtc])
        for found in cuts.values():
            found.run.process.wait(PATIENCE)
            found.run.assert_nothing_left() if found is cuts["dm"] else None
            found.final, found.guests = known_for_good(found.run), found.run.guests()
            found.resumed = resume(found.run.directory, "--rtc-guests", "10")
        for found in cuts.values():
            assert found.resumed is not None
            found.said = finished(found.resumed).stdout
        yield cuts


@pytest.fixture(params=list(SIGNALS), ids=[each.name for each in SIGNALS.values()])
def resumed(request: pytest.FixtureRequest, cut: dict[str, Cut]) -> Cut:
    found: Cut = cut[request.param]
    assert found.resumed is not None and found.resumed.returncode == 0, found.said
    return found


def results(run: Run) -> Counter[str]:
    """How the items of the JUnit file ended."""
    cases = ElementTree.parse(run.directory / "junit.xml").getroot().iter("testcase")
    return Counter(case[0].tag if len(case) and case[0].tag != "properties" else "passed" for case in cases)


def carried_out(guest: Path) -> list[str]:
    """The plans that a guest was told to carry out as such."""
    lines = (guest / "agent.jsonl").read_text("utf-8").splitlines() if (guest / "agent.jsonl").exists() else []
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [str(record["plan"]) for record in records if record["role"] == "update"]


def test_what_is_known_for_good_is_not_done_again_and_all_the_rest_is(resumed: Cut) -> None:
    again = [plan for guest in resumed.run.guests() if guest not in resumed.guests for plan in carried_out(guest)]
    assert resumed.final
    assert sorted(again) == sorted(plans_of(resumed.run) - resumed.final)


def test_all_items_are_reported_and_each_plan_is_counted_once(resumed: Cut) -> None:
    assert results(resumed.run) == {"passed": 19}
    assert re.search(r"19 updates judged .*\n", resumed.said), resumed.said
    assert re.search(r"^pass +19 +19$", resumed.said, re.MULTILINE), resumed.said
    assert "(resumed; session 2)" in resumed.said
    information = resumed.run.information()
    assert len(information["former_sessions"]) == 1 and information["seed"] == 3
    assert information["ended"] and not information["errors"]


def test_the_whole_run_can_be_judged_again(resumed: Cut) -> None:
    for module in ("harness.judge", "reports"):
        done = subprocess.run(
            [sys.executable, "-m", module, str(resumed.run.directory)],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_order_was_written_from_the_date_that_is_meant(resumed: Cut) -> None:
    """Whether another order left the clock there or it was set beforehand."""
    run = resumed.run
    starts = {}
    for path in run.directory.glob("*/plans.yaml"):
        for plan in re.findall(r"^- id: (\S+)[\s\S]*?  start: '?([^'\n]+)", path.read_text("utf-8"), re.MULTILINE):
            starts[plan[0]] = plan[1]
    judged = [each for each in run.records("verdicts.jsonl") if each["role"] == "update" and each["verdict"] == "pass"]
    assert {verdict["item"].partition("~")[0] for verdict in judged} == plans_of(run)
    for verdict in judged:
        start = datetime.fromisoformat(starts[verdict["item"].partition("~")[0]]).replace(tzinfo=timezone.utc)
        assert 0 <= verdict["expected"][0]["last_time"] - start.timestamp() <= 20, verdict["item"]


def test_of_a_large_run_passes_are_counted_and_not_listed(resumed: Cut) -> None:
    assert re.search(r"of 19 updates \(\d+%\)  .* a second  \d+ pass", resumed.said), resumed.said
    assert not re.search(r"^pass +bare-", resumed.said, re.MULTILINE), resumed.said
    assert not list(resumed.run.directory.glob("allure-results/*")), "five files for each item"


def test_a_run_that_is_still_going_on_is_not_resumed(cut: dict[str, Cut]) -> None:
    (refused,) = cut["dm"].refused
    assert refused.returncode == 11, refused.stdout
    assert "still going on, in another process" in refused.stdout


# -- once all is known -------------------------------------------------------------------------------------------


def test_a_complete_run_does_nothing_but_report_again(resumed: Cut) -> None:
    before = resumed.run.guests()
    done = finished(resume(resumed.run.directory))
    assert done.returncode == 0, done.stdout
    assert results(resumed.run) == {"passed": 19} and "19 updates judged" in done.stdout
    assert resumed.run.guests() == before


def test_a_fault_is_reported_as_it_was(cut: dict[str, Cut]) -> None:
    # given a run that had found a fault before it was cut
    path = next(cut["hv"].run.directory.glob("*/verdicts.jsonl"))
    verdict = next(each for each in map(json.loads, path.read_text("utf-8").splitlines()) if each["role"] == "update")
    fault = {"verdict": "product fault", "faults": ["late"], "diagnosis": "told by a test", "revision": 9}
    text = path.read_text("utf-8")
    path.write_text(text + json.dumps({**verdict, **fault}) + "\n", encoding="utf-8")
    # when it is resumed
    try:
        done = finished(resume(cut["hv"].run.directory))
    finally:
        path.write_text(text, encoding="utf-8")
    # then the item fails as it did
    assert done.returncode == 1 and "1 failed, 18 passed" in done.stdout, done.stdout
    assert "told by a test" in done.stdout and "./lab qemu --rtc-plan" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rtc-seed", "4"), "--rtc-seed 4: the run to be resumed has 3"),
        (("-k", "halted"), "-k halted: the run to be resumed has dm-bare and"),
        (("--run-dir", "elsewhere"), "--run-dir elsewhere: --resume goes on in"),
        (("scenarios/test_windows.py",), "the run to be resumed was given others"),
    ],
)
def test_an_option_that_contradicts_the_run_is_refused(
    options: tuple[str, ...], said: str, cut: dict[str, Cut]
) -> None:
    done = finished(resume(cut["dm"].run.directory, *options))
    assert done.returncode == 11 and said in done.stdout, done.stdout


def test_a_bench_that_has_changed_is_refused(cut: dict[str, Cut]) -> None:
    path = cut["dm"].run.directory / "run.json"
    text = path.read_text("utf-8")
    path.write_text(re.sub(r'"bench_sha256": "\w+"', '"bench_sha256": "another"', text), encoding="utf-8")
    try:
        done = finished(resume(cut["dm"].run.directory))
    finally:
        path.write_text(text, encoding="utf-8")
    assert done.returncode == 11 and "qemu.yaml does not say what it said when the run began" in done.stdout


# -- what is no run ------------------------------------------------------------------------------------------------


def test_what_is_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    wrong = {
        "nowhere": "is no run directory: there is no run.json in it",
        "damaged": "run.json cannot be read",
        "old": "does not say what it was asked for",
        "attached": "is about a guest that was only watched",
    }
    texts = {"damaged": "{", "old": '{"guests": {}}', "attached": '{"guests": {}, "attached": {}}'}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text, encoding="utf-8")
    asked = {name: resume(tmp_path / name) for name in wrong}
    for name, process in asked.items():
        done = finished(process)
        assert done.returncode == 11 and wrong[name] in done.stdout, done.stdout
