"""Attached to guests that somebody else runs, as a user does it: every update is judged, and the guest left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from harness.judge.__main__ import main as judge_again
from reports.__main__ import main as report
from tests.attach_support import (
    HALTED,
    RUNNING,
    SomebodysGuest,
    attached,
    listens,
    records,
    rtc_writes,
    somebodys_guest,
    verdicts,
)
from tests.chain import ROOT, Run
from tests.hypervisor_support import hypervisor_process

pytestmark = pytest.mark.qemu


@dataclass
class Watched:
    """A guest, the run that was attached to it, and how that ended."""

    guest: SomebodysGuest
    run: Run
    status: int = -1


KINDS = ("dm", "hv", "tampered")


@dataclass
class Runs:
    """Guests that did the same at the same time, and runs attached to them that have ended:

    dm, by Ctrl-C in the middle of an update; hv, whose device model has a window of 0.5 s and was killed; tampered, by
    Ctrl-C, with a go-between that alters every event. idle: beside a guest that does nothing but power off.
    """

    watched: dict[str, Watched]
    idle: Watched


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """All of them, over."""
    folder = tmp_path_factory.mktemp("attach")
    with ExitStack() as stack:
        stack.enter_context(hypervisor_process(folder / "hypervisor.sock"))
        options = {"hv": ("--window", "0.5", "--vrtc", "hv", "--hypervisor", str(folder / "hypervisor.sock"))}
        guests = {
            # where the go-between looks for it
            kind: stack.enter_context(somebodys_guest(folder / kind / "vm0", *options.get(kind, ())))
            for kind in (*KINDS, "idle")
        }
        for kind in KINDS:
            guests[kind].write(*RUNNING[3:])  # nobody is listening yet
        proxied = folder / "tampered"
        command = [sys.executable, "-m", "tests.tampering_proxy", str(proxied), "--seed", "1", "--one-in", "1"]
        proxy = stack.enter_context(subprocess.Popen(command, cwd=ROOT))
        stack.callback(proxy.kill)
        through = {"tampered": ("--event-socket", str(proxied / "{vm}" / "proxy.sock"))}
        found = {}
        for kind, guest in guests.items():
            if kind in KINDS:
                guest.await_event()
            run = stack.enter_context(attached(folder / f"{kind}-run", guest.socket, *through.get(kind, ())))
            found[kind] = Watched(guest, run)
        for each in found.values():
            each.run.until(lambda each=each: listens(each.run), "registration")  # type: ignore[misc]
        idle = found.pop("idle")
        idle.guest.power_off()
        _do_things_with(found)
        idle.status = idle.run.wait()
        yield Runs(found, idle)


@pytest.fixture
def watched(runs: Runs) -> dict[str, Watched]:
    """The guests that did something, by kind."""
    return runs.watched


def _do_things_with(found: dict[str, Watched]) -> None:
    for count, writes in enumerate((RUNNING, HALTED), 1):
        for each in found.values():
            each.guest.write(*writes)
        for each in found.values():
            each.run.until(lambda each=each: len(_judged(each.run)) >= count, f"verdict {count}")  # type: ignore[misc]  # noqa: B023
    found["hv"].guest.kill()
    found["dm"].guest.write((0x07, 0x14))
    found["dm"].run.process.send_signal(signal.SIGINT)
    found["tampered"].run.process.send_signal(signal.SIGINT)
    for each in found.values():
        each.status = each.run.wait()


def _judged(run: Run) -> dict[str, str]:
    """Each update with its verdict; without those that an end of listening cut off."""
    return {item: record["verdict"] for item, record in verdicts(run).items() if not record.get("cut")}


def _is_status(each: Watched, otherwise: int) -> bool:
    """Whether the run ended with this exit status; on a machine that stood still it may not have been able to judge."""
    stood_still = "inconclusive" in _judged(each.run).values()
    return each.status == otherwise or (stood_still and each.status == 10)


@pytest.mark.parametrize("kind", ["dm", "hv"])
def test_each_update_is_judged_and_what_the_end_cut_off_is_said_so(watched: dict[str, Watched], kind: str) -> None:
    each = watched[kind]
    assert _is_status(each, 0 if kind == "dm" else 10), each.run.said
    told = verdicts(each.run)
    assert set(_judged(each.run).values()) <= {"pass", "inconclusive"}, each.run.said
    assert [record["mode"] for record in told.values()][:2] == ["running", "halted"]
    assert len(told) >= (3 if kind == "dm" else 2)
    for item in told:
        assert f" {item} " in each.run.said, "a line for each"
    cut = sum(record.get("cut", False) for record in told.values())
    assert (f"not judged       {cut} " in each.run.said) == bool(cut)


def test_nothing_is_written_to_the_guest_and_it_goes_on(watched: dict[str, Watched]) -> None:
    guest = watched["dm"].guest
    guest.write((0x07, 0x15))
    guest.end()
    written = rtc_writes(guest.folder / "trace.log")
    expected = [*RUNNING[3:], *RUNNING, *HALTED, (0x07, 0x14), (0x07, 0x15)]
    assert written[-len(expected) :] == expected
    assert "the guest is left as it is" in watched["dm"].run.said


@pytest.mark.parametrize("kind", KINDS)
def test_the_run_directory_is_complete_without_the_guest(
    watched: dict[str, Watched], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    each = watched[kind]
    each.guest.end()
    before = (each.guest.folder / "trace.log").rename(each.guest.folder / "elsewhere.log")
    try:
        status = judge_again([str(each.run.directory)])
        said = capsys.readouterr().out
        for item, record in verdicts(each.run).items():
            assert f"vm0  {item}  {record['verdict']}" in said
        assert status == (each.status if kind != "hv" or "inconclusive" in _judged(each.run).values() else 0)
        assert report([str(each.run.directory)]) == each.status
    finally:
        before.rename(each.guest.folder / "trace.log")
    assert each.run.information()["attached"]["socket"] == str(each.guest.socket)
    assert each.run.information()["ended"] is not None


def test_events_that_a_go_between_alters_are_faults_and_listed(watched: dict[str, Watched]) -> None:
    each = watched["tampered"]
    deeds = records(each.guest.folder / "tampered.jsonl")
    found = _judged(each.run)
    assert deeds and _is_status(each, 1), each.run.said
    assert set(found.values()) <= {"product fault", "inconclusive"}, each.run.said
    for item, verdict in found.items():
        if verdict == "product fault":
            assert f"product fault: vm0 {item}" in each.run.said, "the item fails with each of them"
    assert "--rtc-plan" not in each.run.said, "nobody planned it"


def test_the_window_is_that_of_the_guests_service_and_a_killed_device_model_is_no_product_fault(
    watched: dict[str, Watched],
) -> None:
    each = watched["hv"]
    assert each.status == 10, each.run.said
    assert each.run.information()["window_ns"] == 500_000_000
    assert "its device model ended and said not why (device-model-died)" in each.run.said


def test_a_guest_that_does_nothing_but_power_off_ends_the_run_in_order(runs: Runs) -> None:
    each = runs.idle
    assert each.status == 0, each.run.said
    assert "the guest ended" in each.run.said
    assert "vm0 did not set its RTC meanwhile: nothing was judged" in each.run.said
    (exit_record,) = each.run.records("exit.json")
    assert (exit_record["class"], exit_record["reason"]) == (None, "guest-shutdown")


def test_a_machine_that_stands_still_now_and_then_is_no_excuse_for_all_of_them(watched: dict[str, Watched]) -> None:
    assert "pass" in {*_judged(watched["dm"].run).values(), *_judged(watched["hv"].run).values()}
    assert "product fault" in _judged(watched["tampered"].run).values()
