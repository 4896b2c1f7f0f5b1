"""`python -m reports` on kept runs: what it prints and how it exits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reports.__main__ import main
from tests.synthetic_run import SyntheticRun


@pytest.fixture
def run(tmp_path: Path) -> SyntheticRun:
    return SyntheticRun(tmp_path / "run")


def test_a_good_run_exits_with_0(run: SyntheticRun, capsys: pytest.CaptureFixture[str]) -> None:
    run.update("a-000")
    run.end()

    assert main([str(run.path)]) == 0
    assert "1 update judged" in capsys.readouterr().out


def test_a_product_fault_exits_with_1_even_beside_other_errors(run: SyntheticRun) -> None:
    run.update("a-000", verdict="product fault")
    run.end({"class": "infrastructure", "vm": "vm0", "text": "QEMU died"})

    assert main([str(run.path), "lines"]) == 1


@pytest.mark.parametrize(("expired", "status"), [(False, 0), (True, 1)])
def test_a_known_defect_exits_with_1_where_it_is_known_no_longer(
    expired: bool, status: int, run: SyntheticRun
) -> None:
    run.update("a-000", verdict="known vRTC defect", defect="broken-unhalt", latency_ms=None)
    run.info["known_defects"] = [{"name": "broken-unhalt", "vrtc": "dm", "expired": expired}]
    run.end()

    assert main([str(run.path)]) == status


def test_only_infrastructure_errors_exit_with_10(run: SyntheticRun) -> None:
    run.update("a-000")
    run.end({"class": "infrastructure", "vm": "vm0", "text": "QEMU died"})

    assert main([str(run.path), "summary"]) == 10


def test_damaged_records_exit_with_10(run: SyntheticRun) -> None:
    run.update("a-000")
    run.append("vm0", "verdicts.jsonl", "rubbish\n")
    run.end()

    assert main([str(run.path)]) == 10


def test_a_known_defect_is_no_failure(run: SyntheticRun) -> None:
    run.update("a-000", verdict="known vRTC defect", defect="broken-unhalt")
    run.end()

    assert main([str(run.path)]) == 0


def test_a_configuration_error_of_the_run_exits_with_11(run: SyntheticRun) -> None:
    run.end({"class": "configuration", "vm": "", "text": "bench.yaml:3: unknown key"})

    assert main([str(run.path)]) == 11


def test_no_such_run_is_told_as_a_configuration_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none")]) == 11
    assert "configuration error: run directory" in capsys.readouterr().err


def test_explaining_prints_one_update(run: SyntheticRun, capsys: pytest.CaptureFixture[str]) -> None:
    run.update("a-000", verdict="product fault", diagnosis="came twice")

    assert main([str(run.path), "explain", "a-000"]) == 1
    assert "came twice" in capsys.readouterr().out
    assert main([str(run.path), "explain", "b-000"]) == 11


def test_evidence_is_written_and_named(run: SyntheticRun, capsys: pytest.CaptureFixture[str]) -> None:
    run.update("a-000")

    assert main([str(run.path), "evidence", "a-000"]) == 0
    written = Path(capsys.readouterr().out.strip())
    assert written == run.path / "evidence" / "vm0-a-000.html"
    assert b"<svg" in written.read_bytes()
    assert main([str(run.path), "evidence", "a-000", "--output", str(run.path / "none" / "x.html")]) == 10


def test_a_bad_command_line_exits_with_11_and_a_closed_pipe_quietly(run: SyntheticRun) -> None:
    for number in range(400):
        run.update(f"a-{number:03d}", number=number)
    command = [sys.executable, "-m", "reports", str(run.path)]

    bad = subprocess.run([*command, "bogus"], capture_output=True, text=True, timeout=60, check=False)
    with subprocess.Popen([*command, "lines"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as cut:
        assert cut.stdout is not None
        assert cut.stderr is not None
        cut.stdout.readline()
        cut.stdout.close()
        told = cut.stderr.read()

    assert bad.returncode == 11
    assert "invalid choice" in bad.stderr
    assert told == b""
