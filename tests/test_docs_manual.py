"""The manual of the event service against the service: options, exit codes, names, signatures, fields, messages."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import harness.vm_event
from harness.vm_event import (
    EventStream,
    MonitorClient,
    RtcChange,
    RtcChangeSettler,
    SettledRtcChange,
    SharedRing,
    Tunnel,
    VmEventService,
    VmEventType,
    cli,
    serve,
)
from harness.vm_event.actions import RunCommands
from harness.vm_event.host_rtc import RTC_RD_TIME, HostRtc, SetHostRtc
from harness.vm_event.source import COUNTS, Source
from harness.vm_event.watch import describe
from tests.docs_support import DOCUMENTS, MANUAL, ROOT, blocks, code, rows, section
from tests.vm_event_support import NOON

TEXT = MANUAL.read_text()


@pytest.mark.parametrize("command", ["serve", "watch", "status"])
def test_the_options_are_those_of_the_command_line(command: str) -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "harness.vm_event", command, "--help"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    offered = re.findall(r"^  (--\S+(?: \S+)*)(?:  +|$)", help_text, re.MULTILINE)

    described = [code(cells[0])[0] for cells in rows(section(MANUAL, command))]

    assert described == offered


@pytest.mark.parametrize("document", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
def test_every_command_that_is_shown_is_one_that_is_taken(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "".join(block.text for block in blocks(document, "sh")).replace("\\\n", " ").splitlines()
    shown = [shlex.split(line, comments=True) for line in lines if "vm_event.pyz " in line]
    commands = [words[1:] for words in shown if words and words[0].endswith("vm_event.pyz")]

    assert commands or document != MANUAL
    for words in commands:
        try:
            cli._parser().parse_args(words)
        except SystemExit as end:
            assert end.code == 0, f"{words}: {capsys.readouterr().err}"


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    codes = {value for name, value in vars(cli).items() if name.startswith("EXIT_")}

    assert {int(cells[0]) for cells in rows(section(MANUAL, "Exit codes"))} == {0, 2, *codes}


def signature(function: Callable[..., object]) -> str:
    """How a function is called, without types."""
    of = inspect.signature(function)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in of.parameters.items()
        if name != "self"
    ]
    return str(of.replace(parameters=bare, return_annotation=inspect.Signature.empty)).replace("'", '"')


def test_the_actions_that_come_with_it_are_described_as_they_are_made() -> None:
    described = code(section(MANUAL, "In Python"))

    assert f"vm_event.actions.RunCommands{signature(RunCommands)}" in described
    for_tests_only = ", monotonic=<built-in function monotonic>"
    assert f"vm_event.host_rtc.SetHostRtc{signature(SetHostRtc)}".replace(for_tests_only, "") in described


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_the_methods_of_the_service_are_described_as_they_are_called() -> None:
    described: dict[str, str] = {}
    for cells in rows(section(MANUAL, "VmEventService")):
        for call in code(cells[0]):
            name, bracket, rest = call.partition("(")
            described[name] = (bracket + rest).partition(" -> ")[0]

    assert described.pop("VmEventService") == signature(VmEventService)
    assert set(described) == public(VmEventService)
    for name, call in described.items():
        if call:
            assert call == signature(getattr(VmEventService, name)), name


def test_every_name_of_the_package_is_described() -> None:
    spans = " ".join(code(section(MANUAL, "Python API") + section(MANUAL, "Errors")))

    assert [name for name in harness.vm_event.__all__ if not re.search(rf"\b{name}\b", spans)] == []


@pytest.mark.parametrize("kind", [EventStream, MonitorClient, RtcChangeSettler, Tunnel, SharedRing])
def test_what_is_described_of_a_class_is_there(kind: type) -> None:
    (cells,) = (cells for cells in rows(section(MANUAL, "Others")) if cells[0].startswith(f"`{kind.__name__}"))
    calls = re.findall(r"`\.?(?:[A-Z]\w+\.)?(\w+)\(", "".join(cells))
    calls = [call for call in calls if call != kind.__name__]

    assert calls
    assert [call for call in calls if not callable(getattr(kind, call, None))] == []


def test_a_source_is_described_as_the_service_uses_it() -> None:
    described = {
        span.partition("(")[0] for cells in rows(section(MANUAL, "Sources of your own")) for span in code(cells[0])
    }

    assert described == public(Source) | {"name"}


def test_the_settled_event_is_described_field_by_field() -> None:
    described = [code(cells[0])[0] for cells in rows(section(MANUAL, "The settled event"))]

    assert described == list(SettledRtcChange(1, 2, 1, 1, True, True, 1).as_json())
    assert set(described) - {"vm_event"} == set(SettledRtcChange.__slots__)


def names(value: Any) -> Iterator[str]:
    """The fields of the service's own choosing in a status."""
    for key, inner in value.items():
        yield key
        if key in ("sources", "actions"):
            for of_one in inner.values():
                yield from names(of_one)
        elif isinstance(inner, dict) and key != "last_event":
            yield from names(inner)


def new_year(_descriptor: int, request: int, argument: bytes | bytearray) -> None:
    """An RTC that shows the beginning of 2024, whatever it is set to."""
    if request == RTC_RD_TIME and isinstance(argument, bytearray):
        struct.pack_into("@9i", argument, 0, 0, 0, 0, 1, 0, 124, 0, 0, 0)


def test_the_status_is_described_field_by_field(tmp_path: Path) -> None:
    text = section(MANUAL, "Status") + section(MANUAL, "Acting on events")
    described = set(code(text))
    with VmEventService("vm0", window=0.05) as service:
        service.add_acrn_dm(tmp_path / "nobody")
        service.add_action("on-rtc-change", RunCommands([["true"]]))
        service.add_action("set-host-rtc", SetHostRtc(HostRtc("/dev/null", ioctl=new_year)))
        with service.events() as settled:
            service.start(tmp_path / "monitor")
            service.send(RtcChange(NOON, 1))
            settled.take(timeout=30)
            status = service.status()

    assert set(COUNTS) <= set(status)
    assert [name for name in names(status) if name not in described] == []
    assert set(status["actions"]) <= described
    fields = {span for cells in rows(section(MANUAL, "Status")) for span in code(cells[0])}
    assert fields <= set(names(status))


def test_what_stands_under_troubleshooting_is_what_is_said() -> None:
    """Of each message the words between names and numbers are somewhere in the sources."""
    sources = "".join(path.read_text() for path in (ROOT / "harness").rglob("*.py"))
    sources = re.sub(r'"\s+f?"', "", sources)  # strings over several lines
    for cells in rows(section(MANUAL, "Troubleshooting")):
        for message in code(cells[0]):
            for words in re.split(r"error: |PATH: |\b[A-Z]\b|…|: ", message):
                known = words in ("No such file or directory", "Connection refused")
                assert known or words.strip() in sources, message


def test_the_first_steps_go_as_they_are_told(tmp_path: Path) -> None:
    steps = section(MANUAL, "First steps")
    (fed,) = (span for span in code(steps) if span.startswith("{"))
    (printed,) = re.findall(r"^vm0/dm: .+$", TEXT, re.MULTILINE)
    with VmEventService("vm0", window=0.05) as service, service.events() as settled:
        service.start()
        serve._feed_line(service, fed.encode())
        event = settled.take(timeout=30)
        assert event is not None

    assert describe(event.as_json()) == printed


def test_what_the_layout_is_said_to_be_it_is() -> None:
    with SharedRing.create(shared=True) as ring:
        assert ring.descriptor is not None
        page = os.pread(ring.descriptor, 4096, 0)
        room = 0
        while ring.put(bytes(32)):
            room += 1

    assert f"{int.from_bytes(page[:8], 'little'):#x}" in TEXT
    words = [int.from_bytes(page[at : at + 4], "little") for at in range(8, 40, 4)]
    assert (words[0], words[1], words[7]) == (126, 32, 4032)
    assert "ele_num 126, ele_size 32" in TEXT and "size 4032" in TEXT
    assert f"It is full with {room} elements" in TEXT.replace("\n", " ")
    assert [kind.value for kind in VmEventType] == [0, 1, 2]
