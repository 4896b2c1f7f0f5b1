"""What the engine makes of lanes that die and of updates that could not be judged.

A real guest cannot be made to do these on demand, so the lanes here are scripted; the desk is the real one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fixtures.session import DEFAULT_BENCH
from harness.bench import load_bench
from harness.deadline import Deadline
from harness.engine import Engine, EngineSettings, Outcome
from harness.engine import engine as engine_module
from harness.engine.launch import GuestParts
from harness.engine.rundir import append_line
from harness.engine.tasks import Task
from harness.engine.work import Work
from harness.errors import ConfigurationError, InfrastructureError
from harness.hosts.local import LocalHost
from harness.judge.verdict import INCONCLUSIVE, PASS, PRODUCT_FAULT, Verdict
from harness.plan import Plan, PlanFile, WriteRegister
from harness.yamlfile import load_yaml_model

PATIENCE = 60.0


class ScriptedLane:
    """A lane without a guest: does what the script for its name says, then ends with what that returns."""

    scripts: dict[str, Callable[[ScriptedLane], InfrastructureError | None]] = {}

    def __init__(self, parts: GuestParts, desk: Work, *others: object) -> None:
        self.name = parts.name
        self.parts = parts
        self.done: list[Plan] = []
        self.failed = False
        self.desk = desk
        self.items: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None: ...

    def join(self) -> None:
        self._thread.join(PATIENCE)

    def take(self) -> Task | None:
        task = self.desk.take(self)  # type: ignore[arg-type]
        if task is not None:
            self.items.append(task.item)
            self.done.append(task.plan)
        return task

    def say(self, item: str, verdict: str, revision: int = 1) -> None:
        """A verdict, as the judge gives it and the lane hands it on."""
        found = Verdict(item, self.name, verdict, "update", revision=revision)
        self.desk.decided(self, found)  # type: ignore[arg-type]

    def pass_all(self) -> None:
        while (task := self.take()) is not None:
            self.say(task.item, PASS)

    def _run(self) -> None:
        error = self.scripts[self.name](self)
        self.failed = error is not None
        self.desk.ended(self, error)  # type: ignore[arg-type]


def plans(count: int) -> list[Plan]:
    return [Plan(id=f"p{n}", actions=(WriteRegister(index=0, value=n),)) for n in range(1, count + 1)]


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[ScriptedLane], InfrastructureError | None]]:
    """The scripts by the names of the lanes."""
    scripts: dict[str, Callable[[ScriptedLane], InfrastructureError | None]] = {}
    monkeypatch.setattr(ScriptedLane, "scripts", scripts)
    monkeypatch.setattr(engine_module, "Lane", ScriptedLane)
    return scripts


@contextmanager
def engine_on(folder: Path, guests: int, work: Sequence[Plan], *, resume: bool = False) -> Iterator[Engine]:
    settings = EngineSettings(run_dir=folder / "run", seed=1, guests=guests, resume=resume)
    with Engine(load_bench(DEFAULT_BENCH), LocalHost(), settings) as engine:
        engine.start(work)
        yield engine


def until(condition: Callable[[], object]) -> None:
    """Look at what the desk knows until it is so."""
    deadline = Deadline(PATIENCE)
    while not condition():
        assert not deadline.expired
        select.select([], [], [], 0.005)


def final(engine: Engine, plan: str) -> Outcome:
    outcome = engine.outcome(plan, PATIENCE)
    assert outcome is not None, f"{plan} never became final"
    return outcome


def test_a_lane_that_dies_leaves_its_work_to_the_others_of_its_kind_what_it_was_at_first(
    scripted: dict[str, Any], tmp_path: Path
) -> None:
    # given two guests, of which one has done an update and dies over its second, before the other has taken any
    items: list[str] = []

    def die(lane: ScriptedLane) -> InfrastructureError:
        first = lane.take()
        assert first is not None
        lane.say(first.item, PASS)
        second = lane.take()
        assert second is not None
        lane.say(second.item, INCONCLUSIVE)
        return InfrastructureError("its QEMU was killed")

    def carry_on(lane: ScriptedLane) -> None:
        until(lambda: lane.desk.errors)
        while (task := lane.take()) is not None:
            items.append(f"{task.before.id} {task.item}" if task.before is not None else task.item)
            lane.say(task.item, PASS)

    scripted.update({"bare-1": die, "bare-2": carry_on})
    with engine_on(tmp_path, 2, plans(4)) as engine:
        outcomes = [final(engine, f"p{n}") for n in (1, 2, 3, 4)]
    # then the loss costs no update: the other one does what it was at, from where its clock stood
    assert items == ["p1 p2~2", "p3", "p4"]
    assert [(o.vm, o.error, o.attempts) for o in outcomes] == [
        ("bare-1", None, 1), ("bare-2", None, 2), ("bare-2", None, 1), ("bare-2", None, 1)
    ]
    assert all(o.verdict is not None and o.verdict.verdict == PASS for o in outcomes)
    assert ["its QEMU was killed" in str(error) for error in engine.errors] == [True]


def test_an_update_that_kills_its_guests_does_not_kill_them_all(scripted: dict[str, Any], tmp_path: Path) -> None:
    def die_of_it(lane: ScriptedLane) -> InfrastructureError | None:
        number = int(lane.name.rpartition("-")[2])
        until(lambda: len(lane.desk.errors) >= number - 1)
        while (task := lane.take()) is not None:
            if task.plan.id == "p1":
                return InfrastructureError(f"{lane.name} died")
            lane.say(task.item, PASS)
        return None

    scripted.update({f"bare-{number}": die_of_it for number in range(1, 5)})
    with engine_on(tmp_path, 4, plans(4)) as engine:
        outcomes = [final(engine, f"p{n}") for n in (1, 2, 3, 4)]
    assert "bare-3 died" in str(outcomes[0].error) and len(engine.errors) == 3
    assert [o.error for o in outcomes[1:]] == [None] * 3


def test_when_all_lanes_are_dead_every_outcome_has_the_true_cause(scripted: dict[str, Any], tmp_path: Path) -> None:
    def die(lane: ScriptedLane) -> InfrastructureError:
        lane.take()
        return InfrastructureError("the first cause")

    def die_later(lane: ScriptedLane) -> InfrastructureError:
        until(lambda: lane.desk.errors)
        lane.take()
        return InfrastructureError("the second cause")

    scripted.update({"bare-1": die, "bare-2": die_later})
    with engine_on(tmp_path, 2, plans(4)) as engine:
        causes = [str(final(engine, f"p{n}").error) for n in (1, 2, 3, 4)]
        assert engine.finished(PATIENCE)
    assert all("the second cause" in cause for cause in causes)
    assert ["first" in str(error) for error in engine.errors] == [True, False]


def test_a_hypervisor_process_that_dies_is_told_at_once_and_once_for_all_its_guests(
    scripted: dict[str, Any], tmp_path: Path
) -> None:
    # given two guests on the hypervisor's vRTC, and one that is not
    work = [each.model_copy(update={"vrtc": "hv"}) for each in plans(2)]
    work.append(Plan(id="other", vrtc="dm", actions=(WriteRegister(index=0, value=9),)))
    at_work = threading.Barrier(2)

    def live_and_die_with_it(lane: ScriptedLane) -> InfrastructureError | None:
        lane.take()
        hypervisor = lane.parts.hypervisor
        assert hypervisor is not None
        if at_work.wait(PATIENCE) == 0:
            # when their process is killed
            os.kill(hypervisor._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        return hypervisor.failure_within(PATIENCE)

    scripted.update({"bare-hv-1": live_and_die_with_it, "bare-hv-2": live_and_die_with_it})
    scripted["bare-1"] = ScriptedLane.pass_all
    with engine_on(tmp_path, 3, work) as engine:
        lost = [final(engine, name) for name in ("p1", "p2")]
        fine = final(engine, "other")
        recorded = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["errors"]
    # then it is the cause of both, by name, and one error of the run's own
    assert {str(outcome.error) for outcome in lost} == {recorded[0]["text"]}
    assert "the hypervisor process of this run ended with status -9" in recorded[0]["text"]
    assert [(error["class"], error["vm"]) for error in recorded] == [("infrastructure", None)]
    assert fine.error is None
    assert not (tmp_path / "run" / "hypervisor.sock").exists()


def test_without_a_guest_that_needs_it_there_is_no_hypervisor_process(scripted: dict[str, Any], tmp_path: Path) -> None:
    scripted["bare-1"] = ScriptedLane.pass_all
    with engine_on(tmp_path, 1, plans(1)) as engine:
        final(engine, "p1")
    assert not (tmp_path / "run" / "hypervisor.log").exists()


def test_a_guest_of_another_kind_does_not_take_over(scripted: dict[str, Any], tmp_path: Path) -> None:
    work = [*plans(2), Plan(id="q", machine="q35", actions=(WriteRegister(index=0, value=9),))]
    dead = threading.Event()

    def carry_on(lane: ScriptedLane) -> None:
        assert dead.wait(PATIENCE)
        lane.pass_all()

    scripted.update({"bare-1": lambda lane: InfrastructureError("never booted"), "q35-1": carry_on})
    with engine_on(tmp_path, 2, work) as engine:
        lost = [final(engine, f"p{n}") for n in (1, 2)]
        dead.set()
        other = final(engine, "q")
    assert all("never booted" in str(outcome.error) for outcome in lost)
    assert (other.vm, other.error) == ("q35-1", None)


def test_in_a_resumed_run_a_guest_that_is_lost_costs_no_update_that_earlier_attempts_were_spent_on(
    scripted: dict[str, Any], tmp_path: Path
) -> None:
    # given a run whose only update could not be judged three times
    def never(lane: ScriptedLane) -> None:
        while (task := lane.take()) is not None:
            lane.say(task.item, INCONCLUSIVE)
            said = Verdict(task.item, lane.name, INCONCLUSIVE, "update")
            append_line(lane.parts.folder / "verdicts.jsonl", said.as_json())

    scripted["bare-1"] = never
    with engine_on(tmp_path, 1, plans(1)) as engine:
        assert final(engine, "p1").attempts == 3
    # when it is resumed, and a guest dies over it
    items: list[str] = []

    def die(lane: ScriptedLane) -> InfrastructureError:
        while (task := lane.take()) is None or task.plan.id != "p1":
            pass
        return InfrastructureError("its QEMU was killed")

    def carry_on(lane: ScriptedLane) -> None:
        until(lambda: lane.desk.errors)
        lane.pass_all()
        items.extend(lane.items)

    scripted.update({"bare-2": die, "bare-3": carry_on})
    with engine_on(tmp_path, 2, plans(2), resume=True) as engine:
        outcome = final(engine, "p1")
    # then another one does it
    assert items[0] == "p1~5"
    assert (outcome.vm, outcome.error) == ("bare-3", None)


def test_an_inconclusive_update_is_repeated_under_a_name_of_its_own_and_counted(
    scripted: dict[str, Any], tmp_path: Path
) -> None:
    # given a guest whose first update cannot be judged at the first try
    items: list[str] = []

    def stumble(lane: ScriptedLane) -> None:
        task = lane.take()
        assert task is not None
        lane.say(task.item, INCONCLUSIVE)
        lane.pass_all()
        items.extend(lane.items)

    scripted["bare-1"] = stumble
    with engine_on(tmp_path, 1, plans(3)) as engine:
        outcomes = [final(engine, f"p{n}") for n in (1, 2, 3)]
        assert engine.finished(PATIENCE)
    # then it is carried out again before anything else, and its second verdict counts
    assert items == ["p1", "p1~2", "p2", "p3"]
    assert [(o.attempts, o.error) for o in outcomes] == [(2, None), (1, None), (1, None)]
    assert outcomes[0].verdict is not None and outcomes[0].verdict.item == "p1~2"
    assert engine.inconclusive_share == pytest.approx(1 / 4)


def test_an_update_that_is_inconclusive_every_time_is_given_up_as_infrastructure(
    scripted: dict[str, Any], tmp_path: Path
) -> None:
    items: list[str] = []

    def never(lane: ScriptedLane) -> None:
        while (task := lane.take()) is not None:
            lane.say(task.item, INCONCLUSIVE)
        items.extend(lane.items)

    scripted["bare-1"] = never
    with engine_on(tmp_path, 1, plans(1)) as engine:
        outcome = final(engine, "p1")
    assert items == ["p1", "p1~2", "p1~3"]
    assert isinstance(outcome.error, InfrastructureError)
    assert engine.inconclusive_share == 1.0


def test_a_pass_that_a_later_verdict_revises_is_a_fault_with_a_replay_of_it_and_the_one_before(
    scripted: dict[str, Any], tmp_path: Path
) -> None:
    def revise(lane: ScriptedLane) -> None:
        lane.pass_all()
        lane.say("p2", PRODUCT_FAULT, revision=2)

    scripted["bare-1"] = revise
    with engine_on(tmp_path, 1, plans(3)) as engine:
        outcome = final(engine, "p2")
        assert final(engine, "p1").replay is None
    assert outcome.verdict is not None and outcome.verdict.verdict == PRODUCT_FAULT
    assert outcome.replay is not None
    assert [plan.id for plan in load_yaml_model(outcome.replay, PlanFile).plans] == ["p1", "p2"]


def test_a_plan_for_a_machine_that_the_bench_has_not_is_refused_before_anything_starts(
    scripted: dict[str, Any], tmp_path: Path
) -> None:
    bench = tmp_path / "bench.yaml"
    bench.write_text("version: 1\nname: b\nhost: {kind: local}\nguests: [{name: pc}]\n", encoding="utf-8")
    settings = EngineSettings(run_dir=tmp_path / "run", seed=1, guests=1)
    with (
        Engine(load_bench(bench), LocalHost(), settings) as engine,
        pytest.raises(ConfigurationError, match="q35"),
    ):
        engine.start([Plan(id="q", machine="q35", actions=(WriteRegister(index=0, value=9),))])
