"""The saved state of a booted guest: made once, found again, proved before it is used, made anew when it is bad."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import InfrastructureError
from harness.guests import (
    ACRN,
    QEMU_KVM,
    QEMU_TCG,
    AgentRefused,
    Console,
    GuestImage,
    ImageSpec,
    LinuxGuest,
    Read,
    Write,
    prepare_image,
)
from harness.guests import snapshot as snapshot_module
from harness.guests.restored import RestoredGuest
from harness.guests.snapshot import Snapshot, prepare_snapshot, restoring
from harness.qemu.arguments import Machine
from harness.qemu.migration import Incoming
from harness.qemu.process import Qemu
from tests.chain import Run, bench_text, running

pytestmark = pytest.mark.qemu

PATIENCE = 120.0
BASE = 1_718_452_800
HYPERVISOR = (QEMU_TCG, QEMU_KVM)
OWN_NONCE = "0123456789abcdef"


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return prepare_image(ImageSpec(), None, Deadline(PATIENCE))


@pytest.fixture(scope="module")
def machine(image: GuestImage) -> Machine:
    return Machine(kernel=image.kernel, initrd=image.initrd, rtc_time=BASE, reboot=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def made(machine: Machine, image: GuestImage, cache: Path) -> Snapshot:
    """The one snapshot that most tests share."""
    return prepare_snapshot(machine, image, HYPERVISOR, cache, Deadline(PATIENCE))


@contextmanager
def restored(machine: Machine, image: GuestImage, snapshot: Snapshot, folder: Path) -> Iterator[RestoredGuest]:
    """A guest that goes on from the snapshot."""
    incoming = Incoming()
    with Qemu(restoring(machine, image, snapshot), on_event=incoming.event) as qemu, ExitStack() as stack:
        incoming.load(qemu, snapshot.file, Deadline(PATIENCE))
        qemu.qmp.execute("cont", Deadline(PATIENCE))
        console = Console(qemu.console.dup(), folder / "console.log")
        guest = RestoredGuest(console, nonce=OWN_NONCE, saved_nonce=snapshot.nonce, hypervisor=HYPERVISOR)
        stack.callback(guest.close)
        guest.boot(Deadline(PATIENCE))
        yield guest


def test_it_is_made_once_and_says_what_the_rtc_held(
    made: Snapshot, machine: Machine, image: GuestImage, cache: Path
) -> None:
    assert prepare_snapshot(machine, image, HYPERVISOR, cache, Deadline(PATIENCE)) == made
    assert (made.register_a, made.register_b) == (0x26, 0x02)
    assert BASE <= made.rtc_time < BASE + PATIENCE


def test_a_guest_from_it_has_the_rtc_of_the_other_one_and_a_nonce_of_its_own(
    made: Snapshot, machine: Machine, image: GuestImage, tmp_path: Path
) -> None:
    with restored(machine, image, made, tmp_path) as guest:
        report = guest.run("item", [Read(0x09), Read(0x0B), Write(0x09, 0x25), Read(0x09)], Deadline(PATIENCE))
        assert [value for _, value, _ in report.reads] == [0x24, made.register_b, 0x25]
        # the nonce that many guests share is good for nothing any more
        guest._nonce = made.nonce
        with pytest.raises(AgentRefused) as refused:
            guest.command("info", Deadline(PATIENCE))
        assert refused.value.reason == "nonce"


def test_a_damaged_one_is_made_anew_and_never_used(machine: Machine, image: GuestImage, tmp_path: Path) -> None:
    # given a snapshot in which one byte has changed
    before = prepare_snapshot(machine, image, HYPERVISOR, tmp_path, Deadline(PATIENCE))
    with before.file.open("r+b") as state:
        state.seek(before.file.stat().st_size // 2)
        byte = state.read(1)[0]
        state.seek(-1, 1)
        state.write(bytes([byte ^ 1]))
    # when it is wanted again, then there is another one in its place, which works
    after = prepare_snapshot(machine, image, HYPERVISOR, tmp_path, Deadline(PATIENCE))
    assert after.file == before.file and after.nonce != before.nonce


def test_what_it_depends_on_is_in_its_name(machine: Machine, image: GuestImage, tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"one")
    own = replace(machine, kernel=kernel)
    names = [
        snapshot_module._key(each, image, Deadline(PATIENCE))
        for each in (machine, replace(machine, memory=128), replace(machine, machine="q35"), own)
    ]
    kernel.write_bytes(b"other")
    names.append(snapshot_module._key(own, image, Deadline(PATIENCE)))
    names.append(snapshot_module._key(machine, replace(image, append="quiet"), Deadline(PATIENCE)))
    names.append(snapshot_module._key(replace(machine, rtc_time=0), image, Deadline(PATIENCE)))
    assert len(set(names)) == len(names)
    assert names[0] == snapshot_module._key(machine, image, Deadline(PATIENCE))


def test_of_a_guest_that_halts_its_rtc_none_is_made(
    machine: Machine, image: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = LinuxGuest.boot

    def boot_and_halt(guest: LinuxGuest, deadline: Deadline) -> None:
        boot(guest, deadline)
        guest.run("halt", [Write(0x0B, 0x82)], deadline)

    monkeypatch.setattr(LinuxGuest, "boot", boot_and_halt)
    with pytest.raises(InfrastructureError, match="registers A and B"):
        prepare_snapshot(machine, image, HYPERVISOR, tmp_path, Deadline(PATIENCE))
    assert not list(tmp_path.glob("snapshot/*/state"))


@pytest.fixture(scope="module", autouse=True)
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Two runs on guests that are to be restored, begun with the first test of this file: they mostly wait.

    possible: on the usual guest. impossible: on one that shows another hypervisor than the bench accepts.
    """
    benches = {"possible": bench_text(restore=True), "impossible": bench_text(restore=True, hypervisor=[ACRN])}
    options = ("--rtc-updates", "1", "-k", "random_order and dm and not pauses")
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(running(tmp_path_factory.mktemp(name), *options, bench=bench))
            for name, bench in benches.items()
        }


def test_updates_of_a_restored_guest_are_judged_like_any(begun: dict[str, Run]) -> None:
    run = begun["possible"]
    assert run.wait() in {0, 10}, run.said  # what a busy machine spoils is repeated, and at times too often
    run.assert_nothing_left()
    # its vRTC began with what the other one's held
    assert run.information()["guests"]["pc-1"]["restored"] is True
    verdicts = [record["verdict"] for record in run.records("verdicts.jsonl")]
    assert verdicts.count("pass") >= 2 and set(verdicts) <= {"pass", "inconclusive"}
    first = (run.directory / "pc-1" / "trace.log").read_text(encoding="utf-8").partition("\n")[0]
    assert '"register_a": 38, "register_b": 2' in first


def test_a_guest_that_cannot_be_restored_boots_and_the_run_says_so(begun: dict[str, Run]) -> None:
    run = begun["impossible"]
    assert run.wait() == 10
    # it is booted all the same, and refused for the same reason
    assert "note: pc: booted, since no state to restore it from is to be had: the agent" in run.said
    assert run.information()["guests"]["pc-1"]["restored"] is False
