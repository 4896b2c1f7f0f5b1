"""A run spread over several benches: who gets what, what is refused, and real ones on sshds of the loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from fixtures.spread import load_benches, refuse_other_workers, shares
from harness.bench import Bench, load_bench
from harness.errors import ConfigurationError
from harness.plan import Plan, SetClock
from tests.command_lines import naming
from tests.docs_support import ROOT
from tests.vm_event_support import eventually

PATIENCE = 120.0
REHEARSAL = ROOT / "fixtures" / "benches" / "rehearsal-loopback.yaml"


def bench_file(folder: Path, name: str, **changes: Any) -> Path:
    """The rehearsal on the loopback under another name: with an sshd of its own. options: of its device model."""
    document = yaml.safe_load(REHEARSAL.read_text())
    # To this loader `on` and `off` are truth values.
    document["power"] = {{True: "on", False: "off"}.get(key, key): value for key, value in document["power"].items()}
    options = changes.pop("options", "--full-events")
    for guest in document["guests"]:
        words = guest["device_model"]["arguments"]
        words[:] = [word.replace("--full-events", options) for word in words]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**document, "name": name, "quiet": {"seconds": 0.3}, **changes}))
    return path


def plans(count: int) -> list[Plan]:
    return [
        Plan(id=f"p{number}", actions=(SetClock(mode="running", value="2020-01-01T00:00:00"),))  # type: ignore[arg-type]
        for number in range(count)
    ]


# -- who gets what -------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> list[Bench]:
    return [load_bench(bench_file(tmp_path, name)) for name in ("one", "two")]


def test_what_all_can_do_is_shared_out_evenly_and_always_alike(two: list[Bench]) -> None:
    found = shares(plans(40), two, lambda number, bench: True, None)

    assert found.count(0) == found.count(1) == 20
    assert found == shares(plans(40), two, lambda number, bench: True, None)


def test_what_one_can_do_alone_goes_there_and_the_other_gets_the_rest(two: list[Bench]) -> None:
    found = shares(plans(30), two, lambda number, bench: number >= 10 or bench is two[1], None)

    assert found[:10] == [1] * 10
    assert found.count(0) == found.count(1) == 15


def test_what_nobody_can_do_is_the_firsts_to_tell_and_takes_no_time(two: list[Bench]) -> None:
    found = shares(plans(30), two, lambda number, bench: number < 20, None)

    assert found[20:] == [0] * 10
    assert found[:20].count(0) == 10


def test_a_bench_with_more_guests_at_once_gets_more(tmp_path: Path) -> None:
    benches = [load_bench(bench_file(tmp_path, name, parallel=count)) for name, count in (("one", 1), ("two", 3))]

    assert shares(plans(40), benches, lambda number, bench: True, None).count(1) == 30
    assert shares(plans(40), benches, lambda number, bench: True, 2).count(1) == 20  # --rtc-guests 2


# -- what is refused -----------------------------------------------------------------------------------------------


def configuration(workers: int, **options: Any) -> Any:
    usual = {"rtc_plan": None, "resume": None, "service_socket": None, "event_socket": None}
    spread = {"dist": "load" if workers else "no", "tx": ["popen"] * workers}
    return SimpleNamespace(option=SimpleNamespace(**{**usual, **spread, **options}))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_it_takes_one_worker_a_bench(two: list[Bench], workers: int) -> None:
    with pytest.raises(ConfigurationError, match=f"2 benches and {'-n' if workers else 'no -n'}") as caught:
        refuse_other_workers(configuration(workers), two)
    assert "give -n 2" in str(caught.value)


def test_several_workers_for_one_bench_are_refused(two: list[Bench]) -> None:
    with pytest.raises(ConfigurationError, match="-n 2 with the one bench one: a bench is one worker's"):
        refuse_other_workers(configuration(2), two[:1])


@pytest.mark.parametrize("option", ["rtc_plan", "resume", "service_socket", "event_socket"])
def test_what_is_about_one_guest_or_one_run_is_refused(two: list[Bench], option: str) -> None:
    with pytest.raises(ConfigurationError, match="not with several benches"):
        refuse_other_workers(configuration(2, **{option: "x"}), two)
    refuse_other_workers(configuration(2), two)
    refuse_other_workers(configuration(0, **{option: "x"}), two[:1])


def test_two_benches_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = [bench_file(tmp_path, "one"), bench_file(tmp_path / "other", "one")]

    with pytest.raises(ConfigurationError, match="are both called one"):
        load_benches([str(file) for file in files], REHEARSAL)


# -- real runs -----------------------------------------------------------------------------------------------------


@dataclass
class Spread:
    """Where real runs are: their benches, and the caches in which their sshds and locks are."""

    folder: Path
    runs: list[subprocess.Popen[str]] = field(default_factory=list)

    def files(self, **two: Any) -> list[Path]:
        """two: what the second one has of its own."""
        return [bench_file(self.folder, "one"), bench_file(self.folder, "two", **two)]

    def start(self, name: str, benches: Sequence[Path], *options: str) -> subprocess.Popen[str]:
        """A run with these benches, as many workers, and six updates of a bare guest."""
        selected = "test_random_order and dm-bare and (running-000 or halted-000)"
        words = [word for bench in benches for word in ("--bench", str(bench))]
        workers = ["-n", str(len(benches))] if len(benches) > 1 else []
        run = subprocess.Popen(
            [
                # Whoever runs these tests in the background has Ctrl-C ignored, and so would they.
                "env", "--default-signal=INT", sys.executable, "-m", "pytest", "-c", "pyproject.toml",
                "-p", "fixtures.options", "-p", "no:cacheprovider", "-o", "testpaths=scenarios", "-m", "hw",
                "-k", selected, "--no-html",
                "--rtc-updates", "4", "--rtc-guests", "1", "--run-dir", str(self.folder / name),
                *words, *workers, *options,
            ],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
            env=os.environ | {"RTC_BENCH_CACHE": str(self.folder / "c"), "XDG_CACHE_HOME": str(self.folder / "x"),
                              "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.runs.append(run)
        return run

    @property
    def locks(self) -> list[str]:
        folder = self.folder / "x" / "rtc-bench" / "locks"
        return sorted(path.name for path in folder.glob("*.lock")) if folder.exists() else []

    def judged(self, name: str, bench: str = ".") -> dict[str, str]:
        """Updates and their verdicts."""
        found: dict[str, str] = {}
        for path in (self.folder / name / bench).glob("*/verdicts.jsonl"):
            for line in path.read_text().splitlines():
                verdict = json.loads(line)
                if verdict["role"] == "update":
                    found[verdict["item"]] = verdict["verdict"]
        return found

    def left(self) -> list[str]:
        """What still runs of these benches' hosts and guests."""
        return list(naming(self.folder).values())


@pytest.fixture
def spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spread]:
    from harness.guests.cache import default_cache_dir

    # Guests' images are made once for all tests; what belongs to these benches is apart.
    (tmp_path / "c").mkdir()
    for entry in default_cache_dir().iterdir():
        if entry.name != "benches":
            (tmp_path / "c" / entry.name).symlink_to(entry)
    found = Spread(tmp_path)
    yield found
    for run in found.runs:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()
    eventually(lambda: found.left() == [], "the end of all that the run had started")


def finish(run: subprocess.Popen[str]) -> str:
    try:
        return run.communicate(timeout=PATIENCE)[0]
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.communicate()


def test_each_bench_does_its_share_and_nothing_is_done_twice(spread: Spread) -> None:
    """And a second run on one of the benches is kept out meanwhile."""
    files = spread.files()
    run = spread.start("run", files, "--rtc-seed", "5", "--rtc-updates", "2")
    eventually(lambda: len(spread.locks) == 2, "both reservations")

    second = spread.start("second", files[:1])
    said_second = finish(second)
    said = finish(run)

    assert second.returncode == 10 and "the bench one is in use by" in said_second, said_second[-2000:]
    assert run.returncode == 0, said[-3000:]
    one, two = spread.judged("run", "one"), spread.judged("run", "two")
    assert one and two and not one.keys() & two.keys()
    assert one | two == dict.fromkeys(("running-0001", "halted-0001", "halted-0002"), "pass")
    assert "RTC-change events on two" in said and "one worker a bench: one (gw0), two (gw1)" in said
    assert "3 passed" in said
    assert spread.locks == []
    for name in ("one", "two"):
        assert json.loads((spread.folder / "run" / name / "run.json").read_text())["seed"] == 5


@pytest.mark.soak
def test_a_fault_on_one_bench_is_the_runs(spread: Spread) -> None:
    run = spread.start("run", spread.files(options="--full-events --window 1.6"))
    said = finish(run)

    assert run.returncode == 1, said[-3000:]
    assert set(spread.judged("run", "one").values()) == {"pass"}
    assert set(spread.judged("run", "two").values()) == {"product fault"}


@pytest.mark.soak
def test_a_bench_that_cannot_be_reached_costs_its_share_only(spread: Spread) -> None:
    nowhere = {"kind": "ssh", "address": "127.0.0.1", "port": 1, "connect_timeout": 2, "boot_timeout": 2}
    files = spread.files(power=None, host=nowhere)
    run = spread.start("run", files)
    said = finish(run)

    assert run.returncode == 10, said[-3000:]
    assert len(spread.judged("run", "one")) == 3
    assert spread.judged("run", "two") == {}
    assert spread.locks == []


@pytest.mark.soak
@pytest.mark.parametrize("whom", ["the controller", "all, as from a terminal"])
def test_after_ctrl_c_both_benches_are_given_back(spread: Spread, whom: str) -> None:
    run = spread.start("run", spread.files())
    eventually(lambda: spread.judged("run", "one") != {} and spread.judged("run", "two") != {}, "verdicts")

    if whom == "the controller":
        run.send_signal(signal.SIGINT)
    else:
        os.killpg(run.pid, signal.SIGINT)
    begun = time.monotonic()
    said = finish(run)

    assert run.returncode == 2, said[-3000:]
    assert time.monotonic() - begun < 60
    assert spread.locks == []
    assert "RTC-change events on all benches" in said


@pytest.mark.soak
def test_a_controller_that_is_killed_leaves_no_run_behind(spread: Spread) -> None:
    run = spread.start("run", spread.files())
    eventually(lambda: spread.judged("run", "one") != {} and spread.judged("run", "two") != {}, "verdicts")

    run.send_signal(signal.SIGKILL)
    run.communicate()
    waiting = bench_file(spread.folder, "one", reservation={"kind": "lock", "wait": 60})
    again = spread.start("again", [waiting])
    finish(again)

    assert len(spread.judged("again")) == 6
    eventually(lambda: spread.locks == [], "the end of the killed run's workers")


@pytest.mark.soak
def test_a_worker_that_is_killed_is_infrastructure_and_the_other_goes_on(spread: Spread) -> None:
    run = spread.start("run", spread.files())
    eventually(lambda: len(spread.locks) == 2, "both reservations")
    folder = spread.folder / "x" / "rtc-bench" / "locks"
    records = [json.loads(path.read_text()) for path in folder.glob("*.lock")]
    owners = {record["what"]: record["pid"] for record in records}
    os.kill(owners["the bench two"], signal.SIGKILL)
    said = finish(run)

    assert run.returncode == 10, said[-3000:]
    assert "worker 'gw1' crashed" in said
    # What it had switched on nobody switches off: the next run finds it on, and the lock void.
    again = spread.start("again", [spread.folder / "two.yaml"])
    said = finish(again)
    assert again.returncode == 0, said[-3000:]
    assert "the process is gone; it is taken over" in said
    subprocess.run(
        [sys.executable, "-m", "harness.rehearsal.loopback", "off",
         str(next((spread.folder / "c" / "benches").glob("two-*")))], cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
