"""Every program in the manual is run, as its reader would: from the one file, with nothing else installed."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.devicemodel.acrn_monitor import AcrnMonitor
from harness.vm_event import RtcChange, SettledRtcChange, VmEventService, VmEventType
from harness.vm_event.wire import encode
from tests.docs_support import MANUAL, Block, blocks
from tests.vm_event_program import BARE, build, running
from tests.vm_event_support import NOON, PATIENCE, Client, eventually

PROGRAMS = blocks(MANUAL, "python")
#: What the manual says they print: the block of text that follows the program.
OUTPUTS = dict(zip([block.name for block in PROGRAMS], [block.text for block in blocks(MANUAL, "text")], strict=False))
#: These wait for something to happen; their tests make it happen.
WAITING = {"follow.py", "decide.py"}
ALONE = [block for block in PROGRAMS if block.name not in WAITING]


class Place:
    """The paths of the manual, in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.archive = build(folder)
        self.monitor = folder / "monitor"
        self.acrn_dm = folder / "acrn-dm"
        self._folder = folder

    def command(self, block: Block) -> list[str]:
        """What runs a program of the manual."""
        text = block.text
        assert "/usr/local/bin/vm_event.pyz" in text
        for path, own in (
            ("/usr/local/bin/vm_event.pyz", self.archive),
            ("/run/vm_event/vm0/monitor", self.monitor),
            ("/run/acrn/vm0.sock", self.acrn_dm),
        ):
            text = text.replace(path, str(own))
        program = self._folder / str(block.name)
        program.write_text(text)
        return [sys.executable, *BARE, "-W", "error", str(program)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def is_served(path: Path) -> bool:
    """Whether somebody listens; the file alone is there a moment before."""
    try:
        Client(path).socket.close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def program(name: str) -> Block:
    (found,) = (block for block in PROGRAMS if block.name == name)
    return found


def test_every_program_has_a_name_of_its_own_and_an_output() -> None:
    names = [block.name for block in PROGRAMS]

    assert None not in names
    assert len(set(names)) == len(names) == len(blocks(MANUAL, "text"))
    assert set(names) >= WAITING


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, tuple[str, str, int]]:
    """What came of the programs that need nobody: output, complaints, exit code. They wait for windows, all at once."""
    with ExitStack() as processes:
        started = {
            block.name: processes.enter_context(running(Place(tmp_path_factory.mktemp("program")).command(block)))
            for block in ALONE
        }
        return {name: (*process.communicate(timeout=60), process.returncode or 0) for name, process in started.items()}


@pytest.mark.parametrize("name", [block.name for block in ALONE])
def test_a_program_prints_what_the_manual_says(printed: dict[str | None, tuple[str, str, int]], name: str) -> None:
    assert printed[name] == (OUTPUTS[name], "", 0)


def test_the_client_follows_what_the_service_tells(place: Place) -> None:
    with VmEventService("vm0", window=0.05) as service:
        service.start(place.monitor)
        with running(place.command(program("follow.py"))) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            service.send(RtcChange(NOON, 3600))
            said += process.stdout.readline()
            service.stop()
            rest, complaints = process.communicate(timeout=PATIENCE)

    assert (said + rest, complaints, process.returncode) == (OUTPUTS["follow.py"], "", 0)


def test_the_program_on_a_service_vm_decides_on_what_acrn_dm_tells(place: Place) -> None:
    acrn_dm = AcrnMonitor(place.acrn_dm, {"destroy": lambda argument: True})
    try:
        with running(place.command(program("decide.py"))) as process:
            assert process.stdout is not None
            eventually(lambda: is_served(place.monitor), "its monitor socket")
            with Client(place.monitor) as client:
                eventually(lambda: client.status()["sources"]["monitor"]["registered"], "acrn-dm to accept it")
                acrn_dm.publish(SettledRtcChange(NOON, NOON + 3600, 3600, 7))
                said = process.stdout.readline()
                acrn_dm.publish(SettledRtcChange(NOON, NOON + 31536000, 31536000, 7))
                said += process.stdout.readline()
                assert client.ask("destroy") == {"ack": -1}
    finally:
        acrn_dm.close()

    assert said == OUTPUTS["decide.py"]


def test_the_session_on_the_monitor_socket_goes_as_it_is_told(tmp_path: Path) -> None:
    (session,) = blocks(MANUAL, "monitor")
    happenings: dict[str, RtcChange | VmEventType] = {
        "sets its clock an hour ahead": RtcChange(NOON, 3600),
        "powers off": VmEventType.POWER_OFF,
    }
    happened = 0
    with VmEventService("vm0", window=0.05) as service:
        service.start(tmp_path / "monitor")
        with Client(tmp_path / "monitor") as first, Client(tmp_path / "monitor") as second:
            for line in session.text.splitlines():
                who, _, what = line.partition(" ")
                client = second if who.startswith("2") else first
                if who == "#":
                    for words, event in happenings.items():
                        happened += words in what and service.send(event)
                elif who.endswith(">"):
                    client.send(what.encode())
                else:
                    shown, more, _ = what.partition("…")
                    came = encode(client.receive()).decode().rstrip("\n")
                    assert came.startswith(shown) if more else came == shown

    assert happened == len(happenings)
