"""What Allure is told of a run: titles, labels, categories, results of a kept run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigurationError, InfrastructureError
from reports.allure_details import categories, labels, parameters, title, write_result_files
from reports.allure_results import write_results
from tests.synthetic_run import SyntheticRun


@pytest.fixture
def run(tmp_path: Path) -> SyntheticRun:
    return SyntheticRun(tmp_path / "run")


def category_of(status: str, message: str) -> str:
    """The first category that takes it, matching the whole message as Allure 2 does."""
    for category in categories():
        pattern = category.get("messageRegex", r"[\s\S]*")
        if status in category["matchedStatuses"] and re.fullmatch(pattern, message):
            return str(category["name"])
    return ""


@pytest.mark.parametrize(
    ("status", "message", "name"),
    [
        ("failed", "harness.errors.ProductFault: the event came\ntwice", "Product faults"),
        ("broken", f"harness.errors.InfrastructureError: {InfrastructureError('x')}", "Infrastructure"),
        ("broken", f"harness.errors.ConfigurationError: {ConfigurationError('x')}", "Configuration"),
        ("skipped", "Skipped: inconclusive: a stall of 0.4 s", "Inconclusive"),
        ("broken", "harness.errors.InfrastructureError: a-1 could not be judged: a stall", "Inconclusive"),
        ("skipped", "known vRTC defect broken-unhalt: no event", "Known vRTC defects"),
        ("broken", "KeyError: 'x'", "Errors of the harness itself"),
        ("passed", "", ""),
    ],
)
def test_every_outcome_has_its_category(status: str, message: str, name: str) -> None:
    assert category_of(status, message) == name


def test_title_labels_and_parameters_tell_the_update(run: SyntheticRun) -> None:
    verdict = run.update(
        "random_order_halted-003", mode="halted", verdict="known vRTC defect", defect="broken-unhalt"
    )

    assert title(verdict) == "random_order_halted-003: halted, order 32 09 08 07 04 02 00, +86400 s"
    told = labels(verdict)
    assert (told["story"], told["feature"], told["defect"]) == (
        "random_order_halted",
        "RTC halted",
        "broken-unhalt",
    )
    assert parameters(verdict)["ms after due"] == "0.31"


def test_the_vrtc_is_a_label_and_a_parameter_where_it_is_known(run: SyntheticRun) -> None:
    verdict = run.update("a-0")

    assert (labels(verdict, "hv")["vrtc"], parameters(verdict, "hv")["vRTC"]) == ("hv", "hv")
    assert "vrtc" not in labels(verdict) and "vRTC" not in parameters(verdict)


def test_a_fault_is_more_severe_than_a_pass(run: SyntheticRun) -> None:
    assert labels(run.update("a-0", verdict="product fault"))["severity"] == "critical"
    assert labels(run.update("a-1"))["severity"] == "normal"


def test_the_environment_holds_seed_and_versions_and_no_command_line(
    run: SyntheticRun, tmp_path: Path
) -> None:
    run.info["command"] = ["pytest", "--password=hunter2"]
    run.info["versions"]["odd=key"] = "a\\b"
    run.save()

    write_result_files(tmp_path / "results", run.path)

    told = (tmp_path / "results" / "environment.properties").read_text()
    assert "seed=42\n" in told
    assert "qemu=7.2.22\n" in told
    assert "odd\\=key=a\\\\b\n" in told
    assert "hunter2" not in told
    assert json.loads((tmp_path / "results" / "categories.json").read_text()) == categories()


def test_a_kept_run_gives_results_with_one_attachment_each(run: SyntheticRun, tmp_path: Path) -> None:
    run.update("a-000", number=0)
    run.update("a-001", number=1, verdict="product fault", diagnosis="no event came", latency_ms=None)
    run.end({"class": "infrastructure", "vm": "vm0", "text": "QEMU died\nat once"})
    results = tmp_path / "results"

    written = [write_results(run.path, results) for _ in range(2)]

    told = [json.loads(path.read_text()) for path in results.glob("*-result.json")]
    assert written == [3, 3]
    assert sorted(result["status"] for result in told) == ["broken", "failed", "passed"]
    fault = next(result for result in told if result["status"] == "failed")
    assert fault["statusDetails"]["message"] == "product fault: no event came"
    assert "no event came" in (results / fault["attachments"][0]["source"]).read_text()
    good = next(result for result in told if result["status"] == "passed")
    assert good["stop"] - good["start"] == 1000
    assert len(list(results.glob("*-attachment.html"))) == 2


def test_a_pytest_run_carries_title_labels_and_the_bundle(run: SyntheticRun, tmp_path: Path) -> None:
    verdict = run.update("random_order_running-001")
    test = tmp_path / "test_one.py"
    test.write_text(
        "import json\nfrom reports.allure_details import attach, describe\n"
        f"def test_one():\n    verdict = json.loads({json.dumps(verdict)!r})\n"
        f"    describe(verdict)\n    attach({str(run.path)!r}, verdict)\n"
    )
    results = tmp_path / "results"

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(test)]
    subprocess.run(
        [*command, f"--alluredir={results}"], cwd=Path.cwd(), check=True, capture_output=True, timeout=60
    )

    (told,) = [json.loads(path.read_text()) for path in results.glob("*-result.json")]
    assert told["name"] == title(verdict)
    assert {"name": "verdict", "value": "pass"} in told["labels"]
    (attachment,) = told["attachments"]
    assert attachment["type"] == "text/html"
    assert "<svg" in (results / attachment["source"]).read_text()


def test_describing_without_allure_results_does_nothing(run: SyntheticRun) -> None:
    from reports.allure_details import attach, describe

    verdict: dict[str, Any] = run.update("a-000")

    describe(verdict)
    attach(run.path, verdict)
