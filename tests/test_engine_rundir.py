"""The run directory: whole at every moment, and every file of it readable by whom it is for."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.engine import rundir
from harness.engine.rundir import RunDirectory, append_line
from harness.errors import ConfigurationError, InfrastructureError
from harness.plan import Plan, PlanFile, WriteRegister
from harness.yamlfile import load_yaml_model


def plan(name: str) -> Plan:
    return Plan(id=name, actions=(WriteRegister(index=0, value=len(name)),))


def information(run: RunDirectory) -> dict[str, Any]:
    found = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_a_new_run_says_at_once_what_it_is(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "deep" / "run", 42, {"rtc_base": 1_718_452_800})
    found = information(run)
    assert (found["format"], found["seed"], found["rtc_base"]) == (1, 42, 1_718_452_800)
    assert (found["ended"], found["guests"], found["errors"]) == (None, {}, [])
    run.end()
    assert information(run)["ended"] is not None


def test_a_directory_that_holds_a_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    RunDirectory(tmp_path, 1, {})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigurationError, match="holds a run already"):
        RunDirectory(tmp_path, 2, {})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_directory_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        RunDirectory(tmp_path / "file" / "run", 1, {})


def test_run_json_is_whole_whenever_it_is_read_while_many_write(tmp_path: Path) -> None:
    # given a run that many threads add to
    run = RunDirectory(tmp_path, 1, {})

    def add(name: str) -> None:
        for number in range(20):
            run.add_error("infrastructure", name, f"{number} " + "x" * 500)
            run.add_guest(name, {"number": number})
        run.add_versions({name: "1"})

    threads = [threading.Thread(target=add, args=(f"vm{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    # when it is read over and over meanwhile, then it is whole each time, and nothing is ever lost from it
    counts = [0]
    while any(thread.is_alive() for thread in threads):
        counts.append(len(information(run)["errors"]))
    for thread in threads:
        thread.join()
    assert counts == sorted(counts)
    found = information(run)
    assert len(found["errors"]) == 80 and len(found["guests"]) == 4
    assert {"vm0", "vm1", "vm2", "vm3", "harness", "python"} <= set(found["versions"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "run.json"]


def test_a_failed_save_leaves_the_last_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(tmp_path, 1, {})
    before = (tmp_path / "run.json").read_bytes()

    def full(path: Path, text: str, **options: object) -> int:
        with path.open("w", encoding="utf-8") as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InfrastructureError, match="No space left"):
        run.end()
    assert (tmp_path / "run.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "run.json"]


def test_after_every_plan_that_is_appended_the_plan_file_can_be_loaded(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, 42, {})
    plans = [plan(f"p{n}") for n in range(5)]
    for number, each in enumerate(plans, 1):
        run.append_plan("vm0", each)
        loaded = load_yaml_model(tmp_path / "vm0" / "plans.yaml", PlanFile)
        assert loaded.plans == tuple(plans[:number])
        assert loaded.seed == 42


def test_every_guest_has_a_plan_file_of_its_own(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, 1, {})
    run.append_plan("vm0", plan("a"))
    run.append_plan("vm1", plan("b"))
    assert load_yaml_model(tmp_path / "vm1" / "plans.yaml", PlanFile).plans == (plan("b"),)


def test_a_plan_that_the_disk_does_not_take_is_an_infrastructure_error(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, 1, {})
    (run.guest("vm0") / "plans.yaml").symlink_to("/dev/full")
    with pytest.raises(InfrastructureError, match="No space left"):
        run.append_plan("vm0", plan("a"))


def test_a_replay_has_the_plan_and_what_put_the_clock_where_it_was(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, 42, {})
    path = run.save_replay("vm0", [plan("before"), plan("faulty")])
    assert path == tmp_path / "vm0" / "replay" / "faulty.yaml"
    loaded = load_yaml_model(path, PlanFile)
    assert (loaded.seed, loaded.plans) == (42, (plan("before"), plan("faulty")))
    # and a fault found anew replaces it
    run.save_replay("vm0", [plan("faulty")])
    assert load_yaml_model(path, PlanFile).plans == (plan("faulty"),)


def test_a_line_is_there_whole_when_the_call_returns(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    for number in range(3):
        append_line(path, {"number": number, "text": "zwölf\nlines"})
        lines = path.read_bytes().splitlines()
        assert [json.loads(line)["number"] for line in lines] == list(range(number + 1))
    with pytest.raises(InfrastructureError, match="No space left"):
        append_line(Path("/dev/full"), {})


def test_replacing_a_file_never_shows_half_of_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = ["a" * 100_000, "b" * 100_000]
    rundir.write_whole(path, texts[0])
    done = threading.Event()

    def write() -> None:
        for number in range(100):
            rundir.write_whole(path, texts[number % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert path.read_text(encoding="utf-8") in texts
    writer.join()
